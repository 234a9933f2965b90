"""docs/dictionary.md is what the declarations say."""

import subprocess
import sys
from pathlib import Path

from feature_store.dictionary import render
from feature_store.tables import ALL_TABLES

ROOT = Path(__file__).parent.parent


def test_the_committed_page_is_not_stale():
    committed = (ROOT / "docs" / "dictionary.md").read_text(encoding="utf-8")
    assert committed == render(), "run `python -m feature_store.dictionary > docs/dictionary.md`"


def test_every_table_and_column_is_there_once():
    page = render()
    sections = {part.partition("\n")[0]: part for part in page.split("\n### ")[1:]}
    assert set(sections) == {table.name for table in ALL_TABLES}
    for table in ALL_TABLES:
        found = [line.split(" | ")[0].strip("| `") for line in sections[table.name].splitlines() if line.startswith("| `")]
        assert found == [column.name for column in table.columns]
    row = next(line for line in sections["clinical"].splitlines() if "`age_at_diagnosis_years`" in line)
    assert (
        row
        == "| `age_at_diagnosis_years` | DOUBLE? | years | baseline | time zero | at least 0, at most 120 | Age at diagnosis. |"
    )
    assert "`female`, `male`" in sections["clinical"]
    assert all(line.count(" | ") == 6 for line in sections["rna"].splitlines() if line.startswith("| `"))


def test_the_module_prints_the_page():
    command = [sys.executable, "-m", "feature_store.dictionary"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode() == render()
