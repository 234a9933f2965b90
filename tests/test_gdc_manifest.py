"""Manifests: read, written, and refused line by line."""

import os
from pathlib import Path

import pytest

from faults.report import Trial
from faults.withdrawals import lying_manifests
from feature_store.errors import ManifestError
from feature_store.gdc.manifest import RemoteFile, read_manifest, write_manifest

HEADER = "id\tfilename\tmd5\tsize\tstate\n"
LINE = "bc9e3954-59d0-4f25-9022-42c97db7aea2\tTCGA-2F-A9KT.svs\t824785fee9387dcf46a7058a0722739b\t2658499382\treleased\n"
FILE = RemoteFile("bc9e3954-59d0-4f25-9022-42c97db7aea2", "TCGA-2F-A9KT.svs", "824785fee9387dcf46a7058a0722739b", 2658499382)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "manifest.txt"


def test_what_is_written_is_read(path):
    write_manifest(path, [FILE])
    assert path.read_text() == HEADER + LINE
    assert read_manifest(path) == [FILE]


@pytest.mark.parametrize(
    "text",
    [
        (HEADER + LINE).replace("\n", "\r\n"),
        "\ufeff" + HEADER + LINE + "\n",
        HEADER + LINE + LINE,
        f"size\tmd5\tmore\tfilename\tid\n{FILE.num_bytes}\t{FILE.md5}\t\t{FILE.file_name}\t{FILE.file_id}\n",
    ],
    ids=["windows", "byte order mark and empty line", "the same line twice", "columns in another order"],
)
def test_other_ways_of_writing_it_are_read(path, text):
    path.write_bytes(text.encode())
    assert read_manifest(path) == [FILE]


@pytest.mark.parametrize("header", ["", "id\tfilename\tmd5\n", "id\tid\tfilename\tmd5\tsize\n", "<!DOCTYPE html>\n"])
def test_a_header_of_another_kind_is_refused(path, header):
    path.write_text(header + LINE)
    with pytest.raises(ManifestError, match="header"):
        read_manifest(path)


def test_bytes_that_are_no_text_are_refused(path):
    path.write_bytes(HEADER.encode() + b"\xff\xfe\x00" * 20)
    with pytest.raises(ManifestError, match="unreadable"):
        read_manifest(path)


def test_lines_that_must_not_be_followed_are_named(tmp_path):
    found = lying_manifests(Trial(tmp_path, is_quick=True))
    assert found.problems == []
    assert found.counts["refused"] == found.counts["manifests"] == 17
    assert found.counts["mismatches_refused"] == found.counts["mismatches"] == 3


@pytest.mark.real
def test_real_manifests_are_read():
    folder = Path(os.environ.get("MICE_DATA") or Path(__file__).parents[2] / "shared" / "data") / "raw" / "gdc_manifests"
    if not folder.is_dir():
        pytest.skip(f"no manifests in {folder}: set MICE_DATA to the landing folder")
    files = [file for path in sorted((folder / "healnet_wsi").glob("*.txt")) for file in read_manifest(path)]
    assert len(files) == 10_240
    assert all(file.file_name.endswith(".svs") for file in files)
