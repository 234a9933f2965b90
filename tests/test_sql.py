"""SQL for analysts: every view, macro, named query and example runs; what is refused; what the caps stop; the command."""

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import lifelines
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner

import sql
from feature_store.analyst import analyst_connection
from feature_store.contract import Contract
from feature_store.errors import QueryError, SnapshotMissingError, StoreMissingError
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import Write, publish, publish_cohort
from feature_store.synthetic import SyntheticConfig, write_landing
from feature_store.tables import EVALUATIONS, PREDICTIONS
from mice_cli.sql_command import sql as sql_command
from sql.header import parse

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
RUNAWAY = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 1"


def model_rows(case_ids, version, study="demo"):
    """Predictions of six held-out cases per fold, and the evaluation of two models."""
    n = len(case_ids)
    common = {"model_version": version, "study": study, "snapshot_id": 2, "protocol": "test"}
    predictions = pl.DataFrame(
        {
            "case_id": case_ids,
            "cohort": ["synthetic"] * n,
            "cancer_type": ["amber"] * n,
            "endpoint": ["os"] * n,
            "fold": [index % 2 for index in range(n)],
            "risk_score": [float(index) for index in range(n)],
            "survival": [[0.9, 0.5]] * n,
            "bin_edges_days": [[400.0]] * n,
            "experts": [[0.75, 0.0, 0.25], [0.5, 0.5, 0.0]] * (n // 2),
            "missing_modalities": [""] * n,
            "encoders": ["slide=synthetic"] * n,
        }
    ).with_columns(**{name: pl.lit(value) for name, value in common.items()})
    evaluations = pl.DataFrame(
        {
            "cancer_type": ["amber"] * 3,
            "model": ["mice", "cox", "rsf"],
            "c_index": [0.70, 0.65, 0.72],
            "c_index_low": [0.6] * 3,
            "c_index_high": [0.8] * 3,
            "num_cases": [n] * 3,
            "num_events": [5] * 3,
        }
    ).with_columns(training_set_id=pl.lit("t"), **{name: pl.lit(value) for name, value in common.items()})
    return [
        Write(PREDICTIONS, version, PREDICTIONS.conform(predictions)),
        Write(EVALUATIONS, version, EVALUATIONS.conform(evaluations)),
    ]


@pytest.fixture(scope="session")
def sql_home(tmp_path_factory):
    """A store of 60 synthetic cases and two model versions, in a folder whose name has a quote."""
    home = Home(tmp_path_factory.mktemp("it's") / "home")
    config = SyntheticConfig(num_cases=60, num_genes=40, slide_dim=16, mean_patches=20)
    raw = yaml.safe_load((ROOT / "cohorts" / "synthetic.yaml").read_text(encoding="utf-8"))
    raw["slides"][0]["encoder"]["dim"] = 16
    raw["max_quarantined_fraction"] = 0.5
    landing = write_landing(home.landing / "synthetic", config)
    lake = Lake(home)
    staged = stage(Contract.model_validate(raw), landing, home)
    publish_cohort(lake, staged, "synthetic")
    case_ids = staged.table("cases").filter(pl.col("cancer_type") == "amber").sort("case_id")["case_id"].to_list()[:12]
    for version in ("old", "new"):
        publish(lake, model_rows(case_ids, version), f"publish predictions of {version}")
        time.sleep(1.1 if version == "old" else 0)  # publications are dated to the second
    return home


@pytest.fixture(scope="session")
def staged_tables(sql_home):
    (folder,) = (path for path in (sql_home.staging / "synthetic").iterdir() if path.is_dir())
    return {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def analyst(sql_home):
    with analyst_connection(sql_home, memory_limit="500MB") as connection:
        yield connection


@pytest.fixture(scope="session")
def slide_id(staged_tables):
    return staged_tables["patch_bags"]["slide_id"].min()


@pytest.fixture(scope="session")
def patch(sql_home, slide_id):
    with analyst_connection(sql_home) as connection:
        return rows(connection, "SELECT x, y FROM patches_of($slide) ORDER BY y, x LIMIT 1", {"slide": slide_id})[0]


def rows(analyst, query, parameters=None):
    return analyst.query(query, parameters).to_pylist()


# --- the sql/ package ---

HEADER = "-- purpose: p\n-- grain: g\n-- parameters: {parameters}\n-- columns:\n--   a (days): A.\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("SELECT 1", "no purpose in the header"),
        (HEADER.format(parameters="none").replace("-- grain: g\n", "") + "SELECT 1 AS a", "no grain in the header"),
        (HEADER.format(parameters="none"), "no SELECT"),
        (HEADER.format(parameters="none") + "SELECT 1 AS a; DROP TABLE x", "a semicolon"),
        (HEADER.format(parameters="$b (text)") + "SELECT 1 AS a", r"parameter `\$b \(text\)`"),
        (HEADER.format(parameters="$b (date): B.") + "SELECT $b AS a", "expected .* type integer, number, text"),
        (HEADER.format(parameters="b (text): B.") + "SELECT b AS a", r"expected `\$name"),
        (HEADER.format(parameters="$b (text): B.") + "SELECT 1 AS a", "b declared and none used"),
        (HEADER.format(parameters="none") + "SELECT $c AS a", "none declared and c used"),
        ("-- purpose: p\n-- puprose: p\nSELECT 1", "header line `-- puprose: p`"),
        (HEADER.format(parameters="none").replace("A.\n", "A.\n--   no colon\n") + "SELECT 1 AS a", "column `no colon`"),
    ],
)
def test_a_malformed_file_is_named(source, message):
    with pytest.raises(sql.NamedQueryError, match=rf"sql/broken\.sql: .*{message}"):
        parse("broken", source)


def test_a_good_file_is_read():
    text = "SELECT ';$no' AS a -- $neither\nWHERE 1 = $b OR $c > 1"
    found = parse("good", HEADER.format(parameters="\n--   $b (integer): B.\n--   $c (number, optional): C.") + text)
    assert found.text == text
    assert found.columns == (sql.Field("a", "days", "A."),)
    assert found.columns[0].comment == "A. [days]"
    assert [(p.name, p.type, p.is_optional) for p in found.parameters] == [("b", "integer", False), ("c", "number", True)]
    assert found.bind({"b": "3"}) == {"b": 3, "c": None}
    for values, message in ({}, "no value for parameter b"), ({"b": "x"}, "b = 'x', expected integer"), ({"d": 1}, "parameter d"):
        with pytest.raises(sql.NamedQueryError, match=message):
            found.bind(values)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(
        sql.NamedQueryError, match="query nope: not found, expected censoring_by_site, cohort_drift, cohort_summary, coverage"
    ):
        sql.load("nope")


def test_the_package_is_light():
    code = "import sys, sql; sql.definitions(); print([m for m in ('polars', 'duckdb', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- views, macros, named queries, examples ---


@pytest.mark.parametrize("name", sql.names("view"))
def test_view_has_its_columns_and_comments(analyst, name):
    view = sql.load(name, "view")
    found = analyst.query(f"FROM {name}")
    assert found.num_rows > 0
    assert found.column_names == [column.name for column in view.columns]
    comments = rows(analyst, "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = $name", {"name": name})
    assert {row["column_name"]: row["comment"] for row in comments} == {c.name: c.comment for c in view.columns}
    assert (
        rows(analyst, "SELECT comment FROM duckdb_views() WHERE view_name = $name", {"name": name})[0]["comment"] == view.purpose
    )


@pytest.mark.parametrize("name", sql.names())
def test_named_query_has_its_columns(analyst, name):
    query = sql.load(name)
    found = analyst.query(query.text, query.bind({}))
    assert found.num_rows > 0
    assert found.column_names == [column.name for column in query.columns]
    for parameter in query.parameters:
        nothing = analyst.query(query.text, query.bind({parameter.name: "O'Brien'; DROP TABLE cases; --"}))
        assert nothing.num_rows == 0 or name in {"cohort_summary", "cohort_drift"}  # which list cases without the endpoint too


@pytest.mark.parametrize("name", sql.names("macro"))
def test_macro_has_its_columns(analyst, slide_id, patch, name):
    macro = sql.load(name, "macro")
    of_patch = [slide_id, patch["x"], patch["y"], 3]
    arguments = {"patches_of": [slide_id], "similar_patches": of_patch, "copy_number_of": ["17p"]}.get(name, ["TP53"])
    found = analyst.query(f"FROM {name}({', '.join('?' * len(arguments))})", arguments)
    assert found.num_rows > 0
    assert found.column_names == [column.name for column in macro.columns]


@pytest.mark.parametrize("example", re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL))
def test_example_runs(analyst, slide_id, patch, example):
    known = {"slide_id": slide_id, "cohort": "synthetic", **patch}
    used = {name: known[name] for name in set(re.findall(r"\$(\w+)", example))}
    assert analyst.query(example, used).num_rows > 0


def test_docs_name_every_column():
    for query in [*sql.definitions(), *map(sql.load, sql.names())]:
        title = query.name if query.kind != "macro" else f"{query.name}({', '.join(p.name for p in query.parameters)})"
        section = DOCS.split(f"### {title}\n")[1].split("\n### ")[0]
        assert query.purpose in section
        for column in query.columns:
            assert f"| `{column.name}` | {column.unit} | {column.description} |\n" in section
        for parameter in query.parameters:
            assert parameter.description in section


# --- values ---


def test_case_overview_against_the_tables(analyst, staged_tables):
    found = pl.DataFrame(analyst.query("FROM case_overview")).sort("case_id")
    assert found["case_id"].to_list() == sorted(staged_tables["cases"]["case_id"])
    present = staged_tables["modality_matrix"].filter(pl.col("state") == "present").sort("modality")
    expected = dict(present.group_by("case_id", maintain_order=True).agg("modality").rows())
    assert dict(found.select("case_id", "modalities").rows()) == expected
    os = staged_tables["endpoints"].filter(pl.col("endpoint") == "os")
    assert dict(found.drop_nulls("os_days").select("case_id", "os_days").rows()) == dict(
        os.select("case_id", "duration_days").rows()
    )
    np.testing.assert_allclose(found["os_years"].drop_nulls(), found["os_days"].drop_nulls() / 365.25)
    assert found["num_patches"].sum() == staged_tables["patch_bags"]["num_patches"].sum()


def test_survival_is_wide(analyst, staged_tables):
    found = pl.DataFrame(analyst.query("FROM survival"))
    for endpoint in ("os", "pfi"):
        long = staged_tables["endpoints"].filter(pl.col("endpoint") == endpoint)
        wide = found.drop_nulls(f"{endpoint}_days").select("case_id", f"{endpoint}_days", f"{endpoint}_event_observed")
        assert sorted(wide.rows()) == sorted(long.select("case_id", "duration_days", "event_observed").rows())
    assert found["dss_days"].null_count() == found.height


def test_coverage_counts(analyst, staged_tables):
    found = {row["modality"]: row for row in rows(analyst, "FROM modality_coverage")}
    for (modality,), part in staged_tables["modality_matrix"].group_by("modality"):
        assert found[modality]["num_present"] == (part["state"] == "present").sum()
        assert found[modality]["num_failed_check"] == (part["state"] == "failed_check").sum()
        assert found[modality]["share_present"] == pytest.approx((part["state"] == "present").mean())
    by_type = pl.DataFrame(analyst.query(sql.load("coverage").text, {"cohort": None}))
    num_rna = (by_type["share_rna"] * by_type["num_cases"]).sum()
    assert num_rna == pytest.approx(found["rna"]["num_present"])


@pytest.mark.parametrize(
    ("macro", "table", "feature"), [("gene_expression", "rna", "tp53"), ("copy_number_of", "copy_number", "17P")]
)
def test_a_feature_is_taken_from_its_place_in_the_panel(analyst, staged_tables, macro, table, feature):
    panels = staged_tables["gene_panels"].filter(pl.col("modality") == table)
    position = dict(panels.select(pl.col("feature").str.to_lowercase(), "position").rows())[feature.lower()]
    expected = {row["case_id"]: row["values"][position] for row in staged_tables[table].iter_rows(named=True)}
    found = rows(analyst, f"FROM {macro}($feature)", {"feature": feature})
    got = {row["case_id"]: np.nan if row["value"] is None else row["value"] for row in found}
    assert got.keys() == expected.keys()
    for case_id, value in expected.items():
        np.testing.assert_equal(got[case_id], value)
    types = dict(staged_tables["cases"].select("case_id", "cancer_type").rows())
    assert all(row["cancer_type"] == types[row["case_id"]] and row["unit"] == panels["unit"][0] for row in found)
    assert rows(analyst, f"FROM {macro}($feature)", {"feature": "nothing'; DROP TABLE cases; --"}) == []


def test_mutated_says_no_only_of_sequenced_cases(analyst, staged_tables):
    found = {row["case_id"]: row for row in rows(analyst, "FROM mutated('tp53')")}
    matrix = staged_tables["modality_matrix"].filter((pl.col("modality") == "mutations") & (pl.col("state") == "present"))
    assert found.keys() == set(matrix["case_id"])
    counts = dict(staged_tables["mutations"].filter(pl.col("gene_symbol") == "TP53").group_by("case_id").len().rows())
    assert {case_id: row["num_variants"] for case_id, row in found.items() if row["is_mutated"]} == counts


def test_patches_are_those_of_the_source(analyst, sql_home, staged_tables, slide_id):
    for slide in (slide_id, staged_tables["patch_bags"]["slide_id"].max()):
        found = rows(analyst, "FROM patches_of($slide)", {"slide": slide})
        with h5py.File(sql_home.landing / "synthetic" / "slides" / f"{slide}.h5") as file:
            features, coords = np.squeeze(file["features"][:]), np.squeeze(file["coords"][:])
        order = [tuple(xy) for xy in coords.tolist()]
        assert sorted(order) == sorted((row["x"], row["y"]) for row in found)
        by_place = {(row["x"], row["y"]): row["embedding"] for row in found}
        np.testing.assert_array_equal(np.array([by_place[xy] for xy in order]), features.astype(np.float16).astype(np.float32))
        assert {(row["slide_id"], row["encoder"]) for row in found} == {(slide, staged_tables["patch_bags"]["encoder"][0])}
    with pytest.raises(QueryError, match="no bag of slide O'Brien in this snapshot"):
        analyst.query("FROM patches_of($slide)", {"slide": "O'Brien"})


def test_follow_up_is_the_reverse_kaplan_meier_median(analyst, staged_tables):
    query = sql.load("cohort_summary")
    joined = staged_tables["cases"].join(staged_tables["endpoints"].filter(pl.col("endpoint") == "os"), on="case_id")
    for row in rows(analyst, query.text, query.bind({"cohort": "synthetic"})):
        part = joined.filter(pl.col("cancer_type") == row["cancer_type"])
        fitter = lifelines.KaplanMeierFitter().fit(part["duration_days"].to_numpy(), ~part["event_observed"].to_numpy())
        expected = fitter.median_survival_time_
        assert row["median_follow_up_days"] == (None if np.isinf(expected) else expected)
        assert (row["num_with_endpoint"], row["num_events"]) == (part.height, part["event_observed"].sum())


def test_censoring_by_site_adds_up(analyst, staged_tables):
    query = sql.load("censoring_by_site")
    found = pl.DataFrame(analyst.query(query.text, query.bind({"endpoint": "pfi"})))
    pfi = staged_tables["endpoints"].filter(pl.col("endpoint") == "pfi")
    assert found["num_cases"].sum() == pfi.height
    assert found["num_censored"].sum() == (~pfi["event_observed"]).sum()
    np.testing.assert_allclose(found["share_censored_in_cohort"], (~pfi["event_observed"]).mean())


def test_models_are_the_latest(analyst):
    assert {row["model_version"] for row in rows(analyst, "FROM risk")} == {"new"}
    assert rows(analyst, "SELECT count(*) AS n FROM risk")[0]["n"] == 12
    query = sql.load("model_comparison")
    found = {row["model"]: row for row in rows(analyst, query.text, query.bind({}))}
    assert {name: row["rank"] for name, row in found.items()} == {"rsf": 1, "mice": 2, "cox": 3}
    assert found["cox"]["difference_to_mice"] == pytest.approx(-0.05)


def test_routing_and_risk_thirds(analyst):
    query = sql.load("expert_routing")
    found = {
        row["expert"]: (row["mean_weight"], row["share_routed"], row["num_cases"])
        for row in rows(analyst, query.text, query.bind({}))
    }
    assert found == {1: (0.625, 1.0, 12), 2: (0.25, 0.5, 12), 3: (0.125, 0.5, 12)}
    query = sql.load("risk_against_outcome")
    thirds = rows(analyst, query.text, query.bind({"study": "demo"}))
    with_outcome = rows(analyst, "SELECT count(*) AS n, sum(event_observed::INT) AS e FROM risk WHERE duration_days IS NOT NULL")[
        0
    ]
    assert [row["risk_third"] for row in thirds] == [1, 2, 3]
    assert (sum(r["num_cases"] for r in thirds), sum(r["num_events"] for r in thirds)) == (with_outcome["n"], with_outcome["e"])


def test_quarantine_counts(analyst, staged_tables):
    query = sql.load("quarantine_reasons")
    assert sum(row["num_rows"] for row in rows(analyst, query.text, query.bind({}))) <= staged_tables["quarantine"].height
    of_cohort = rows(analyst, query.text, query.bind({"cohort": "synthetic"}))
    assert {row["cohort"] for row in of_cohort} <= {"synthetic", "synthetic:unassigned"}


# --- what is refused ---

REFUSED = [
    ("SELECT * FROM read_csv('/etc/passwd')", "table function read_csv"),
    ("SELECT * FROM read_text('/etc/passwd')", "table function read_text"),
    ("SELECT * FROM '/etc/passwd'", "does not exist"),
    ("SELECT * FROM '/etc/passwd.csv'", "Permission"),
    ("SELECT * FROM read_parquet('/etc/passwd')", "Permission"),
    ("SELECT * FROM read_parquet('{tables}/../catalog.sqlite')", "query: "),
    ("SELECT * FROM glob('/etc/*')", "table function glob"),
    ("SELECT * FROM sqlite_scan('{other}', 't')", "table function sqlite_scan"),
    ("SELECT * FROM \"SQLite_Scan\"('{other}', 't')", "table function sqlite_scan"),
    ("WITH a AS (SELECT (SELECT max(x) FROM sqlite_scan('{other}', 't'))) FROM a", "table function sqlite_scan"),
    ("EXPLAIN ANALYZE SELECT * FROM sqlite_scan('{other}', 't')", "table function sqlite_scan"),
    ("DESCRIBE SELECT * FROM sqlite_scan('{other}', 't')", "table function sqlite_scan"),
    ("SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')", "table function query"),
    ("SELECT * FROM json_execute_serialized_sql('x')", "table function json_execute_serialized_sql"),
    ("SELECT * FROM sqlite_query('__ducklake_metadata_lake', 'SELECT 1')", "table function sqlite_query"),
    ("SELECT * FROM ducklake_cleanup_old_files('lake', cleanup_all => true)", "table function ducklake_cleanup_old_files"),
    ("SELECT * FROM lake.expire_snapshots(older_than => now())", "table function expire_snapshots"),
    ("SELECT * FROM enable_logging()", "table function enable_logging"),
    ("SELECT * FROM home", "does not exist"),  # a Python variable in reach of DuckDB's replacement scan
    ("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)", "CALL"),
    ("COPY cases TO '{bags}/stolen.csv'", "COPY"),
    ("COPY cases TO '/tmp/stolen.csv'", "COPY"),
    ("EXPLAIN ANALYZE COPY cases TO '{bags}/stolen.csv'", "COPY"),
    ("EXPLAIN -- SELECT 1\n ANALYZE COPY cases TO '{bags}/stolen.csv'", "query: "),
    ("EXPORT DATABASE '{bags}'", "EXPORT"),
    ("INSTALL httpfs", "LOAD"),
    ("LOAD httpfs", "LOAD"),
    ("ATTACH ':memory:' AS other", "ATTACH"),
    ("ATTACH '{other}' AS other (TYPE sqlite)", "ATTACH"),
    ("DETACH lake", "DETACH"),
    ("USE memory", "SET"),
    ("SET memory_limit = '100GB'", "SET"),
    ("RESET memory_limit", "SET"),
    ("SET VARIABLE bag_shards = NULL", "SET"),
    ("PRAGMA memory_limit = '100GB'", "SET"),
    ("PRAGMA enable_profiling", "PRAGMA"),
    ("PRAGMA disable_optimizer", "PRAGMA"),
    ("DELETE FROM cases", "DELETE"),
    ("UPDATE cases SET site = 'x'", "UPDATE"),
    ("INSERT INTO cases SELECT * FROM cases", "INSERT"),
    ("DROP TABLE cases", "DROP"),
    ("ALTER TABLE cases ADD COLUMN x INT", "ALTER"),
    ("CREATE TABLE memory.main.x AS SELECT 1", "CREATE"),
    ("CREATE OR REPLACE TEMP MACRO patches_of(s) AS TABLE SELECT 1", "CREATE"),
    ("BEGIN", "TRANSACTION"),
    ("CHECKPOINT", "CALL"),
    ("VACUUM", "VACUUM"),
    ("PREPARE p AS DELETE FROM cases", "PREPARE"),
    ("PIVOT cases ON cancer_type USING count(*)", "CREATE and SELECT, expected one SELECT"),
    ("SELECT 1; DROP TABLE cases", "SELECT and DROP, expected one SELECT"),
    ("SELECT 1; SELECT 2", "SELECT and SELECT, expected one SELECT"),
    ("", "no statement, expected one SELECT"),
    ("-- nothing", "no statement, expected one SELECT"),
    ("SELEC 1", "Parser Error: syntax error"),
    ("SELECT * FROM csaes", 'Did you mean "cases"'),
    ("SELECT 'x'::INT", "Conversion Error"),
    ("SELECT $missing", "missing"),
]


@pytest.mark.parametrize(("query", "message"), REFUSED)
def test_refused(analyst, sql_home, tmp_path, query, message):
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t(x)")
    connection.close()
    before = sorted(path for path in sql_home.bags.rglob("*"))
    text = query.format(other=other, bags=str(sql_home.bags).replace("'", "''"), tables=str(sql_home.tables).replace("'", "''"))
    if message.isupper():  # a kind of statement
        message = f"query: {message}, expected one SELECT"
    with pytest.raises(QueryError, match=re.escape(message)) as caught:
        analyst.query(text)
    assert "\n" not in str(caught.value)
    assert sorted(path for path in sql_home.bags.rglob("*")) == before
    assert not Path("/tmp/stolen.csv").exists()
    assert rows(analyst, "SELECT count(*) > 0 AS is_whole FROM cases")[0]["is_whole"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1;",
        "VALUES (1)",
        "TABLE cases",
        "SHOW TABLES",
        "PRAGMA show_tables",
        "DESCRIBE case_overview",
        "SUMMARIZE clinical",
        "EXPLAIN SELECT * FROM cases",
        "EXPLAIN ANALYZE FROM case_overview",
        "FROM (PIVOT cases ON cancer_type IN ('amber') USING count(*) GROUP BY cohort)",
        "SELECT count(*) FROM cases AT (VERSION => 2)",
        "SELECT unnest([1, 2])",
        "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 5) FROM r",
    ],
)
def test_allowed(analyst, query):
    assert analyst.query(query).num_rows > 0


def test_deep_nesting_is_refused(analyst):
    with pytest.raises(QueryError, match=r"nested|expression depth"):
        analyst.query("SELECT " + " + ".join(["1"] * 900))


@pytest.mark.parametrize("value", ["O'Brien", "'; DROP TABLE cases; --", '"; x', "$cohort", "\\'", "naïve 🧬"])
def test_parameters_are_values(analyst, value):
    assert rows(analyst, "SELECT $v AS v, count(*) AS n FROM cases WHERE cohort = $v", {"v": value}) == [{"v": value, "n": 0}]
    assert rows(analyst, "SELECT ? AS v", [value]) == [{"v": value}]
    assert rows(analyst, "SELECT count(*) AS n FROM mutated($v) WHERE is_mutated", {"v": value}) == [{"n": 0}]


# --- caps ---


@pytest.mark.parametrize(
    "query", [RUNAWAY, "WITH RECURSIVE r AS (SELECT 1 x UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"]
)
def test_a_runaway_query_is_stopped(sql_home, query):
    with analyst_connection(sql_home, timeout_s=1.5) as analyst:
        start = time.monotonic()
        with pytest.raises(QueryError, match=r"still running after the time cap of 1\.5 s"):
            analyst.query(query)
        assert time.monotonic() - start < 3
        assert rows(analyst, "SELECT 1 AS x") == [{"x": 1}]


def test_time_goes_on_while_the_result_is_read(sql_home):
    with analyst_connection(sql_home, timeout_s=0.7) as analyst:
        with pytest.raises(QueryError, match="time cap"), analyst.stream("FROM range(100000000000)") as found:
            for _ in found.batches:
                pass
        with analyst.stream("FROM range(100000000)") as found:
            next(found.batches)
            time.sleep(1)
            with pytest.raises(QueryError, match="time cap"):
                next(found.batches)
        with analyst.stream("FROM range(100000000)") as found:  # left early: the next query is not hit by its timer
            next(found.batches)
        time.sleep(0.8)
        assert rows(analyst, "SELECT 1 AS x") == [{"x": 1}]


def test_memory_cap(sql_home):
    with analyst_connection(sql_home, memory_limit="150MB") as analyst:
        with pytest.raises(QueryError, match=r"Out of Memory Error.* raise the memory cap of 150MB"):
            analyst.query("SELECT list(range) FROM range(100000000)")
        with pytest.raises(QueryError, match="Out of Memory Error"):  # a sort would spill, if it could
            analyst.query("FROM range(50000000) ORDER BY random() LIMIT 1 OFFSET 40000000")
        assert rows(analyst, "SELECT 1 AS x") == [{"x": 1}]
    with pytest.raises(QueryError, match="setting up memory_limit"), analyst_connection(sql_home, memory_limit="lots"):
        pass


def test_result_cap(analyst, monkeypatch):
    monkeypatch.setattr("feature_store.analyst.MAX_RESULT_BYTES", 1 << 20)
    with pytest.raises(QueryError, match="a result of over 1 MiB"):
        analyst.query("FROM range(1000000)")


def test_a_writer_commits_while_an_analyst_reads(sql_home):
    lake = Lake(sql_home)
    with lake.reader() as connection:
        case_ids = [row[0] for row in connection.execute("SELECT case_id FROM cases ORDER BY case_id LIMIT 2").fetchall()]
    with analyst_connection(sql_home, timeout_s=60) as analyst:
        before = rows(analyst, "FROM latest_models")
        ends = []

        def read_for_long():
            try:
                analyst.query("SELECT sum(hash(c.case_id, r.range)) FROM cases c, range(1000000000) r")
            except QueryError as error:
                ends.append(str(error))

        running = threading.Thread(target=read_for_long)
        running.start()
        time.sleep(0.5)
        published = publish(lake, model_rows(case_ids, "other", "other-study"), "publish predictions of other")
        assert not ends, "the query ended before the commit"
        analyst._connection.interrupt()
        running.join()
        assert "Interrupted" in ends[0]
        assert published.snapshot_id > analyst.snapshot_id
        assert rows(analyst, "FROM latest_models") == before
    with analyst_connection(sql_home) as later:
        assert {row["study"] for row in rows(later, "FROM latest_models")} == {"demo", "other-study"}
    with analyst_connection(sql_home, snapshot_id=published.snapshot_id - 1) as earlier:
        assert rows(earlier, "FROM latest_models") == before


def test_missing_store_and_snapshot(sql_home, tmp_path):
    with pytest.raises(StoreMissingError), analyst_connection(Home(tmp_path / "none")):
        pass
    with pytest.raises(SnapshotMissingError, match="999"), analyst_connection(sql_home, snapshot_id=999):
        pass


def test_an_analyst_writes_no_file(sql_home):
    def files():
        return {path: path.stat().st_size for path in sql_home.root.rglob("*") if path.is_file() and "-shm" not in path.name}

    before = files()
    with analyst_connection(sql_home) as analyst:
        analyst.query("FROM case_overview")
    assert {path: size for path, size in files().items() if "-wal" not in path.name} == {
        path: size for path, size in before.items() if "-wal" not in path.name
    }


# --- the command ---

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(sql_command)


def run(sql_home, *arguments):
    return CliRunner().invoke(app, ["--home", str(sql_home.root), *arguments])


def test_command_prints_an_aligned_table(sql_home):
    done = run(sql_home, "SELECT * FROM (VALUES ('a', 1, 0.5), ('bbb', 22, NULL)) t(name, n, x)")
    assert done.exit_code == 0, done.output
    assert done.stdout == "name   n    x\na      1  0.5\nbbb   22\n"


def test_command_counts_the_rest_and_keeps_cells_plain(sql_home):
    done = run(sql_home, "SELECT range, chr(27) || '[31m' || repeat('x', 200) AS text FROM range(250)")
    assert done.stdout.count("\n") == 101
    assert "150 more rows" in done.stderr
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 80


def test_command_writes_csv_and_json(sql_home):
    query = """SELECT modalities, 'a,"b"' AS text, sum(num_slides) OVER () AS n, 'nan'::FLOAT AS f FROM case_overview"""
    found = list(csv.DictReader(io.StringIO(run(sql_home, query, "--format", "csv").stdout)))
    assert len(found) == len(json.loads(run(sql_home, query, "--format", "json").stdout)) > 50
    assert found[0]["text"] == 'a,"b"'
    assert "clinical" in json.loads(found[0]["modalities"])
    record = json.loads(run(sql_home, query, "--format", "json").stdout)[0]
    assert record["f"] is None
    assert isinstance(record["n"], int)
    assert json.loads(run(sql_home, "FROM cases WHERE false", "--format", "json").stdout) == []


def test_command_writes_a_file_whole_or_not_at_all(sql_home, tmp_path):
    target = tmp_path / "out.parquet"
    assert run(sql_home, "FROM gene_expression('TP53')", "--output", str(target)).exit_code == 0
    table = pq.read_table(target)
    assert table.column_names == ["case_id", "cohort", "cancer_type", "value", "unit"]
    kept = target.read_bytes()
    done = run(sql_home, RUNAWAY.replace("count(*)", "*"), "--output", str(target), "--timeout", "0.5")
    assert done.exit_code == 2
    assert "time cap of 0.5 s" in done.stderr
    assert target.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [target]
    assert run(sql_home, "FROM cases", "--output", str(tmp_path / "o.csv")).exit_code == 0
    assert (tmp_path / "o.csv").read_text(encoding="utf-8").startswith('"case_id"')


def test_command_runs_named_queries(sql_home):
    done = run(sql_home, "--name", "cohort_summary", "--param", "cohort=synthetic", "--format", "json")
    assert {row["cancer_type"] for row in json.loads(done.stdout)} == {"amber", "birch", "cedar", "dune"}
    done = run(sql_home, "--name", "cohort_summary", "--param", "cohort=O'Brien'; DROP TABLE cases; --", "--format", "json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    done = run(
        sql_home,
        "SELECT count(*) AS n FROM cases WHERE cohort = $c",
        "--param",
        "c=synthetic",
        "--format",
        "csv",
        "--snapshot",
        "2",
    )
    assert int(done.stdout.splitlines()[1]) > 50
    listing = run(sql_home, "--list").stdout
    assert all(name in listing for kind in ("query", "view", "macro") for name in sql.names(kind))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of a query, --name or --list"),
        (["SELECT 1", "--name", "coverage"], "expected one of a query, --name or --list"),
        (["SELECT 1", "--format", "parquet"], "no --output"),
        (["SELECT 1", "--memory", "lots"], "memory cap: lots"),
        (["SELECT $a", "--param", "a"], "expected KEY=VALUE"),
        (["--name", "nope"], "query nope: not found"),
        (["--name", "coverage", "--param", "x=1"], "parameter x, expected cohort"),
        (["SELECT * FROM read_text('/etc/passwd')"], "table function read_text"),
        (["SELECT 1", "--snapshot", "999"], "snapshot 999"),
        (["SELECT 1", "--output", "/nowhere/x.csv"], "/nowhere"),
        (["SELECT length(repeat('a', 4000000000))", "--memory", "200MB"], "Out of Memory"),
    ],
)
def test_command_errors(sql_home, arguments, message):
    done = run(sql_home, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_command_without_a_store(tmp_path):
    done = CliRunner().invoke(app, ["SELECT 1", "--home", str(tmp_path)])
    assert done.exit_code == 2
    assert "no catalog at" in done.stderr


def test_the_process_ends_where_a_query_heeds_no_cap(sql_home, tmp_path):
    target = tmp_path / "out.csv"
    query = "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000)) AS d"  # minutes in one call
    code = "import sys, typer\nfrom mice_cli.sql_command import sql\ntyper.run(sql)"
    command = [sys.executable, "-c", code, query, "--home", str(sql_home.root), "--timeout", "1", "--output", str(target)]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "did not heed the time cap of 1 s" in done.stderr
    assert time.monotonic() - start < 30
    assert list(tmp_path.iterdir()) == []
