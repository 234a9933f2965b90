"""Every row of the store's fault suite at the size of seconds: what must hold does. `make faults NAME=store` is the real size."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_suites import run, summary

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 23, 24, 25)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files that other users may enter, as pytest's own are not."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.rmdir()  # nothing may be left in it


@pytest.mark.parametrize("rows", [(1, 2), (3, 4), (5, 6, 7), (8, 9), (12, 13, 23, 24, 25)], ids=str)
def test_rows(folder: Path, rows: tuple[int, ...]) -> None:
    found = summary(run("store", folder, "--rows", ",".join(map(str, rows))))
    assert list(found["rows"]) == [str(row) for row in rows]
    for name in ("acknowledged_lost", "torn", "duplicates", "erase_hits"):
        assert not found[name]
    assert found["bit_flips_found"] == (1.0 if 7 in rows else None)


def test_every_row_of_the_suite_is_tested(folder: Path) -> None:
    done = run("store", folder, "--rows", "0")
    assert done.returncode == 2
    assert f"rows [0], expected some of {list(ROWS)}" in done.stderr
