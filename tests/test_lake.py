"""The lake on both catalogs: transactions, concurrent writers, readers and exclusion, checksums, new columns."""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import catalogs
import duckdb
import pytest
from postgres_server import PostgresMissingError, database, postgres_server

from feature_store import lake as lake_module
from feature_store.catalog import Catalog
from feature_store.errors import CatalogError, SnapshotMissingError, StoreBusyError, StoreMissingError, StoreWriteError
from feature_store.home import Home
from feature_store.lake import Lake, at
from feature_store.locks import COMMIT
from feature_store.tables import CASES, FOLDS

PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    try:
        with postgres_server() as url:
            yield url
    except PostgresMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    if request.param == "sqlite":
        yield Home(tmp_path / "home")
    else:
        with database(request.getfixturevalue("server"), f"lake_{os.getpid()}") as url:
            yield Home(tmp_path / "home", url)


def add(lake: Lake, case_id: str) -> int | None:
    with lake.transaction(f"add {case_id}", case_id) as transaction:
        transaction.connection.execute("INSERT INTO cases VALUES (?, 'cohort', 'project', 'brca', NULL, 'hash')", [case_id])
    return transaction.snapshot_id


def case_ids(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT case_id FROM cases ORDER BY ALL").fetchall()]


def test_every_commit_is_a_snapshot_that_stays_readable(home: Home) -> None:
    lake = Lake(home)
    assert not lake.exists
    with pytest.raises(StoreMissingError), lake.reader():
        pass
    first, second = add(lake, "a"), add(lake, "b")
    assert first is not None
    assert second == first + 1
    for snapshot_id, expected in ((first, ["a"]), (second, ["a", "b"]), (None, ["a", "b"])):
        with lake.reader(snapshot_id) as connection:
            assert case_ids(connection) == expected
    with lake.reader(second) as connection:
        assert connection.execute(f"SELECT count(*) FROM {at('cases', first)}").fetchall() == [(1,)]
    assert [(s.message, s.key) for s in lake.snapshots()][-2:] == [("add a", "a"), ("add b", "b")]
    for unknown in (0, second + 1):
        with pytest.raises(SnapshotMissingError), lake.reader(unknown):
            pass


def test_a_failed_transaction_leaves_nothing(home: Home) -> None:
    lake = Lake(home)
    add(lake, "a")
    newest = lake.catalog.newest()

    def fail() -> None:
        with lake.transaction("fails", "b") as transaction:
            transaction.connection.execute("INSERT INTO cases VALUES ('b', 'cohort', 'project', 'brca', NULL, 'hash')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lake.catalog.newest() == newest
    assert add(lake, "c") == newest + 1


def test_eight_writers_lose_nothing(home: Home) -> None:
    """Few commits each; faults/ has the full number."""
    writers = [PROCESSES.Process(target=catalogs.write_pairs, args=(home.root, home.catalog_url, n, 3)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    expected = sorted(f"{writer}-{number}" for writer in range(8) for number in range(3))
    with Lake(home).reader() as connection:
        for table in (CASES, FOLDS):
            assert [row[0] for row in connection.execute(f"SELECT case_id FROM {table.name} ORDER BY 1").fetchall()] == expected


def test_a_writer_waits_for_another_but_not_for_ever(home: Home) -> None:
    add(Lake(home), "a")
    with Catalog(home).locks.held([COMMIT], 1.0), pytest.raises(StoreBusyError, match=r"0\.1 s"):
        add(Lake(home, lock_timeout_s=0.1), "b")


def test_readers_go_on_beside_a_writer_and_keep_exclusive_work_out(home: Home) -> None:
    lake = Lake(home, lock_timeout_s=0.1)
    newest = add(lake, "a")
    with lake.reader() as connection:
        add(lake, "b")
        assert case_ids(connection) == ["a"]
        with pytest.raises(StoreBusyError), lake.exclusive():
            pass
    with lake.exclusive():
        entered = threading.Event()

        def read() -> None:
            with Lake(home).reader(newest):
                entered.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert not entered.wait(0.3)
    reader.join()
    assert entered.is_set()


def test_each_new_file_has_its_checksum(home: Home) -> None:
    lake = Lake(home)
    add(lake, "a")
    add(lake, "b")
    recorded = lake.catalog.objects()
    files = {str(path.relative_to(home.root)): size for path, size in lake.catalog.table_files().items()}
    assert {name: one.num_bytes for name, one in recorded.items()} == files
    assert len(files) == 2


def test_a_store_of_an_older_version_gets_the_new_columns(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tuple(
        table if table is not CASES else type(table)(table.name, table.grain, table.key, table.columns[:-1])
        for table in lake_module.ALL_TABLES
    )
    with monkeypatch.context() as patch:
        patch.setattr(lake_module, "ALL_TABLES", older)
        with Lake(home).transaction("older", "a") as transaction:
            transaction.connection.execute("INSERT INTO cases VALUES ('a', 'cohort', 'project', 'brca', NULL)")
    add(Lake(home), "b")
    with Lake(home).reader() as connection:
        found = connection.execute("SELECT case_id, source_sha256 FROM cases ORDER BY ALL").fetchall()
    assert found == [("a", None), ("b", "hash")]


def test_a_catalog_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    lake = Lake(Home(tmp_path, "postgresql://mice:secret@127.0.0.1:1/lake"))
    with pytest.raises(CatalogError, match=r"127\.0\.0\.1:1") as raised:
        _ = lake.exists
    assert "secret" not in "".join(traceback.format_exception(raised.value))
    assert "secret" not in repr(lake.home)


def test_a_store_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.tables.parent.mkdir()
    home.tables.write_text("in the way")
    with pytest.raises(StoreWriteError, match="cannot be written"):
        add(Lake(home), "a")
