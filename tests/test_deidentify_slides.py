"""Row 30 at the size of seconds: identifiers planted in reports, cells, h5 files and names of files, and where they end up."""

from pathlib import Path

import pytest

from faults.identifiers import planted_identifiers
from faults.report import Trial
from feature_store.deidentify.key import ENVIRONMENT


def test_nothing_planted_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    found = planted_identifiers(Trial(tmp_path, is_quick=True))
    assert found.problems == []
    assert found.counts["leaks"] == 0
