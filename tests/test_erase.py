"""Erasing a case: nothing of it left in any byte, every snapshot as it was but for the case, and no way back in."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import sqlite3
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import eraser
import polars as pl
import pytest
from postgres_server import PostgresMissingError, database, postgres_server
from typer.testing import CliRunner, Result

from faults.scan import Traces, hits
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.contract import Contract
from feature_store.erase.databases import columns_naming
from feature_store.erase.execute import erase_case
from feature_store.erase.identity import ERASED, Identity
from feature_store.erase.plan import plan_erasure
from feature_store.erase.tombstones import KEY_NAME, load_tombstones
from feature_store.errors import CaseMissingError, ErasureError, MiceError, StoreBusyError
from feature_store.home import Home
from feature_store.ingest.context import WAS_ERASED
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.maintenance import maintain
from feature_store.publish import Write, publish, publish_cohort
from feature_store.tables import BY_NAME, CASE_ALIASES, PREDICTIONS, REPORTS
from feature_store.verify import verify
from mice_cli.main import app
from mice_model.study import load_study

COHORT = "synthetic"
ALIAS = "REG-0000001"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["eraser"])
# where a row lies, and what follows from the rows: another after an erasure
MOVED = {"patch_bags": ["shard", "offset_bytes", "page_crc32"], "publications": ["content_sha256", "num_rows"]}
Snapshots = dict[int, dict[str, pl.DataFrame]]


def with_everything(home: Home) -> str:
    tables = ("rna", "copy_number", "mutations", "reports", "slides", "patch_bags", "folds")
    query = "SELECT min(case_id) FROM cases WHERE " + " AND ".join(f"case_id IN (SELECT case_id FROM {t})" for t in tables)
    with Lake(home).reader() as connection:
        return str(connection.execute(query).fetchall()[0][0])


def prediction(case_id: str) -> pl.DataFrame:
    row = {
        "case_id": case_id,
        "cohort": COHORT,
        "model_version": "m1",
        "study": "s",
        "snapshot_id": 2,
        "cancer_type": "amber",
        "endpoint": "os",
        "fold": 0,
        "risk_score": 1.5,
        "survival": [0.5],
        "bin_edges_days": [100.0],
        "experts": [1.0],
        "missing_modalities": "",
        "encoders": "",
        "protocol": "p",
    }
    return PREDICTIONS.conform(pl.DataFrame([row]))


def use(home: Home, case_id: str) -> None:
    """Give a store what one in use has: compacted files, deleted positions, mentions, a model, a cache, Dagster's storage."""
    lake = Lake(home)
    alias = {"case_id": case_id, "cohort": COHORT, "alias": ALIAS, "source": "registry", "source_sha256": "0"}
    aliases = CASE_ALIASES.conform(pl.DataFrame([alias, {**alias, "case_id": "SYN-AA-0002", "alias": "REG-0000002"}]))
    publish(lake, [Write(CASE_ALIASES, COHORT, aliases)], "aliases")
    with lake.reader() as connection:
        reports = pl.DataFrame(connection.execute("FROM reports").to_arrow_table())
    other = (
        reports.filter(pl.col("case_id") != case_id)
        .head(2)
        .with_columns(
            cohort=pl.lit("other"), text=pl.format("compare {} and {}'s", pl.lit(f"{case_id}-01A"), pl.lit(case_id.lower()))
        )
    )
    publish(lake, [Write(REPORTS, "other", other.with_columns(num_characters=pl.col("text").str.len_chars()))], "another cohort")
    maintain(home)
    changed = reports.with_columns(num_characters=pl.lit(1))
    publish(lake, [Write(REPORTS, COHORT, changed)], f"the reports again, because of {case_id}")
    publish(lake, [Write(PREDICTIONS, "m1", prediction(case_id))], "publish predictions of m1")
    with lake.catalog.connected() as connection:
        names = "SELECT DISTINCT t.table_name FROM ducklake_delete_file d JOIN ducklake_table t USING (table_id)"
        assert ("reports",) in connection.execute(names).fetchall(), "no deleted positions to be rewritten"
    study = load_study(Path(__file__).parents[1] / "studies" / "demo.yaml").model_dump(mode="json")
    for fold in range(3):
        (home.models / "m1" / f"fold-{fold}").mkdir(parents=True)
        (home.models / "m1" / f"fold-{fold}" / "pipeline.safetensors").touch()
    (home.models / "m1" / "plan.json").write_text(json.dumps({"snapshot_id": 2, "study": study, "code": "abc"}))
    prediction(case_id).write_parquet(home.models / "m1" / "out_of_fold.parquet")
    (home.models / "m1" / f"{case_id}.json").write_text(json.dumps({"case": case_id, "other": "SYN-AA-0002"}))
    home.cache.mkdir(exist_ok=True)
    (home.cache / "vectors.npy").write_bytes(b"\x93NUMPY")
    home.dagster.mkdir()
    (home.dagster / "log.txt").write_text(f"case {case_id} looks odd\n")
    with closing(sqlite3.connect(home.dagster / "runs.db")) as storage, storage:
        storage.execute("PRAGMA journal_mode = WAL")
        storage.execute("CREATE TABLE runs (body TEXT, snapshot BLOB)")
        storage.execute("INSERT INTO runs VALUES (?, ?)", [f"tag {case_id}", zlib.compress(f"{{'case': '{case_id}'}}".encode())])
        storage.execute("INSERT INTO runs VALUES (?, NULL)", [f"deleted {case_id}"])
        storage.execute("DELETE FROM runs WHERE body LIKE 'deleted%'")


def traces(home: Home, case_id: str) -> Traces:
    """Return what only the case has: its identifiers and the bytes of its values, as stored anywhere."""
    with Lake(home).reader() as connection:
        aliases = connection.execute("SELECT alias FROM case_aliases WHERE case_id = ?", [case_id]).fetchall()
        vector = connection.execute('SELECT "values" FROM rna WHERE case_id = ?', [case_id]).fetchall()[0][0]
    numbers = [pl.Series(vector[:8], dtype=pl.Float32).to_numpy().tobytes()]
    with BagReader(home.bags) as reader:
        numbers += [reader.read(bag)[0, :8].tobytes() for bag in bags(home) if bag.case_id == case_id]
    assert len(numbers) > 1
    return Traces((case_id, *(alias for (alias,) in aliases)), tuple(numbers))


def bags(home: Home) -> list[BagRecord]:
    columns = list(BagRecord.__dataclass_fields__)
    with Lake(home).reader() as connection:
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM patch_bags ORDER BY ALL").fetchall()
    return [BagRecord(**dict(zip(columns, row, strict=True))) for row in rows]


def bag_bytes(home: Home) -> dict[str, bytes]:
    with BagReader(home.bags) as reader:
        return {bag.slide_id: reader.read(bag, verify=True).tobytes() + reader.coordinates(bag).tobytes() for bag in bags(home)}


def snapshots(home: Home, numbers: Collection[int] = ()) -> Snapshots:
    """Return every table of every snapshot, or of those named, but where its rows lie."""
    found: Snapshots = {}
    for snapshot in Lake(home).snapshots():
        if snapshot.snapshot_id > 0 and (not numbers or snapshot.snapshot_id in numbers):
            with Lake(home).reader(snapshot.snapshot_id) as connection:
                names = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
                found[snapshot.snapshot_id] = {
                    name: pl.DataFrame(connection.execute(f'FROM "{name}"').to_arrow_table()).drop(MOVED.get(name, []))
                    for name in names
                    if name in BY_NAME and name != "tombstones"
                }
    return found


def without(before: Snapshots, case_id: str, others: set[str]) -> Snapshots:
    """Return what the snapshots are to hold without the case; `others`: its other identifiers."""
    return {
        snapshot_id: {name: _without(name, frame, frames, case_id, others) for name, frame in frames.items()}
        for snapshot_id, frames in before.items()
    }


def _without(name: str, frame: pl.DataFrame, frames: dict[str, pl.DataFrame], case_id: str, others: set[str]) -> pl.DataFrame:
    names = {case_id, *others}
    if "case_id" in frame.columns:
        frame = frame.filter(~pl.col("case_id").is_in(names))
    if BY_NAME[name].derived_from:
        ids = frames[BY_NAME[name].derived_from]["case_id"].sort()
        kept = [index for index, one in enumerate(ids) if one != case_id]
        values = [[row[index] for index in kept] for row in frame["values"]]
        frame = frame.with_columns(pl.Series("values", values, dtype=pl.List(pl.Float32)))
    if name == "quarantine":
        frame = frame.filter(~pl.col("case_id_found").fill_null("").str.to_uppercase().str.contains(case_id))
    if name == "sources":
        frame = frame.filter(~pl.col("path").str.contains(case_id))
    if name == "reports":
        text = pl.col("text").str.replace_all(f"(?i){case_id}(-01A)?\\b", ERASED)
        length = pl.when(text != pl.col("text")).then(text.str.len_chars()).otherwise(pl.col("num_characters"))
        frame = frame.with_columns(text=text, num_characters=length.cast(pl.Int32))
    return frame


def problems(home: Home) -> list[str]:
    """Return what verify finds, files without a checksum too, but for the model of empty files that `use` makes."""
    report = verify(home)
    notes = [note for note in report.notes if note.kind in ("unrecorded", "leftover")]
    return [str(found) for found in (*report.problems, *notes) if found.kind != "model"]


def differing(found: Snapshots, expected: Snapshots) -> list[tuple[int, str]]:
    """Return the tables of the expected snapshots whose rows are others than expected."""

    def rows(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sort(frame.columns)

    return [
        (snapshot_id, name)
        for snapshot_id, frames in expected.items()
        for name, frame in frames.items()
        if not rows(frame).equals(rows(found[snapshot_id][name]))
    ]


@pytest.fixture(scope="module")
def used(published_home: Home, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A store in use, for copying, and the case to erase."""
    home = Home(shutil.copytree(published_home.root, tmp_path_factory.mktemp("used") / "home"))
    case_id = with_everything(home)
    use(home, case_id)
    return home, case_id


@pytest.fixture
def home(used: tuple[Home, str], tmp_path: Path) -> Home:
    return Home(shutil.copytree(used[0].root, tmp_path / "home"))


@pytest.fixture
def case_id(used: tuple[Home, str]) -> str:
    return used[1]


def test_nothing_is_left_and_all_else_is_as_it_was(
    home: Home,
    case_id: str,
    dirty_landing: Path,
    synthetic_contract: Contract,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, before, bytes_before = traces(home, case_id), snapshots(home), bag_bytes(home)
    slides = {bag.slide_id for bag in bags(home) if bag.case_id == case_id}
    assert {hit.partition("/")[0] for hit in hits(home.root, wanted)} >= {"store", "staging", "models", "dagster"}
    with caplog.at_level(logging.DEBUG):
        done = erase_case(home, case_id)
    assert case_id not in caplog.text
    assert done.proof.is_clean
    assert hits(home.root, wanted) == []
    assert differing(snapshots(home), without(before, case_id, set(done.plan.names))) == []
    assert bag_bytes(home) == {slide: data for slide, data in bytes_before.items() if slide not in slides}
    assert problems(home) == []
    assert list(home.cache.rglob("*.npy")) == []
    assert json.loads((home.models / "m1" / f"{ERASED}.json").read_text()) == {"case": ERASED, "other": "SYN-AA-0002"}
    assert done.plan.models == ("m1",)
    assert json.loads((home.models / "m1" / "erased.json").read_text())["num_cases"] == 1
    assert any("clinical.csv" in source for source in done.plan.sources)
    assert not list(home.root.glob(".erasing-*"))
    assert (home.root / KEY_NAME).stat().st_mode & 0o777 == 0o600

    # once more: nothing to do, and counted once
    again = erase_case(home, case_id)
    assert again.proof.is_clean
    assert (again.plan.is_erased_already, again.plan.finds_anything) == (True, False)
    assert json.loads((home.models / "m1" / "erased.json").read_text())["num_cases"] == 1

    # and back: every source's rows of the case are refused, and named nowhere
    with caplog.at_level(logging.DEBUG):
        staged = stage(synthetic_contract, dirty_landing, home)
        publish_cohort(Lake(home), staged, COHORT)
    assert case_id not in caplog.text
    with Lake(home).reader() as connection:
        assert connection.execute("SELECT count(*) FROM cases WHERE case_id = ?", [case_id]).fetchall() == [(0,)]
        query = "SELECT DISTINCT table_name FROM quarantine WHERE reason = ? AND case_id_found IS NULL"
        assert {row[0] for row in connection.execute(query, [WAS_ERASED]).fetchall()} >= {"cases", "rna", "mutations", "reports"}
    assert hits(home.root, wanted) == []
    with pytest.raises(ErasureError, match="1 erased cases"):
        publish(Lake(home), [Write(PREDICTIONS, "m2", prediction(case_id))], "publish predictions of m2")
    assert problems(home) == []

    # without the key nobody could be refused
    (home.root / KEY_NAME).rename(tmp_path / "key")
    for refused in (lambda: stage(synthetic_contract, dirty_landing, home), lambda: erase_case(home, "SYN-AA-0002")):
        with pytest.raises(ErasureError, match="cannot be read"):
            refused()
    (home.root / KEY_NAME).write_bytes(bytes(32))
    with pytest.raises(ErasureError, match="another key"):
        load_tombstones(home)


def test_a_person_is_all_their_identifiers(home: Home, case_id: str) -> None:
    assert plan_erasure(home, case_id.lower()).names == (case_id.lower(), ALIAS)
    erase_case(home, ALIAS)
    with Lake(home).reader() as connection:
        assert connection.execute("SELECT count(*) FROM cases WHERE case_id = ?", [case_id]).fetchall() == [(0,)]
    tombstones = load_tombstones(home)
    assert tombstones.erased([case_id, ALIAS, "SYN-AA-9999", None]) == {case_id, ALIAS}


STEPS = (  # before each kind of thing that an erasure rewrites
    "note False",
    "bags False",
    "history False",
    "checksums False",
    "staging and cache False",
    "files False",
    "note True",
    "proof False",
)


def test_a_kill_at_each_step_is_finished_by_the_next_run(home: Home, case_id: str) -> None:
    wanted, whole_before = traces(home, case_id), snapshots(home)
    whole_after = without(whole_before, case_id, set(plan_erasure(home, case_id).names))
    outer = min(whole_before), max(whole_before)  # reading all of them takes longer than erasing
    before, after = ({number: whole[number] for number in outer} for whole in (whole_before, whole_after))
    states = []
    for step in STEPS:
        process = PROCESSES.Process(target=eraser.run, args=(home.root, case_id, step))
        process.start()
        process.join(300)
        assert process.exitcode in (-signal.SIGKILL, 0), step
        found = snapshots(home, outer)
        states.append((not differing(found, before), not differing(found, after)))
        assert any(states[-1]), f"killed at {step}: neither the old nor the new state"
    assert [is_new for _, is_new in states] == sorted(is_new for _, is_new in states)
    assert states[STEPS.index("history False")] == (True, False)
    assert states[STEPS.index("checksums False")] == (False, True)
    done = erase_case(home, case_id)
    assert done.proof.is_clean
    assert differing(snapshots(home), whole_after) == []
    assert hits(home.root, wanted) == []
    assert not list(home.root.glob(".erasing-*"))
    assert problems(home) == []
    assert json.loads((home.models / "m1" / "erased.json").read_text())["num_cases"] == 1


def test_an_ingest_under_way_is_waited_for(home: Home, case_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    from feature_store.erase import execute

    monkeypatch.setattr(execute, "_LOCK_TIMEOUT_S", 0.05)
    (lock,) = home.staging.glob("*.lock")
    with FileLock(lock), pytest.raises(StoreBusyError, match="erase again"):
        erase_case(home, case_id)
    assert erase_case(home, case_id).proof.is_clean


def test_a_case_of_which_nothing_is_known(home: Home) -> None:
    with pytest.raises(CaseMissingError, match="nothing at"):
        erase_case(home, "SYN-AA-9999")
    assert not (home.root / KEY_NAME).exists()


@contextmanager
def postgres() -> Iterator[str]:
    try:
        with postgres_server() as server, database(server, f"erase_{os.getpid()}") as url:
            yield url
    except PostgresMissingError as error:
        pytest.skip(str(error))


def test_on_postgresql(clean_landing: Path, synthetic_contract: Contract, tmp_path: Path) -> None:
    with postgres() as url:
        home = Home(tmp_path / "home", url)
        publish_cohort(Lake(home), stage(synthetic_contract, clean_landing, home), COHORT)
        case_id = with_everything(home)
        wanted, before = traces(home, case_id), snapshots(home)
        done = erase_case(home, case_id)
        assert done.proof.is_clean
        assert hits(home.root, wanted) == []
        with Lake(home).catalog.sole_use() as connection:
            assert columns_naming(connection, Identity(wanted.texts)) == []
        assert differing(snapshots(home), without(before, case_id, set(done.plan.names))) == []
        assert problems(home) == []


def test_command(home: Home, case_id: str) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["erase", case_id, "--home", str(home.root), *arguments])

    def files() -> dict[Path, bytes]:
        paths = [path for path in home.root.rglob("*") if path.is_file() and path.suffix in (".parquet", ".json", ".txt", ".db")]
        return {path: path.read_bytes() for path in paths}

    before = files()
    planned = run("--plan")
    assert planned.exit_code == 0
    assert "models that saw it or may have, to be trained again: 1" in planned.stdout
    assert json.loads(planned.stdout.splitlines()[-1])["rows"]["cases"] >= 1
    refused = run()
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert files() == before
    with zipfile.ZipFile(home.models / "m1" / "old.zip", "w") as archive:
        archive.writestr("note.txt", f"about {case_id}")
    done = run("--yes", "--format", "json")
    assert done.exit_code == 1
    figures = json.loads(done.stdout)
    assert (figures["hits"], figures["plan"]["models"]) == (1, ["m1"])
    assert "old.zip" in figures["left"][0]
    assert case_id not in done.stderr
    (home.models / "m1" / "old.zip").unlink()
    assert run("--yes").exit_code == 0
    nobody = CliRunner().invoke(app, ["erase", "SYN-AA-9999", "--home", str(home.root), "--yes"])
    assert nobody.exit_code == 2


def test_what_names_a_person() -> None:
    identity = Identity(("CASE-AB-1234",))
    for text in ("CASE-AB-1234", "case-ab-1234-01A", "x CASE_AB_1234.svs", "CASE\u2011AB\u20111234,", "(CASE-AB-1234)"):
        assert identity.is_named_in(text)
        assert not identity.is_named_in(identity.redacted(text))
    for text in ("CASE-AB-12345", "XCASE-AB-1234", "CASE-AB 1234"):
        assert not identity.is_named_in(text)
        assert identity.redacted(text) == text
    assert Identity(("17",)).redacted("17 of 17") == "17 of 17"
    assert Identity(("17",)).is_it(" 17")


def test_errors_are_the_platform_s_own() -> None:
    assert issubclass(ErasureError, MiceError)
