"""Rows of the ingest's fault suite at the size of seconds; those it shares with the store's are tests/test_faults_store.py's."""

from pathlib import Path

import pytest
from fault_suites import run, summary

SHARED = {8, 10, 25}
ROWS = (11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 30, 32)


@pytest.mark.parametrize("rows", [(11, 21), (14, 15), (16, 17, 18, 19), (20, 22), (30,), (32,)], ids=str)
def test_rows(tmp_path: Path, rows: tuple[int, ...]) -> None:
    found = summary(run("ingest", tmp_path, "--rows", ",".join(map(str, rows)), "--times", "2"))
    assert list(found["rows"]) == [str(row) for row in rows]
    assert not any(found[name] for name in ("crashes", "hangs", "untyped", "outside_writes"))
    assert not list(tmp_path.iterdir())


def test_every_row_of_the_suite_is_tested(tmp_path: Path) -> None:
    done = run("ingest", tmp_path, "--rows", "0")
    assert done.returncode == 2
    assert f"rows [0], expected some of {sorted({*ROWS, *SHARED})}" in done.stderr
