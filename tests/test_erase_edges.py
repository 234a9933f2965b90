"""Erasing a case out of the ordinary: identifiers of others, links, damaged files, a history of rows by gene."""

import gzip
import shutil
from pathlib import Path

import polars as pl
import pytest

from feature_store.erase.execute import erase_case
from feature_store.erase.plan import plan_erasure
from feature_store.errors import ErasureError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.maintenance import maintain
from feature_store.publish import Write, publish
from feature_store.tables import CASES, GENE_PANELS, RNA, RNA_BY_FEATURE, Table
from feature_store.transposed import by_feature
from feature_store.verify import verify


@pytest.fixture
def home(published_home: Home, tmp_path: Path) -> Home:
    return Home(shutil.copytree(published_home.root, tmp_path / "home"))


def current(home: Home, table: Table, snapshot_id: int | None = None) -> pl.DataFrame:
    with Lake(home).reader(snapshot_id) as connection:
        return pl.DataFrame(connection.execute(f'FROM "{table.name}" ORDER BY ALL').to_arrow_table())


@pytest.fixture
def case_id(home: Home) -> str:
    with Lake(home).reader() as connection:
        query = "SELECT min(case_id) FROM cases WHERE case_id IN (SELECT case_id FROM patch_bags JOIN rna USING (case_id))"
        return str(connection.execute(query).fetchall()[0][0])


def with_cases(home: Home, *case_ids: str) -> None:
    rows = current(home, CASES).head(len(case_ids)).with_columns(cohort=pl.lit("other"), case_id=pl.Series(case_ids))
    publish(Lake(home), [Write(CASES, "other", rows)], "publish cohort other")


@pytest.mark.parametrize(
    ("given", "why"),
    [("TCGA-02", "2 other cases begin with it"), ("tcga_02", "2 other cases"), ("PAT-12a", "1 other cases differ from it")],
)
def test_what_would_take_others_along_is_refused(home: Home, given: str, why: str) -> None:
    with_cases(home, "TCGA-02-0001", "TCGA-02-0002", "PAT-12a", "PAT-12A")
    before = current(home, CASES)
    for act in (plan_erasure, erase_case):
        with pytest.raises(ErasureError, match=why):
            act(home, given)
    assert current(home, CASES).equals(before)


def test_signs_that_sql_knows_are_only_signs(home: Home) -> None:
    with_cases(home, odd := "o'b\"r$-(12345")
    assert erase_case(home, odd).proof.is_clean
    assert current(home, CASES).filter(pl.col("cohort") == "other").is_empty()


@pytest.mark.parametrize("name", ["tables", "bags", "models"])
def test_a_folder_that_is_a_link_to_another_disk_is_the_home_s(home: Home, case_id: str, tmp_path: Path, name: str) -> None:
    folder, far = getattr(home, name), tmp_path / "another disk"
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text(case_id)
    shutil.move(folder, far)
    folder.symlink_to(far)
    proof = erase_case(home, case_id).proof
    left = {path.name for path in far.rglob("*") if path.is_file() and case_id.encode() in path.read_bytes()}
    # what does not belong among the store's own files is named, not changed
    assert {hit.path.name for hit in proof.hits} == left == ({"notes.txt"} if name != "models" else set())
    assert verify(home).problems == []


@pytest.mark.parametrize("start", [b"PAR1", b"SQLite format 3\0", b"\x1f\x8b", b"PK\x03\x04", b"\xff\xfe"])
def test_a_file_that_is_not_what_it_seems_is_left_and_named(home: Home, case_id: str, start: bytes) -> None:
    home.reports.mkdir(exist_ok=True)
    (home.reports / "damaged").write_bytes(start + case_id.encode())
    (home.reports / "packed.gz").write_bytes(gzip.compress(b"\xff " + case_id.encode()))
    (home.reports / "sound.html").write_text(f"about {case_id}")
    proof = erase_case(home, case_id).proof
    assert {hit.path.name for hit in proof.hits} == {"damaged", "packed.gz"}
    assert (home.reports / "sound.html").read_text() == "about [erased]"


def test_a_missing_table_file_stops_it_before_anything_is_changed(home: Home, case_id: str) -> None:
    gone = next(home.tables.rglob("clinical/*.parquet"))
    gone.rename(home.root / "kept")
    with pytest.raises(ErasureError, match="mice verify") as error:
        erase_case(home, case_id)
    assert case_id not in str(error.value)
    (home.root / "kept").rename(gone)
    assert erase_case(home, case_id).proof.is_clean


@pytest.mark.parametrize("keep_days", [None, 0.0])
def test_rows_by_gene_stay_those_of_the_cases_in_every_snapshot(home: Home, keep_days: float | None) -> None:
    """The case at another place in each version, alone in one cohort, absent from another; compacted, or expired as well."""
    lake, rna = Lake(home), current(home, RNA)
    panel = current(home, GENE_PANELS).filter(pl.col("modality") == "rna")
    ids = rna["case_id"].sort().to_list()
    case_id = ids[7]

    def publish_rna(cohort: str, case_ids: list[str]) -> None:
        frames = [frame.with_columns(cohort=pl.lit(cohort)) for frame in (rna.filter(pl.col("case_id").is_in(case_ids)), panel)]
        rows = dict(zip((RNA, GENE_PANELS), frames, strict=True)) | {RNA_BY_FEATURE: by_feature(*frames, RNA_BY_FEATURE)}
        publish(lake, [Write(table, cohort, frame) for table, frame in rows.items()], f"publish cohort {cohort}")

    publish_rna("absent", ids[:7] + ids[8:12])
    publish_rna("some", ids[3:9])
    publish_rna("alone", [case_id])
    publish_rna("synthetic", ids[:2] + ids[3:])
    maintain(home, keep_days=keep_days, grace_s=0)
    publish_rna("some", ids[5:20])
    publish_rna("synthetic", ids[:7] + ids[8:])
    maintain(home, grace_s=0)
    snapshot_ids = [snapshot.snapshot_id for snapshot in lake.snapshots() if snapshot.snapshot_id > 1]
    before = {snapshot_id: current(home, RNA, snapshot_id) for snapshot_id in snapshot_ids}
    assert erase_case(home, case_id).proof.is_clean
    for snapshot_id, old in before.items():
        new = current(home, RNA, snapshot_id)
        assert new.equals(old.filter(pl.col("case_id") != case_id), null_equal=True)
        panels = current(home, GENE_PANELS, snapshot_id)
        expected = pl.concat([by_feature(rows, panels, RNA_BY_FEATURE) for (_,), rows in sorted(new.group_by("cohort"), key=str)])
        found = RNA_BY_FEATURE.conform(current(home, RNA_BY_FEATURE, snapshot_id))
        assert found.sort(RNA_BY_FEATURE.key).equals(expected.sort(RNA_BY_FEATURE.key), null_equal=True)
    assert verify(home).problems == []
