"""Archives from outside: unpacked whole, or refused with nothing left."""

import tarfile
import zipfile

import pytest

from faults.archives import hostile_archives
from faults.report import Trial
from feature_store.archives import Limits, unpack
from feature_store.errors import ArchiveError


@pytest.fixture
def content(tmp_path):
    folder = tmp_path / "content"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c.txt").write_text("deep")
    (folder / "MANIFEST.txt").write_text("x" * 100_000)
    return folder


def pack(kind, content, archive):
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for path in sorted(content.rglob("*")):
                made.write(path, path.relative_to(content))
    else:
        with tarfile.open(archive, kind) as made:
            made.add(content / "a", "a")
            made.add(content / "MANIFEST.txt", "MANIFEST.txt")


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
def test_an_archive_is_unpacked_whole(tmp_path, content, kind):
    pack(kind, content, tmp_path / "archive")
    assert unpack(tmp_path / "archive", tmp_path / "target") == 2
    assert (tmp_path / "target" / "a" / "b" / "c.txt").read_text() == "deep"
    assert (tmp_path / "target" / "MANIFEST.txt").stat().st_size == 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "content", "target"]


def test_a_folder_that_is_there_is_left_alone(tmp_path, content):
    pack("zip", content, tmp_path / "archive")
    with pytest.raises(ArchiveError, match="there already"):
        unpack(tmp_path / "archive", content)
    assert (content / "a" / "b" / "c.txt").read_text() == "deep"


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
@pytest.mark.parametrize("limits", [Limits(max_entries=1), Limits(max_bytes=50_000), Limits(free_bytes=10_000, max_ratio=1)])
def test_limits_hold(tmp_path, content, kind, limits):
    pack(kind, content, tmp_path / "archive")
    if kind == "w" and limits.max_ratio == 1:
        assert unpack(tmp_path / "archive", tmp_path / "target", limits) == 2  # nothing is compressed
        return
    with pytest.raises(ArchiveError, match="Do not use it"):
        unpack(tmp_path / "archive", tmp_path / "target", limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "content"]


@pytest.mark.parametrize("start", [b"", b"PK", b"PK\x03\x04", b"\x1f\x8b", b"<html>", b"\x00" * 600])
def test_what_is_no_archive_is_refused(tmp_path, start):
    (tmp_path / "archive").write_bytes(start)
    if start == b"\x00" * 600:
        assert unpack(tmp_path / "archive", tmp_path / "target") == 0  # an empty tar
        return
    with pytest.raises(ArchiveError, match="expected"):
        unpack(tmp_path / "archive", tmp_path / "target")


def test_hostile_archives_leave_nothing(tmp_path):
    found = hostile_archives(Trial(tmp_path, is_quick=True))
    assert found.problems == []
    assert found.counts["refused"] == found.counts["archives"] == 25
    assert found.counts["outside"] == 0
