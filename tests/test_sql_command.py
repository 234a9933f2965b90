"""`mice sql`: its formats, its errors, and that it ends."""

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from sql_homes import RUNAWAY
from typer.testing import CliRunner

import sql
from mice_cli.sql_command import sql as sql_command

ROOT = Path(__file__).parent.parent

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
