"""Downloads from the replay server: whole and verified, or named as missing; never something in between."""

import json
import re
import signal
import subprocess
import threading

import pytest

from faults.downloads import FAULTS, HASTE, REASONS, command, remote
from faults.gdc_data import Content, file_hit, generated, made_id
from faults.gdc_server import Fault, GdcServer
from feature_store.errors import DownloadError
from feature_store.gdc import batch
from feature_store.gdc import download as download_module
from feature_store.gdc.download import download
from feature_store.gdc.http import Http, Patience
from feature_store.gdc.manifest import RemoteFile

LARGE = Content("large", 3_000_000)
FILE = remote(file_hit("large.svs", LARGE, file_id=made_id("large")))


@pytest.fixture
def server():
    with GdcServer(contents={FILE.file_id: LARGE}) as made:
        yield made


@pytest.fixture
def many():
    hits, contents = generated(30, 5_000)
    with GdcServer(hits, contents) as made:
        yield made


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "files"


def fetched(server, files, folder, **patience):
    return download(Http(server.address, patience=Patience(**{**vars(HASTE), **patience})), files, folder)


def is_there(folder, content=LARGE, file=FILE):
    """Whole, and nothing beside it."""
    path = folder / file.path
    return path.read_bytes() == b"".join(content.blocks()) and list(path.parent.iterdir()) == [path]


def asked(server):
    return server.asked_for(f"data/{FILE.file_id}")


def test_a_file_arrives_whole(server, folder):
    done = fetched(server, [FILE], folder)
    assert (done.fetched, done.kept, done.failed) == ([FILE], [], [])
    assert is_there(folder)
    assert len(asked(server)) == 1


def test_what_is_there_is_not_fetched_again(server, folder):
    fetched(server, [FILE], folder)
    done = fetched(server, [FILE], folder)
    assert (done.fetched, done.kept) == ([], [FILE])
    assert len(asked(server)) == 1


def test_what_is_there_but_damaged_is_fetched_again(server, folder):
    fetched(server, [FILE], folder)
    path = folder / FILE.path
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    assert fetched(server, [FILE], folder).fetched == [FILE]
    assert is_there(folder)


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_that_passes_is_got_over(server, folder, what):
    server.misbehave(f"data/{FILE.file_id}", *FAULTS[what])
    assert fetched(server, [FILE], folder).fetched == [FILE]
    assert is_there(folder)


@pytest.mark.parametrize("what", REASONS)
def test_a_fault_that_stays_is_named(server, folder, what):
    fault, reason = REASONS[what]
    server.misbehave(f"data/{FILE.file_id}", fault, is_lasting=True)
    (failure,) = fetched(server, [FILE], folder).failed
    assert reason in failure.reason
    assert not (folder / FILE.path).exists()


def test_it_goes_on_where_it_broke_off(server, folder):
    server.misbehave(f"data/{FILE.file_id}", Fault(truncate_after=1_000_000))
    fetched(server, [FILE], folder)
    first, second = asked(server)
    assert "Range" not in first
    assert second["Range"] == "bytes=1000000-"
    assert second["If-Range"] == f'"{FILE.md5}"'


def test_a_later_process_goes_on_with_what_an_earlier_one_left(server, folder):
    server.misbehave(f"data/{FILE.file_id}", *[Fault(truncate_after=100_000)] * HASTE.num_tries)
    assert len(fetched(server, [FILE], folder).failed) == 1
    num_before = len(asked(server))
    assert fetched(server, [FILE], folder).fetched == [FILE]
    assert [headers["Range"] for headers in asked(server)[num_before:]] == ["bytes=600000-"]
    assert is_there(folder)


@pytest.mark.parametrize("left", [b"something else", b"x" * 4_000_000])
def test_what_was_left_but_is_not_its_beginning_is_dropped(server, folder, left):
    partial = folder / FILE.file_id / f".{FILE.file_name}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    assert fetched(server, [FILE], folder).fetched == [FILE]
    assert is_there(folder)


def test_little_progress_does_not_count(server, folder):
    server.misbehave(f"data/{FILE.file_id}", Fault(truncate_after=1), is_lasting=True)
    assert len(fetched(server, [FILE], folder).failed) == 1
    assert [headers.get("Range") for headers in asked(server)] == [None, *(f"bytes={n}-" for n in range(1, HASTE.num_tries))]


def test_a_wrong_checksum_is_fetched_again_but_once(server, folder):
    server.misbehave(f"data/{FILE.file_id}", Fault(is_wrong=True), is_lasting=True)
    (failure,) = fetched(server, [FILE], folder).failed
    assert len(asked(server)) == 2
    assert FILE.md5 in failure.reason
    assert not any(folder.iterdir())


def test_a_file_that_another_process_fetches_is_left_to_it(server, folder):
    server.misbehave(f"data/{FILE.file_id}", Fault(hang_after=1_000))
    first = threading.Thread(target=fetched, args=(server, [FILE], folder))
    first.start()
    partial = folder / FILE.file_id / f".{FILE.file_name}.partial"
    while not partial.exists():
        pass
    (failure,) = fetched(server, [FILE], folder).failed
    assert "another process is fetching it" in failure.reason
    first.join()
    assert is_there(folder)


def test_an_empty_file_is_a_file(server, folder):
    empty = RemoteFile(made_id("empty"), "empty.txt", "d41d8cd98f00b204e9800998ecf8427e", 0)
    assert fetched(server, [empty], folder).fetched == [empty]
    assert (folder / empty.path).read_bytes() == b""


def test_small_files_share_an_answer(many, folder):
    files = [remote(hit) for hit in many.hits["files"]]
    done = fetched(many, files, folder)
    assert sorted(done.fetched, key=files.index) == files
    assert [path for _, path, _ in many.requests] == ["data"]
    assert all(is_there(folder, many.contents[file.file_id], file) for file in files)


@pytest.mark.parametrize(
    "fault",
    [Fault(truncate_after=60_000), Fault(reset_after=60_000), Fault(is_html=True), Fault(status=403), Fault(is_wrong=True)],
)
def test_what_an_archive_does_not_bring_comes_one_by_one(many, folder, fault):
    files = [remote(hit) for hit in many.hits["files"]]
    many.misbehave("data", fault)
    assert len(fetched(many, files, folder).fetched) == len(files)
    assert all(is_there(folder, many.contents[file.file_id], file) for file in files)
    if fault.truncate_after:
        assert len(many.requests) < len(files)  # what had come before the cut was kept


def test_an_archive_brings_only_what_was_asked_for(many, folder, tmp_path):
    files = [remote(hit) for hit in many.hits["files"][:3]]
    names = {file.file_id: name for file, name in zip(files, ["../../outside.txt", "/tmp/outside.txt", "x"], strict=True)}
    for hit in many.hits["files"]:
        hit["file_name"] = names.get(hit["file_id"], hit["file_name"])
    assert len(fetched(many, files, folder).fetched) == 3
    assert not (tmp_path / "outside.txt").exists()
    assert all(is_there(folder, many.contents[file.file_id], file) for file in files)


def test_files_travel_together_up_to_a_size(monkeypatch):
    def of(*sizes):
        return [RemoteFile(made_id(str(i)), "x", "0" * 32, size) for i, size in enumerate(sizes)]

    monkeypatch.setattr(batch, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(batch, "MAX_BATCH_BYTES", 15)
    monkeypatch.setattr(batch, "MAX_BATCH_FILES", 3)
    grouped = [[file.num_bytes for file in group] for group in batch.batches(of(10, 5, 11, 1, 1, 1, 1, 9, 9))]
    assert grouped == [[11], [10, 5], [1, 1, 1], [1, 9], [9]]


def test_a_gdc_that_is_down_is_given_up_soon(tmp_path):
    hits, contents = generated(60, 5_000)
    with GdcServer(hits, contents) as server:
        server.misbehave("data", Fault(status=503), is_lasting=True)
        for hit in hits:
            server.misbehave(f"data/{hit['file_id']}", Fault(status=503), is_lasting=True)
        done = fetched(server, [remote(hit) for hit in hits], tmp_path / "files")
        assert len(done.failed) == 60
        assert sum("not tried" in failure.reason for failure in done.failed) >= 40
        assert not any((tmp_path / "files").iterdir())
        assert len(server.requests) < 60 * HASTE.num_tries / 2


def test_no_more_than_the_connections_are_used(many, folder, monkeypatch):
    monkeypatch.setattr(batch, "MAX_BATCH_FILES", 1)
    busy, most, lock = 0, 0, threading.Lock()
    chunks = Http.chunks

    def counted(self, answer, **options):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        yield from chunks(self, answer, **options)
        with lock:
            busy -= 1

    monkeypatch.setattr(Http, "chunks", counted)
    http = Http(many.address, patience=HASTE, num_connections=2)
    assert len(download(http, [remote(hit) for hit in many.hits["files"]], folder).fetched) == 30
    assert most == 2


def test_what_does_not_fit_is_not_begun(server, folder):
    huge = RemoteFile(FILE.file_id, FILE.file_name, FILE.md5, 10**15 - 1)
    with pytest.raises(DownloadError, match="bytes free, expected"):
        fetched(server, [huge], folder)
    assert server.requests == []


def test_an_error_nobody_foresaw_is_raised(server, folder, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(download_module, "fetch", broken)
    with pytest.raises(ZeroDivisionError):
        fetched(server, [FILE], folder)


def test_progress_is_told(server, folder, caplog):
    caplog.set_level("INFO", logger="feature_store.gdc.progress")
    server.misbehave(f"data/{FILE.file_id}", Fault(truncate_after=1_000_000), Fault(ignores_range=True))
    fetched(server, [FILE], folder)
    assert re.search(r"1 of 1 files, 0\.00 of 0\.00 GB, [\d.]+ MB/s, 0 s left", caplog.text)


def test_an_interrupted_command_leaves_what_can_be_gone_on_with(server, folder):
    server.misbehave(f"data/{FILE.file_id}", Fault(hang_after=1_500_000))
    partial = folder / "files" / FILE.file_id / f".{FILE.file_name}.partial"
    process = command(server, [FILE], folder)
    try:
        while not partial.exists() or partial.stat().st_size < 1_000_000:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "run the same command again" in said
    assert [path.name for path in (folder / "files" / FILE.file_id).iterdir()] == [partial.name]
    again = command(server, [FILE], folder)
    out, _ = again.communicate(timeout=30)
    assert again.returncode == 0
    assert json.loads(out.splitlines()[-1]) == {"fetched": 1, "kept": 0, "failed": 0, "fetched_bytes": FILE.num_bytes}
    assert asked(server)[-1]["Range"].startswith("bytes=1")
    assert is_there(folder / "files")


def test_a_missing_file_is_listed_and_ends_the_command_with_1(server, folder):
    absent = RemoteFile(made_id("absent"), "absent.svs", FILE.md5, 9_000_000)
    process = command(server, [FILE, absent], folder)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"missing: {absent.path}: GET {server.address}/data/{absent.file_id}: status 404" in out
    assert json.loads(out.splitlines()[-1])["failed"] == 1
    assert is_there(folder / "files")


def test_a_bad_manifest_ends_the_command_with_2(server, folder):
    process = command(server, [RemoteFile("../x", "y", "0", 1)], folder)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert ", line 2: id '../x'" in said
    assert isinstance(process, subprocess.Popen)
