"""Maintenance and pins: rows of every kept snapshot stay as they are, and what is needed is never removed."""

import os
import shutil
from pathlib import Path

import pytest

from feature_store.errors import PinError, SnapshotMissingError, StoreMissingError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.maintenance import maintain
from feature_store.pins import list_pins, pin, unpin
from feature_store.snapshots import list_snapshots
from feature_store.verify import verify


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store of six one-row commits, as many small files."""
    lake = Lake(Home(tmp_path / "home"))
    for number in range(6):
        with lake.transaction(f"add {number}", str(number)) as transaction:
            if number == 3:
                transaction.connection.execute("DELETE FROM cases WHERE case_id = '1'")
            row = [str(number)]
            transaction.connection.execute("INSERT INTO cases VALUES (?, 'cohort', 'project', 'brca', NULL, 'hash')", row)
    return lake.home


@pytest.fixture
def published(published_home: Home, tmp_path: Path) -> Home:
    return Home(shutil.copytree(published_home.root, tmp_path / "published"))


def contents(home: Home) -> dict[int, list[tuple[object, ...]]]:
    lake, found = Lake(home), {}
    for snapshot in lake.snapshots():
        if snapshot.snapshot_id > 0:
            with lake.reader(snapshot.snapshot_id) as connection:
                found[snapshot.snapshot_id] = connection.execute("SELECT case_id FROM cases ORDER BY ALL").fetchall()
    return found


def test_merging_changes_no_snapshot(home: Home) -> None:
    before = contents(home)
    done = maintain(home, grace_s=0)
    assert done.num_merged_files == 5
    assert done.removed_table_files
    assert done.expired == ()
    after = contents(home)
    assert {snapshot_id: after[snapshot_id] for snapshot_id in before} == before
    assert {snapshot.message for snapshot in Lake(home).snapshots() if snapshot.snapshot_id not in before} == {
        "",
        "merge small files",
    }
    assert maintain(home, grace_s=0).num_merged_files == 0
    assert contents(home).keys() == after.keys(), "a snapshot of nothing"
    report = verify(home)
    assert (report.problems, report.notes) == ([], [])


def test_only_what_is_old_and_not_pinned_expires(home: Home) -> None:
    before = contents(home)
    newest = max(before)
    assert pin(Lake(home), "paper", 3, "figure 2").snapshot_id == 3
    assert [(made.name, made.snapshot_id, made.reason) for made in list_pins(Lake(home))] == [("paper", 3, "figure 2")]
    assert {info.snapshot_id: info.pinned_by for info in list_snapshots(home)}[3] == ("pin paper",)
    assert maintain(home, keep_days=1, grace_s=0).expired == ()
    expired = maintain(home, keep_days=0, grace_s=0).expired
    assert 3 not in expired
    assert set(range(4, newest)) <= set(expired)
    assert contents(home)[3] == before[3]
    assert max(contents(home)) > newest
    with pytest.raises(SnapshotMissingError), Lake(home).reader(4):
        pass
    unpin(Lake(home), "paper")
    assert 3 in maintain(home, keep_days=0, grace_s=0).expired


def test_a_reader_keeps_its_snapshot_and_its_files(home: Home) -> None:
    before = contents(home)
    with Lake(home).reader(4) as connection:
        done = maintain(home, keep_days=0, grace_s=0)
        assert done.is_deferred
        assert 4 not in done.expired
        assert connection.execute("SELECT case_id FROM cases ORDER BY ALL").fetchall() == before[4]
    assert not maintain(home, keep_days=0, grace_s=0).is_deferred


def test_young_files_wait(home: Home) -> None:
    assert maintain(home, grace_s=3600).removed_table_files == ()


def test_shards_that_rows_or_stagings_name_stay(published: Home) -> None:
    named = sorted(published.bags.glob("*.parquet"))
    lost = published.bags / f"{'0' * 32}.parquet"
    lost.write_bytes(b"no row names this")
    partial = published.bags / ".abc.parquet.tmp"
    partial.write_bytes(b"unfinished")
    assert maintain(published).removed_shards == ()
    for path in (*named, lost, partial):
        os.utime(path, (0, 0))
    done = maintain(published)
    assert (done.removed_shards, done.removed_leftovers) == ((lost,), (partial,))
    assert sorted(published.bags.glob("*.parquet")) == named
    assert verify(published).problems == []


@pytest.mark.parametrize("name", ["", "Paper", "../x", "a" * 65])
def test_a_pin_has_a_plain_name(home: Home, name: str) -> None:
    with pytest.raises(PinError, match="not a name"):
        pin(Lake(home), name)


def test_a_pin_is_of_one_snapshot_that_is_there(home: Home) -> None:
    lake = Lake(home)
    with pytest.raises(SnapshotMissingError):
        pin(lake, "later", 99)
    pin(lake, "now")
    with pytest.raises(PinError, match="free name"):
        pin(lake, "now")
    with pytest.raises(PinError, match="not there"):
        unpin(lake, "other")


def test_nothing_to_maintain(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        maintain(Home(tmp_path))
