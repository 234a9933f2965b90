"""`mice verify` on copies of the shared store: a sound one, and one for each kind of damage, which is found and named."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from feature_store.bag_file import write_shards
from feature_store.bag_reader import BagReader
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.tables import ALL_TABLES, COHORT_TABLES
from feature_store.verify import verify
from feature_store.verify_bags import _indexes, _values
from mice_cli.main import app


@pytest.fixture
def home(published_home, tmp_path):
    """A copy of the shared store that a test may damage."""
    shutil.copytree(published_home.root / "store", tmp_path / "home" / "store")
    return Home(tmp_path / "home")


def bags(home):
    with Lake(home).reader() as connection:
        query = "SELECT slide_id, case_id, shard, offset_bytes, num_patches * dim * 2 FROM patch_bags ORDER BY slide_id"
        return connection.execute(query).fetchall()


def flip(path, at, bit):
    """Flip one bit in a new file under the old name, as no writer of the platform ever would."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)


def table_files(home, table):
    return sorted((home.tables / "main" / table).glob("*.parquet"))


def test_a_sound_store(home):
    full, quick = verify(home), verify(home, is_quick=True)
    assert (full.problems, full.notes, quick.problems, quick.notes) == ([], [], [], [])
    found = bags(home)
    assert full.checked["bags"] == quick.checked["bags"] == len(found)
    assert full.checked["bag_bytes"] == sum(row[4] for row in found)
    assert (quick.checked["bag_bytes"], quick.checked["hashed_scopes"]) == (0, 0)
    assert full.checked["tables"] == len(ALL_TABLES)
    assert full.checked["objects"] == full.checked["table_files"] + full.checked["shards"]
    assert full.checked["table_files"] == len(list(home.tables.rglob("*.parquet")))
    assert full.checked["hashed_scopes"] == len(COHORT_TABLES) + 1  # and the contract's unassigned rejections


def test_single_flipped_bits_name_slide_and_case(home):
    found = bags(home)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(found))[:12]
    for turn, index in enumerate(chosen):
        _, _, shard, offset, num_bytes = found[index]
        # the first and the last value, one between, and the levels before the values
        at = (offset, offset + num_bytes - 1, offset + int(rng.integers(num_bytes)), offset - 1)[turn % 4]
        flip(home.bags / shard, at, int(rng.integers(8)))
    report = verify(home)
    named = {(finding.slide_id, finding.case_id) for finding in report.problems if finding.kind == "bag"}
    assert named == {found[index][:2] for index in chosen}
    assert all(
        f"slide {finding.slide_id} (case {finding.case_id})" in str(finding) for finding in report.problems if finding.slide_id
    )
    assert not verify(home, is_quick=True).problems


def test_any_flipped_bit_in_an_embedding_page_names_the_slide_and_none_raises(tmp_path):
    rng = np.random.default_rng(1)
    offered = [
        SlideBag(
            f"s{i}",
            f"c{i}",
            rng.integers(0, 999, (9, 2), np.int32),
            rng.normal(size=(9, 4)).astype("<f2"),
            "0" * 64,
            0,
            None,
            None,
        )
        for i in range(3)
    ]
    records = write_shards(tmp_path, offered, EncoderInfo("e", "0" * 64, 4, "none"))
    path = tmp_path / records[0].shard
    whole = path.read_bytes()
    pages = {at: record.slide_id for record in records for at in range(record.offset_bytes - 1, record.offset_bytes + 9 * 4 * 2)}
    for at in rng.permutation(len(whole))[:150].tolist():
        path.unlink()
        path.write_bytes(whole)
        flip(path, at, int(rng.integers(8)))
        with BagReader(tmp_path) as reader:
            damaged = [record.slide_id for record in records if _values(record, reader)]
        list(_indexes(tmp_path, records))
        if at in pages:
            assert damaged == [pages[at]]


def test_a_flipped_coordinate_is_found(home):
    slide_id, case_id, shard, offset, _ = max(bags(home), key=lambda row: row[4])
    data = (home.bags / shard).read_bytes()
    # the coordinates of a row group lie before its embedding, each a zstd frame where there are many
    flip(home.bags / shard, data.rfind(b"\x28\xb5\x2f\xfd", 0, offset) + 12, 0)
    assert {(finding.slide_id, finding.case_id) for finding in verify(home).problems} == {(slide_id, case_id)}


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_missing_shard_names_every_slide_in_it(home, is_quick):
    found = bags(home)
    (home.bags / found[0][2]).unlink()
    problems = verify(home, is_quick=is_quick).problems
    assert {(p.slide_id, p.case_id) for p in problems} == {row[:2] for row in found if row[2] == found[0][2]}
    assert {p.found for p in problems} == {"no such shard"}


def test_a_truncated_shard(home):
    found = bags(home)
    path, middle = home.bags / found[0][2], sorted(found, key=lambda row: row[3])[len(found) // 2][3]
    data = path.read_bytes()[:middle]
    path.unlink()
    path.write_bytes(data)
    quick = {finding.slide_id for finding in verify(home, is_quick=True).problems}
    full = verify(home).problems
    assert quick == {row[0] for row in found if row[2] == path.name and row[3] + row[4] > middle}
    assert {finding.slide_id for finding in full if finding.slide_id} == {row[0] for row in found if row[2] == path.name}
    assert any(finding.kind == "shard" for finding in full)


@pytest.mark.parametrize("is_quick", [True, False])
def test_missing_and_truncated_table_files(home, is_quick):
    gone, short = table_files(home, "clinical")[0], table_files(home, "rna")[0]
    gone.unlink()
    os.truncate(short, short.stat().st_size // 2)
    problems = verify(home, is_quick=is_quick).problems
    files = {finding.which: finding.found for finding in problems if finding.kind == "table_file"}
    assert files.pop(f"table clinical, file main/clinical/{gone.name}") == "missing"
    assert "bytes instead of" in files.pop(f"table rna, file main/rna/{short.name}")
    assert files == {}
    rows = {finding.which for finding in problems if finding.kind == "rows"}
    assert rows == (set() if is_quick else {"table clinical, synthetic", "table rna, synthetic"})


def test_a_flipped_bit_in_a_table_file(home):
    path = table_files(home, "rna")[0]
    flip(path, path.stat().st_size // 3, 3)
    problems = verify(home).problems
    assert problems
    assert all("table rna" in finding.which or path.name in finding.which for finding in problems)


def test_a_flipped_bit_where_no_reader_looks_is_found(home):
    """In the footer's name of the program that wrote it."""
    shard = home.bags / bags(home)[0][2]
    flip(shard, shard.read_bytes().rindex(b"mice-platform") + 2, 0)
    assert [(finding.kind, finding.which) for finding in verify(home).problems] == [("object", f"file store/bags/{shard.name}")]


def test_hashes_of_another_version_are_a_note(home):
    with Lake(home).transaction("age", "k") as transaction:
        transaction.connection.execute("UPDATE publications SET content_sha256 = 'x'")
    report = verify(home)
    assert (report.problems, [finding.kind for finding in report.notes]) == ([], ["unchecked"])
    with Lake(home).transaction("one", "k") as transaction:
        query = "UPDATE publications SET idempotency_key = 'later', written_at = '2999' WHERE table_name = 'rna'"
        transaction.connection.execute(query)
    report = verify(home)
    assert [finding.which for finding in report.problems] == ["table rna, synthetic"]
    assert [finding.kind for finding in report.notes] == ["unchecked"]


def test_shards_of_older_snapshots_orphans_and_leftovers_are_notes(home):
    shard = bags(home)[0][2]
    with Lake(home).transaction("withdraw", "k") as transaction:
        transaction.connection.execute("DELETE FROM patch_bags WHERE shard = ?", [shard])
        transaction.connection.execute("DELETE FROM publications WHERE table_name = 'patch_bags'")
    bag = SlideBag("s", "c", np.zeros((3, 2), np.int32), np.ones((3, 4), np.float16), "0" * 64, 0, None, None)
    (record,) = write_shards(home.bags, [bag], EncoderInfo("e", "0" * 64, 4, "none"))
    (home.bags / ".abc.parquet.tmp").touch()
    (home.staging / "tcga" / ".partial-1").mkdir(parents=True)
    report = verify(home)
    assert report.problems == []
    found = {finding.which: finding.found for finding in report.notes}
    assert found.pop(f"shard {shard}") == "named by an older snapshot only"
    assert found.pop(f"shard {record.shard}") == "named by no snapshot"
    assert set(found) == {"store/bags/.abc.parquet.tmp", "staging/tcga/.partial-1"}
    assert (home.bags / record.shard).is_file()


def test_columns_that_are_not_as_declared(home):
    with Lake(home).transaction("alter", "k") as transaction:
        transaction.connection.execute("ALTER TABLE slides DROP COLUMN stain")
        transaction.connection.execute("ALTER TABLE clinical ALTER diagnosis_year SET TYPE BIGINT")
        transaction.connection.execute("DROP TABLE evaluations")
    found = {finding.which: finding.found for finding in verify(home, is_quick=True).problems}
    assert found == {
        "column slides.stain": "missing",
        "column clinical.diagnosis_year": "BIGINT",
        "table evaluations": "not in the catalog",
    }


def test_models_lacking_a_file(home):
    fold = home.models / "m1" / "fold-0"
    fold.mkdir(parents=True)
    for name in ("whole", "no-json", "short"):
        save_file({"a": np.ones(100, np.float32)}, fold / f"{name}.safetensors")
    for name in ("whole", "no-weights", "short"):
        (fold / f"{name}.json").write_text("{}")
    os.truncate(fold / "short.safetensors", 200)
    (fold / ".x.partial").touch()
    report = verify(home)
    found = {finding.which: finding.found for finding in report.problems}
    assert found == {
        "model m1": "no plan.json",
        "model m1, fold-0/no-json": "no .json",
        "model m1, fold-0/no-weights": "no .safetensors",
        "model m1, fold-0/short": "a file that cannot be read",
    }
    assert [finding.which for finding in report.notes] == ["models/m1/fold-0/.x.partial"]
    assert report.checked["model_parts"] == 4


def test_a_damaged_catalog_is_a_finding(home):
    home.catalog.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    for wal in home.catalog.parent.glob("catalog.sqlite-*"):
        wal.unlink()
    problems = verify(home).problems
    assert {finding.kind for finding in problems} == {"catalog"}
    assert "Restore catalog.sqlite" in str(problems[0])


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_lost_catalog_is_a_finding(home, is_empty):
    for path in home.catalog.parent.glob("catalog.sqlite*"):
        path.unlink()
    if is_empty:
        home.catalog.touch()
    assert {finding.found for finding in verify(home).problems} == {"no tables in it, though there are their files"}


def run(home, *arguments):
    return CliRunner().invoke(app, ["verify", "--home", str(home.root), *arguments])


def test_command(home, tmp_path):
    done = run(home, "--quick")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["problems"] == 0
    slide_id, case_id, shard, offset, _ = bags(home)[0]
    flip(home.bags / shard, offset, 0)
    done = run(home)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"problem: bag of slide {slide_id} (case {case_id}) in {shard}: fails its verified read")
    counts = json.loads(lines[-1])
    assert (counts["problems"], counts["notes"], counts["found"], counts["quick"]) == (1, 0, {"bag": 1}, False)
    missing = run(Home(tmp_path / "none"))
    assert missing.exit_code == 2
    assert "no catalog at" in missing.stderr
