"""Publishing: all or nothing, only what changed, once; through kills, lost acknowledgements, several writers, readers at work.

The fault benchmark (`make faults`) runs the same kills by the hundred; here a handful shows that each kind is survived.
"""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import polars as pl
import publisher
import pytest
from conftest import Corrupt
from filelock import FileLock

from feature_store.contract import Contract
from feature_store.contract.rules import Value
from feature_store.errors import AuditError, SnapshotMissingError, StoreBusyError, StoreMissingError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import Write, content_sha256, publish, publish_cohort
from feature_store.tables import CASES, COHORT_TABLES, QUARANTINE
from feature_store.training_set import latest_snapshot

# Forked from a process that has imported everything and opened nothing: a publisher starts in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["publisher"])


def started(
    home: Home, *versions: Staged, cohorts: tuple[str, ...] = ("synthetic",), kill_at: tuple[str, int] | None = None
) -> ForkServerProcess:
    """Start a publisher of the staged contracts and return once it is about to publish."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=publisher.run, args=(theirs, home.root, list(versions), list(cohorts), kill_at))
    process.start()
    assert ours.recv() == "ready"
    return process


def ended(process: ForkServerProcess) -> int | None:
    process.join(timeout=60)
    return process.exitcode


def rows(home: Home, snapshot_id: int | None = None) -> dict[str, pl.DataFrame]:
    """Return the published rows of every table, in one snapshot, in an order of their own."""
    with Lake(home).reader(snapshot_id) as connection:
        return {
            table.name: pl.DataFrame(connection.execute(f'SELECT * FROM "{table.name}" ORDER BY ALL').to_arrow_table())
            for table in COHORT_TABLES
        }


def same(found: dict[str, pl.DataFrame], staged: Staged) -> bool:
    """Say whether the published rows are the staged ones, table by table (the hash is over rows in the key's order)."""
    return all(
        content_sha256(Write(table, "any", found[table.name])) == content_sha256(Write(table, "any", staged.table(table.name)))
        for table in COHORT_TABLES
    )


def snapshot_ids(home: Home) -> list[int]:
    return [snapshot.snapshot_id for snapshot in Lake(home).snapshots()]


@pytest.fixture(scope="module")
def versions(
    clean_landing: Path, dirty_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Staged, Staged]:
    """Two contents of one cohort, which differ in every table but the panels'."""
    folders = [Home(tmp_path_factory.mktemp(name)) for name in ("old", "new")]
    landings = (clean_landing, dirty_landing)
    old, new = (stage(synthetic_contract, landing, home) for landing, home in zip(landings, folders, strict=True))
    return old, new


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An installation where nothing was published yet, in a folder that SQL has to quote."""
    return Home(tmp_path / "it's a home")


@pytest.fixture(scope="module")
def old_home(versions: tuple[Staged, Staged], tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("old-home"))
    publish_cohort(Lake(home), versions[0], "synthetic")
    return home


@pytest.fixture
def store(home: Home, old_home: Home) -> Home:
    """A copy of an installation that holds the old version."""
    shutil.copytree(old_home.root, home.root)
    return home


# --- what changes


def test_what_is_published_is_what_was_staged(home: Home, versions: tuple[Staged, Staged]) -> None:
    published = publish_cohort(Lake(home), versions[1], "synthetic")
    assert same(rows(home), versions[1])
    assert published.snapshot_id == latest_snapshot(Lake(home)) == snapshot_ids(home)[-1]
    assert set(published.changed) == {table.name for table in COHORT_TABLES}
    assert published.num_rows == {table.name: versions[1].table(table.name, ["synthetic"]).height for table in COHORT_TABLES}


def test_publishing_again_changes_no_row_and_makes_no_snapshot(store: Home, versions: tuple[Staged, Staged]) -> None:
    before, files = snapshot_ids(store), sorted(store.tables.rglob("*.parquet"))
    again = publish_cohort(Lake(store), versions[0], "synthetic")
    assert (again.snapshot_id, again.changed, again.num_rows["cases"]) == (None, (), 80)
    assert snapshot_ids(store) == before
    assert sorted(store.tables.rglob("*.parquet")) == files


def test_each_table_says_which_code_made_its_rows(store: Home, versions: tuple[Staged, Staged]) -> None:
    """Rows that other code made anew, and equal, stay as they were first written; changed ones are the new code's."""

    def recorded() -> dict[str, str]:
        with Lake(store).reader() as connection:
            query = "SELECT table_name, code_version FROM publications WHERE scope = 'synthetic'"
            return dict(connection.execute(query).fetchall())

    assert set(recorded().values()) == {versions[0].code_version}
    publish_cohort(Lake(store), replace(versions[0], code_version="newer"), "synthetic")
    assert set(recorded().values()) == {versions[0].code_version}
    changed = publish_cohort(Lake(store), replace(versions[1], code_version="newer"), "synthetic").changed
    assert {name for name, version in recorded().items() if version == "newer"} == set(changed)


def test_a_changed_source_changes_its_tables_only(
    store: Home, versions: tuple[Staged, Staged], corrupt: Corrupt, synthetic_contract: Contract
) -> None:
    lake, home, first = Lake(store), store, latest_snapshot(Lake(store))
    longer = pl.col("text") + pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(" Addendum: none.")).otherwise(pl.lit(""))
    staged = stage(synthetic_contract, corrupt({"reports.csv": lambda frame: frame.with_columns(longer)}), home)
    second = publish_cohort(lake, staged, "synthetic")
    assert second.changed == ("reports", "sources")
    assert same(rows(home), staged)
    # the old snapshot still gives the old rows, and going back is a change like any other
    assert same(rows(home, first), versions[0])
    third = publish_cohort(lake, versions[0], "synthetic")
    assert third.changed == ("reports", "sources")
    assert third.snapshot_id == snapshot_ids(home)[-1]
    assert same(rows(home), versions[0])
    assert same(rows(home, second.snapshot_id), staged)


def test_nothing_is_published_when_a_check_fails(home: Home, old_home: Home, versions: tuple[Staged, Staged]) -> None:
    old, new = versions
    strict = replace(new, contract=new.contract.model_copy(update={"max_quarantined_fraction": 0.01}))
    with pytest.raises(AuditError, match=r"cohort synthetic: few_rows_are_quarantined: rejected .*Nothing was published"):
        publish_cohort(Lake(home), strict, "synthetic")
    assert not Lake(home).exists
    shutil.copytree(old_home.root, home.root)
    before = snapshot_ids(home)
    with pytest.raises(AuditError):
        publish_cohort(Lake(home), strict, "synthetic")
    assert snapshot_ids(home) == before
    assert same(rows(home), old)


def spoiled(staged: Staged, folder: Path, table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Staged:
    """Return a copy of a staged contract with one table changed."""
    folder.mkdir()
    for path in staged.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(staged.table(table)).write_parquet(folder / f"{table}.parquet")
    return replace(staged, folder=folder)


@pytest.mark.parametrize(
    ("table", "change", "check"),
    [
        ("cases", lambda frame: pl.concat([frame, frame.head(1)]), "keys_are_unique: repeated keys: {'cases': 2}"),
        ("cases", lambda frame: frame.tail(-1), "rows_belong_to_cases: rows without a case"),
        ("cases", lambda frame: frame.with_columns(cancer_type=None), "values_are_declared: cases.cancer_type: 80 empty"),
        ("clinical", lambda frame: frame.with_columns(sex=pl.lit("F")), "clinical.sex: ['F'], expected one of"),
        ("clinical", lambda frame: frame.with_columns(age_at_diagnosis_years=-1.0), "clinical.age_at_diagnosis_years: under 0"),
        ("clinical", lambda frame: frame.with_columns(age_at_diagnosis_years=130.0), "clinical.age_at_diagnosis_years: over 120"),
        ("endpoints", lambda frame: frame.with_columns(duration_days=float("nan")), "endpoints.duration_days: under 0.0 or NaN"),
        ("endpoints", lambda frame: frame.with_columns(event_observed=False), "synthetic: 80 cases; os 80 cases with 0 events"),
        ("endpoints", lambda frame: frame.head(0), "outcomes_can_be_learned: synthetic: 80 cases; no outcome"),
    ],
)  # fmt: skip
def test_each_check_stops_publishing(
    home: Home, versions: tuple[Staged, Staged], tmp_path: Path, table: str, change: Callable, check: str
) -> None:
    with pytest.raises(AuditError) as raised:
        publish_cohort(Lake(home), spoiled(versions[0], tmp_path / "spoiled", table, change), "synthetic")
    assert check in str(raised.value)
    assert not Lake(home).exists


def test_a_cohort_without_overall_survival_can_be_learned(store: Home, versions: tuple[Staged, Staged], tmp_path: Path) -> None:
    other = spoiled(versions[0], tmp_path / "pfi", "endpoints", lambda frame: frame.filter(pl.col("endpoint") == "pfi"))
    assert publish_cohort(Lake(store), other, "synthetic").changed == ("endpoints",)


# --- kills


def test_a_kill_at_each_step_leaves_the_old_or_the_new_state(store: Home, versions: tuple[Staged, Staged]) -> None:
    """Before the commit it is the old one; a publisher killed after it has committed though it never said so."""
    (current, other), home = versions, store
    steps = [("_changed", 1), ("_insert", 1), ("_record", 1), ("record_objects", 1)]
    for kill_at in steps:
        assert ended(started(home, other, kill_at=kill_at)) == -signal.SIGKILL
        assert same(rows(home), other if kill_at == ("record_objects", 1) else current), kill_at
    before = snapshot_ids(home)
    # the acknowledgement of the last one was lost: the retry finds nothing to do
    retried = publish_cohort(Lake(home), other, "synthetic")
    assert (retried.snapshot_id, retried.changed) == (None, ())
    assert snapshot_ids(home) == before
    assert latest_snapshot(Lake(home)) == before[-1]


def test_kills_at_random_moments_leave_no_mix(home: Home, versions: tuple[Staged, Staged]) -> None:
    """From the first publication on, which also makes the catalog and the tables; each goes on from what the last kill left."""
    num_killed = 0
    for turn in range(4):
        process = started(home, versions[turn % 2])
        time.sleep(0.1 + 0.25 * turn)
        process.kill()
        num_killed += ended(process) == -signal.SIGKILL
        if Lake(home).exists:
            found = rows(home)
            assert any(same(found, version) for version in versions) or all(frame.is_empty() for frame in found.values())
    assert num_killed >= 2  # a quick machine may publish before the later kills
    for version in versions:
        publish_cohort(Lake(home), version, "synthetic")
        assert same(rows(home), version)


# --- several processes


@pytest.fixture(scope="module")
def two_cohorts(
    clean_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Staged, str, str]:
    """The landing as two cohorts, with names that SQL would stumble over were they not parameters."""
    names = ('O\'Hare "A"', "two; DROP TABLE cases; --")
    of_type = {"AMBER": names[0], "BIRCH": names[0], "CEDAR": names[1], "DUNE": names[1]}
    rule = Value(columns=("cancer_type",), map=of_type)
    contract = synthetic_contract.model_copy(
        update={"cohorts": names, "cases": synthetic_contract.cases.model_copy(update={"cohort": rule})}
    )
    return stage(contract, clean_landing, Home(tmp_path_factory.mktemp("two"))), *names


def test_two_processes_publish_two_cohorts_at_once(home: Home, two_cohorts: tuple[Staged, str, str]) -> None:
    staged, *names = two_cohorts
    processes = [started(home, staged, cohorts=(name,)) for name in names]
    assert [ended(process) for process in processes] == [0, 0]
    assert same(rows(home), staged)
    messages = sorted(snapshot.message for snapshot in Lake(home).snapshots())
    assert messages == ["", "create tables", *sorted(f"publish cohort {name}" for name in names)]


def test_one_cohort_leaves_the_other_alone(home: Home, two_cohorts: tuple[Staged, str, str], tmp_path: Path) -> None:
    staged, one, two = two_cohorts
    for name in (one, two):
        publish_cohort(Lake(home), staged, name)
    before = rows(home)
    fewer = spoiled(staged, tmp_path / "fewer", "reports", lambda frame: frame.filter(pl.col("cohort") != one))
    assert publish_cohort(Lake(home), fewer, one).changed == ("reports",)
    after = rows(home)
    assert after["reports"].equals(before["reports"].filter(pl.col("cohort") == two))
    assert all(after[name].equals(before[name]) for name in before if name != "reports")


def test_a_lock_held_too_long_is_a_typed_error(home: Home, versions: tuple[Staged, Staged]) -> None:
    home.catalog.parent.mkdir(parents=True)
    start = time.monotonic()
    with (
        FileLock(home.catalog.with_suffix(".lock")),
        pytest.raises(StoreBusyError, match=r"held by another process for over 0\.2 s"),
    ):
        publish_cohort(Lake(home, lock_timeout_s=0.2), versions[0], "synthetic")
    assert time.monotonic() - start < 5
    assert not Lake(home).exists


def test_a_reader_sees_one_snapshot_while_others_write(store: Home, versions: tuple[Staged, Staged]) -> None:
    """Also with other commits between its queries."""
    old, new = versions

    def read() -> int:
        with Lake(store).reader() as connection:
            first = connection.execute("SELECT table_name, content_sha256 FROM publications ORDER BY ALL").fetchall()
            time.sleep(0.2)
            counts = {table.name: _count(connection, table.name) for table in COHORT_TABLES}
            last = connection.execute("SELECT table_name, content_sha256 FROM publications ORDER BY ALL").fetchall()
        assert first == last
        assert counts in [{table.name: version.table(table.name).height for table in COHORT_TABLES} for version in versions]
        return counts["quarantine"]

    before = read()
    process = started(store, new, old, new)
    while process.is_alive():
        read()
    assert ended(process) == 0
    assert read() != before
    assert len(snapshot_ids(store)) == 3 + 3


def _count(connection, name: str) -> int:
    return int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])


# --- opening


def test_no_store_and_no_snapshot_are_named(home: Home, old_home: Home) -> None:
    with pytest.raises(StoreMissingError, match="no catalog at"), Lake(home).reader():
        pass
    with pytest.raises(StoreMissingError):
        Lake(home).snapshots()
    assert not home.root.exists()  # looking leaves nothing behind
    for snapshot_id in (-1, 0, 999):
        with (
            pytest.raises(SnapshotMissingError, match=f"no snapshot {snapshot_id}, expected"),
            Lake(old_home).reader(snapshot_id),
        ):
            pass


def test_an_empty_catalog_file_is_no_store(home: Home, versions: tuple[Staged, Staged]) -> None:
    """What a process killed while it opened its first catalog leaves."""
    home.catalog.parent.mkdir(parents=True)
    home.catalog.touch()
    with pytest.raises(StoreMissingError), Lake(home).reader():
        pass
    publish_cohort(Lake(home), versions[0], "synthetic")
    assert same(rows(home), versions[0])


def test_a_store_can_be_moved(store: Home, versions: tuple[Staged, Staged]) -> None:
    moved = Home(store.root.rename(store.root.parent / "moved"))
    assert same(rows(moved), versions[0])
    publish_cohort(Lake(moved), versions[1], "synthetic")
    assert same(rows(moved), versions[1])
    assert not store.root.exists()


def test_staging_outlives_the_store_but_not_its_bags(clean_landing: Path, synthetic_contract: Contract, home: Home) -> None:
    """Who deletes the store to start over must not get rows that name shards which are gone."""
    staged = stage(synthetic_contract, clean_landing, home)
    shards = set(staged.table("patch_bags")["shard"])
    for shard in home.bags.iterdir():
        shard.unlink()
    assert stage(synthetic_contract, clean_landing, home) == staged
    assert {path.name for path in home.bags.iterdir()} == shards


@pytest.fixture
def _tokyo() -> Iterator[None]:
    old = os.environ.get("TZ")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    yield
    os.environ.pop("TZ") if old is None else os.environ.update(TZ=old)
    time.tzset()


@pytest.mark.usefixtures("_tokyo")
def test_snapshot_times_are_utc_wherever_the_machine_is(home: Home) -> None:
    from datetime import UTC, datetime

    publish(Lake(home), [Write(CASES, "none", CASES.empty()), Write(QUARANTINE, "none", QUARANTINE.empty())], "nothing")
    found = datetime.fromisoformat(Lake(home).snapshots()[-1].committed_at)
    assert abs((datetime.now(UTC) - found).total_seconds()) < 60
