"""Rows 23 and 24: hostile SQL, names that are SQL, and queries that would run for ever beside a publisher."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl

import sql
from faults.cohorts import COHORT, home_with, small_contract, small_landing, two_versions, visible, writes
from faults.report import Found, Trial
from feature_store.analyst import Analyst, analyst_connection
from feature_store.errors import QueryError
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE, publish, publish_cohort

NAME = 'O\'Hare "A"; DROP TABLE cases; --'
HOSTILE = (
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'", "SELECT * FROM read_parquet('/etc/passwd')", "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_parquet('{tables}/../catalog.sqlite')", "SELECT * FROM sqlite_scan('{catalog}', 'ducklake_snapshot')",
    "SELECT * FROM read_json('{catalog}')", "WITH a AS (SELECT (SELECT max(x) FROM sqlite_scan('{catalog}', 't'))) FROM a",
    "COPY cases TO '{bags}/stolen.csv'", "COPY cases TO '/tmp/stolen.csv'", "COPY (SELECT 1) TO '{tables}/x.parquet'",
    "EXPORT DATABASE '{bags}'", "INSTALL httpfs", "LOAD httpfs", "INSTALL x FROM community", "ATTACH ':memory:' AS other",
    "ATTACH '{catalog}' AS other (TYPE sqlite)", "DETACH lake", "USE memory", "SET memory_limit = '100GB'",
    "SET enable_external_access = true", "RESET lock_configuration", "PRAGMA memory_limit = '100GB'", "PRAGMA enable_profiling",
    "DELETE FROM cases", "UPDATE cases SET site = 'x'", "INSERT INTO cases FROM cases", "DROP TABLE cases",
    "ALTER TABLE cases ADD COLUMN x INT", "CREATE TABLE memory.main.x AS SELECT 1", "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE OR REPLACE TEMP MACRO patches_of(s) AS TABLE SELECT 1", "CREATE SECRET s (TYPE s3)", "BEGIN", "COMMIT", "CHECKPOINT",
    "VACUUM", "PREPARE p AS DELETE FROM cases", "EXECUTE p", "SELECT 1; DROP TABLE cases",
    "EXPLAIN ANALYZE COPY cases TO '/tmp/x'",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')", "SELECT * FROM query_table('cases')",
    "SELECT * FROM json_execute_serialized_sql('x')", "SELECT * FROM sqlite_query('__ducklake_metadata_lake', 'SELECT 1')",
    "SELECT * FROM sqlite_attach('{catalog}')", "SELECT * FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
    "CALL ducklake_expire_snapshots('lake', older_than => now())", "SELECT * FROM lake.expire_snapshots(older_than => now())",
    "SELECT * FROM ducklake_merge_adjacent_files('lake')", "SELECT * FROM enable_logging()", "SELECT * FROM home",
    "SELECT * FROM pragma_storage_info('cases')", "FROM patches_of('x''; DROP TABLE cases; --')",
)  # fmt: skip
RUNAWAY = (
    ("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 1", "time cap"),
    ("WITH RECURSIVE r AS (SELECT 1 x UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r", "time cap"),
    ("SELECT list(range) FROM range(100000000000)", "Out of Memory"),
    ("FROM range(5000000000) ORDER BY random() LIMIT 1 OFFSET 40000000", "Out of Memory"),
    ("SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))", "time cap"),
    ("SELECT length(repeat('a', 4000000000))", "Out of Memory"),
)
TIME_CAP_S = 3
MEMORY_CAP_MB = 200
# A query in a process of its own; twice the caps is where the process ends itself, and starting Python is not the query's.
MOST_S = 2 * TIME_CAP_S + 15
MOST_MB = 2 * MEMORY_CAP_MB + 512 + 300
MOST_SLOWDOWN = 3.0


def hostile_sql(trial: Trial) -> Found:
    """Row 23."""
    home, landing = Home(trial.folder / "it's a home"), small_landing(trial.folder / "landing", num_cases=40)
    expression = pl.read_csv(landing / "rna.csv.gz", infer_schema=False)
    gene = "TP53'); DROP TABLE cases; --"
    expression.rename({"TP53_rnaseq": f"{gene}_rnaseq"}).write_csv(landing / "rna.csv.gz", compression="gzip")
    publish_cohort(Lake(home), stage(small_contract(NAME), landing, home), NAME)
    files = sorted(home.root.rglob("*.parquet"))
    contents = visible(home)
    found = Found({"statements_refused": 0, "names_as_values": 0})
    with analyst_connection(home) as analyst:
        places = {"catalog": home.catalog, "bags": home.bags, "tables": home.tables}
        quoted = {name: str(path).replace("'", "''") for name, path in places.items()}
        for statement in HOSTILE:
            is_refused = _is_refused(analyst, statement.format(**quoted))
            found.add("statements_refused", int(is_refused))
            found.expect(is_refused, f"{statement}: not refused")
        num_cases = analyst.query("SELECT count(*) AS n FROM cases WHERE cohort = $c", {"c": NAME}).to_pylist()[0]["n"]
        answers: dict[str, Callable[[], bool]] = {
            "cohort in a query": lambda: num_cases == 40,
            "gene in a macro": lambda: analyst.query("FROM gene_expression($g)", {"g": gene}).num_rows > 0,
            "gene in a literal": lambda: (
                analyst.query(f"FROM gene_expression('{gene.replace(chr(39), chr(39) * 2)}')").num_rows > 0
            ),
            "a gene that is not there": lambda: analyst.query("FROM mutated($g) WHERE is_mutated", {"g": gene}).num_rows == 0,
        }
        for name in sql.names():
            query = sql.load(name)
            if any(parameter.name == "cohort" for parameter in query.parameters):
                answers[f"cohort in {name}"] = partial(_runs, analyst, query.text, query.bind({"cohort": NAME}))
        for what, is_right in answers.items():
            found.add("names_as_values", int(is_right()))
            found.expect(is_right(), f"{what}: another answer")
    found.expect(visible(home) == contents, "the tables changed")
    found.expect(sorted(home.root.rglob("*.parquet")) == files, "files came or went")
    found.counts["statements_refused"] = f"{found.counts['statements_refused']} of {len(HOSTILE)}"
    return found


def _is_refused(analyst: Analyst, statement: str) -> bool:
    try:
        analyst.query(statement)
    except QueryError:
        return True
    return False


def _runs(analyst: Analyst, text: str, values: dict[str, str | int | float | None]) -> bool:
    analyst.query(text, values)
    return True


def runaway_queries(trial: Trial) -> Found:
    """Row 24: `mice sql` in processes of their own, and how long publishing takes meanwhile."""
    versions = two_versions(trial.folder / "versions")
    home = home_with(versions, trial.folder / "home")
    found = Found({"stopped": 0})
    version, alone_s, beside_s = 1, [], []
    chosen = RUNAWAY[: trial.pick(1, len(RUNAWAY))]

    def published_s() -> float:
        nonlocal version
        start = time.perf_counter()
        published = publish(Lake(home), writes(versions.staged[version]), f"{COHORT_MESSAGE} {COHORT}")
        found.expect(bool(published.changed), "a publication beside a query did nothing")
        version = 1 - version
        return time.perf_counter() - start

    published_s()
    alone_s = [published_s() for _ in range(trial.pick(2, 9))]
    for query, reason in chosen:
        with _running(home, query) as running:
            start = time.monotonic()
            while running.poll() is None and time.monotonic() - start < MOST_S:
                beside_s.append(published_s())
            is_over = running.poll() is not None
            text = running.communicate()[1] if is_over else "still running"
        is_stopped = is_over and running.returncode == 2 and reason in text
        found.add("stopped", int(is_stopped))
        found.expect(is_stopped, f"{query}: exit {running.returncode}, {text.strip()[:200]}")
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    slowdown = statistics.median(beside_s) / statistics.median(alone_s)
    found.counts |= {
        "stopped": f"{found.counts['stopped']} of {len(chosen)}",
        "publications_alone": len(alone_s),
        "publish_alone_s": round(statistics.median(alone_s), 2),
        "publications_beside": len(beside_s),
        "publish_beside_s": round(statistics.median(beside_s), 2),
        "most_memory_of_a_child_mb": round(peak_mb),
    }
    found.expect(peak_mb < MOST_MB, f"a query's process took {peak_mb:.0f} MB, expected under {MOST_MB}")
    found.expect(trial.is_quick or slowdown < MOST_SLOWDOWN, f"publishing took {slowdown:.1f} times as long beside a query")
    found.expect(versions.which(visible(home)) == 1 - version, "other rows than those published last")
    return found


@contextmanager
def _running(home: Home, query: str) -> Iterator[subprocess.Popen[str]]:
    code = "from mice_cli.main import app; app()"
    caps = ["--timeout", str(TIME_CAP_S), "--memory", f"{MEMORY_CAP_MB}MB"]
    command = [sys.executable, "-c", code, "sql", query, "--home", str(home.root), *caps]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as process:
        try:
            yield process
        finally:
            process.kill()
