"""The analysts' connection: what it refuses, what its caps stop, and what goes on beside it."""

import re
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sql_homes import RUNAWAY, make_sql_home, model_rows, rows

from feature_store.analyst import analyst_connection
from feature_store.errors import QueryError, SnapshotMissingError, StoreMissingError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import publish

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


def test_a_writer_commits_while_an_analyst_reads(tmp_path):
    home = make_sql_home(tmp_path / "home")  # its own: other files' tests read the shared one
    lake = Lake(home)
    with lake.reader() as connection:
        case_ids = [row[0] for row in connection.execute("SELECT case_id FROM cases ORDER BY case_id LIMIT 2").fetchall()]
    with analyst_connection(home, timeout_s=60) as analyst:
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
    with analyst_connection(home) as later:
        assert {row["study"] for row in rows(later, "FROM latest_models")} == {"demo", "other-study"}
    with analyst_connection(home, snapshot_id=published.snapshot_id - 1) as earlier:
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
