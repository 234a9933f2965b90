"""SQL for analysts: every view, macro, named query and example runs, and gives what the tables hold."""

import re
import subprocess
import sys
from pathlib import Path

import h5py
import lifelines
import numpy as np
import polars as pl
import pytest
from sql_homes import rows

import sql
from feature_store.analyst import analyst_connection
from feature_store.errors import QueryError
from sql.header import parse

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def slide_id(staged_tables):
    return staged_tables["patch_bags"]["slide_id"].min()


@pytest.fixture(scope="session")
def patch(sql_home, slide_id):
    with analyst_connection(sql_home) as connection:
        return rows(connection, "SELECT x, y FROM patches_of($slide) ORDER BY y, x LIMIT 1", {"slide": slide_id})[0]


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
