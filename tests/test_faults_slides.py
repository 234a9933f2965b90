"""The rows of the embedding run's fault suite at the size of seconds. `make faults NAME=slides` is the real size."""

from pathlib import Path

from fault_suites import run, summary


def test_every_row_holds(tmp_path: Path) -> None:
    found = summary(run("slides", tmp_path))
    assert (found["kills"], found["differing"], found["partial_seen"], found["orphans"]) == (3, 0, 0, 0)
    assert found["rows"]["2"]["refused"] >= 1
