"""Slides and their bags: what comes out of a slide's file, and which files are refused."""

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import changed, of_case, reasons, rejected, slide_of, state

from feature_store.audit import audit
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord, EncoderInfo, SlideBag
from feature_store.contract import Contract
from feature_store.contract.slide_sources import SlideVectorSource
from feature_store.errors import ColumnMissingError, SourceFormatError
from feature_store.ingest import stage as stage_module
from feature_store.ingest.context import Ingest
from feature_store.ingest.stage import Staged
from feature_store.synthetic_files import write_table


def test_bags_hold_the_values_of_their_files(slides: Callable[..., Staged], clean_landing: Path, tmp_path: Path) -> None:
    staged = slides(clean_landing)
    listed = read_table(clean_landing / "slides.csv")
    bags = staged.table("patch_bags")
    assert bags.height == listed.height
    with BagReader(tmp_path / "home" / "store" / "bags") as reader:
        for row in bags.head(5).iter_rows(named=True):
            record = BagRecord(**{name: row[name] for name in BagRecord.__dataclass_fields__})
            with h5py.File(clean_landing / "slides" / f"{row['slide_id']}.h5") as file:
                np.testing.assert_array_equal(reader.read(record, verify=True), file["features"][:])
                np.testing.assert_array_equal(reader.coordinates(record), file["coords"][:])
    described = staged.table("slides").sort("slide_id").select("slide_id", "case_id", "mpp", "magnification", "stain")
    source = listed.sort("slide_id").with_columns(pl.col("mpp", "magnification").cast(pl.Float64))
    assert described.equals(source.select(described.columns))


def link_out(file: h5py.File, other: Path) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink(str(other), "/features")


def link_soft(file: h5py.File, other: Path) -> None:
    file["elsewhere"] = file["features"]
    del file["features"]
    file["features"] = h5py.SoftLink("/elsewhere")


def external(file: h5py.File, other: Path) -> None:
    del file["features"]
    file.create_dataset("features", (40, 32), "f2", external=[("/etc/passwd", 0, 2560)])


def virtual(file: h5py.File, other: Path) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((40, 32), "f2")
    layout[:] = h5py.VirtualSource(str(other), "features", (40, 32))
    file.create_virtual_dataset("features", layout)


def objects(file: h5py.File, other: Path) -> None:
    del file["features"]
    file.create_dataset("features", (40, 32), h5py.string_dtype())


def claim(file: h5py.File, other: Path) -> None:
    del file["features"], file["coords"]
    file.create_dataset("features", (2**35, 32), "f4", chunks=(1024, 32))  # 4 TB, of which nothing is written
    file.create_dataset("coords", (2**35, 2), "i4", chunks=(1024, 2))


def claim_beyond_int64(file: h5py.File, other: Path) -> None:
    del file["features"], file["coords"]
    file.create_dataset("features", (2**60, 32), "f4", chunks=(1024, 32))
    file.create_dataset("coords", (2**60, 2), "i4", chunks=(1024, 2))


def width(file: h5py.File, other: Path) -> None:
    values = file["features"][:, :16]
    del file["features"]
    file["features"] = values


def replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File, Path], None]:
    def edit(file: h5py.File, other: Path) -> None:
        values = change(file[name][:])
        del file[name]
        file[name] = values

    return edit


SPOILED: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external link": (link_out, "features is an external link"),
    "soft link": (link_soft, "features is a soft link"),
    "external dataset": (external, "features is not plain data"),
    "virtual dataset": (virtual, "features is not plain data"),
    "object dtype": (objects, "features is not plain data"),
    "a group": (lambda file, _: (file.pop("features"), file.create_group("features")), "features is not plain data"),
    "4 TB claim": (claim, "features claims 4,398,046,511,104 bytes"),
    "claim beyond int64": (claim_beyond_int64, "features claims"),
    "nothing": (lambda file, _: file.pop("coords"), "coords is nothing"),
    "other width": (width, r"expected \(N, 32\)"),
    "no patches": (lambda file, _: [replaced(n, lambda v: v[:0])(file, _) for n in ("features", "coords")], "0 patches"),
    "integers": (replaced("features", lambda v: v.astype("i4")), "features of type int32"),
    "NaN": (replaced("features", lambda v: np.full_like(v, np.nan)), "NaN or Inf"),
    "Inf": (replaced("features", lambda v: np.where(v > 1, np.inf, v).astype("f2")), "NaN or Inf"),
    "float16 overflow": (replaced("features", lambda v: v.astype("f4") * 1e6), "values beyond float16"),
    "all zero": (replaced("features", np.zeros_like), "the same values in every patch"),
    "coords beyond int32": (replaced("coords", lambda v: v + 2**32), "int32 pixels"),
    "coords NaN": (replaced("coords", lambda v: v * np.nan), "not whole pixels"),
    "coords fractions": (replaced("coords", lambda v: v + 0.5), "not whole pixels"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_slide_is_refused_with_its_reason(corrupt: Corrupt, slides: Callable[..., Staged], name: str) -> None:
    landing = corrupt()
    spoil, reason = SPOILED[name]
    slide_id, case_id, path = slide_of(landing)
    with h5py.File(path, "r+") as file:
        spoil(file, slide_of(landing, 1)[2])
    staged = slides(landing)
    rows = rejected(staged, "patch_bags")
    assert rows["found"].to_list() == [slide_id]
    assert rows["reason"].str.contains(reason).to_list() == [True], rows["reason"].item()
    found, why = state(staged, case_id, "slide")
    assert (found, why) == ("failed_check", rows["reason"].item())


def test_whole_coordinates_written_as_floats_are_taken(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    with h5py.File(slide_of(landing)[2], "r+") as file:
        replaced("coords", lambda v: v.astype("f8"))(file, landing)
    assert rejected(slides(landing), "patch_bags").is_empty()


def test_clams_leading_batch_axis_is_taken(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    with h5py.File(slide_of(landing)[2], "r+") as file:
        replaced("features", lambda v: v[None])(file, landing)
    assert rejected(slides(landing), "patch_bags").is_empty()


def test_torn_and_flipped_slide_files_give_typed_errors_only(
    corrupt: Corrupt, slides: Callable[..., Staged], tmp_path: Path
) -> None:
    from feature_store.errors import BagInputError
    from feature_store.ingest.patch_file import read_patches

    whole = slide_of(corrupt())[2].read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "torn.h5"
    num_refused = 0
    for trial in range(300):
        data = bytearray(whole)
        if trial < 100:
            data = data[: len(data) * trial // 100]
        else:  # the headers lie in the first and last kilobytes
            for at in rng.integers(0, 2048, 3):
                data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read_patches(path, "torn", 32)
        except BagInputError:
            num_refused += 1
    assert num_refused >= 100


@pytest.mark.parametrize("slide_id", ["../../outside", "x" * 300, "/etc/passwd"])
def test_a_slide_name_does_not_lead_out_of_the_landing(corrupt: Corrupt, slides: Callable[..., Staged], slide_id: str) -> None:
    landing = corrupt({"slides.csv": changed("slide_id", slide_id)})
    shutil.copy(slide_of(landing, 1)[2], landing.parent / "outside.h5")
    rows = rejected(slides(landing), "patch_bags")
    assert rows["found"].to_list() == [slide_id]
    assert "in the landing folder, expected its patch features" in rows["reason"].item()


def test_a_link_out_of_the_landing_is_not_followed(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    slide_id, _, path = slide_of(landing)
    path.rename(landing.parent / "outside.h5")
    path.symlink_to(landing.parent / "outside.h5")
    assert rejected(slides(landing), "patch_bags")["found"].to_list() == [slide_id]


def test_the_same_slide_at_two_magnifications_is_refused(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt(
        {"slides.csv": lambda f: pl.concat([f, f.filter(~of_case.is_duplicated())[0].with_columns(magnification=pl.lit("10"))])}
    )
    _, case_id, _ = slide_of(corrupt())
    staged = slides(landing)
    reason = "duplicate: rows of the same case contradict each other"
    assert reasons(staged, "slides", case_id) == [reason] * 2
    assert state(staged, case_id, "slide") == ("failed_check", reason)


@pytest.mark.parametrize("mpp", ["", "0", "-0.25", "nan", "inf", "0,25"])
def test_a_slide_without_its_declared_resolution_is_refused(corrupt: Corrupt, slides: Callable[..., Staged], mpp: str) -> None:
    landing = corrupt({"slides.csv": changed("mpp", mpp)})
    staged = slides(landing)
    rows = rejected(staged, "patch_bags")
    assert rows["found"].to_list() == [read_table(landing / "slides.csv")["slide_id"][0]]
    assert "mpp missing or not positive" in rows["reason"].item()
    assert all(check.is_passed for check in audit(staged, "synthetic"))


def test_slide_vectors_are_bags_of_one_patch(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, tmp_path: Path
) -> None:
    def vectors(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.head(3).select("case_id", pl.Series("A b", ["1", "-3e9", "NA"]), pl.Series("c.d", ["0", "7", "1"]))

    landing = corrupt()
    write_table(landing / "vectors.csv", vectors(read_table(landing / "clinical.csv")))
    spec = SlideVectorSource.model_validate(
        {
            "layout": "vector_table", "path": "vectors.csv", "case_id": {"column": "case_id"}, "features": "(A_B|C_D)",
            "transform": "signed_log1p", "encoder": {"name": "two", "dim": 2},
        }
    )  # fmt: skip
    staged = bare(landing, slides=(spec,), missing_values=("", "NA"))
    bags = staged.table("patch_bags").sort("slide_id")
    assert bags.select("num_patches", "dim").rows() == [(1, 2)] * 2
    assert reasons(staged, "patch_bags") == ["slide vector has missing values"]
    with BagReader(tmp_path / "home" / "store" / "bags") as reader:
        records = [BagRecord(**{n: row[n] for n in BagRecord.__dataclass_fields__}) for row in bags.iter_rows(named=True)]
        values = {record.case_id: reader.read(record)[0] for record in records}
    source = read_table(landing / "vectors.csv")["case_id"]
    np.testing.assert_allclose(values[source[0]], [np.log(2), 0], rtol=1e-3)
    np.testing.assert_allclose(values[source[1]], [-np.log1p(3e9), np.log(8)], rtol=1e-3)
    wide = spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"dim": 3})})
    with pytest.raises(ColumnMissingError, match=r"2 columns match .* expected the 3 features of two"):
        bare(landing, slides=(wide,))


def test_all_slides_lost_stops_publishing(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    for path in (landing / "slides").iterdir():
        with h5py.File(path, "r+") as file:
            width(file, path)
    staged = slides(landing)
    assert staged.wholly_rejected == ("patch_bags",)
    failed = [check for check in audit(staged, "synthetic") if not check.is_passed]
    assert [check.name for check in failed] == ["few_rows_are_quarantined"]
    assert "'patch_bags': '100.0%'" in failed[0].found


def test_an_error_in_a_table_does_not_wait_for_the_slides(
    read: Callable[..., Staged], clean_landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, offered = threading.Event(), []

    def slow(_directory: Path, bags: Iterable[SlideBag], _encoder: EncoderInfo, **_more: object) -> list[BagRecord]:
        for bag in bags:
            offered.append(bag.slide_id)
            begun.set()
            time.sleep(0.05)
        return []

    def failing(_ingest: Ingest) -> pl.DataFrame:
        begun.wait(10)
        raise SourceFormatError("mutations: unreadable")

    monkeypatch.setattr(stage_module, "write_shards", slow)
    monkeypatch.setattr(stage_module, "read_mutations", failing)
    with pytest.raises(SourceFormatError, match="unreadable"):
        read(clean_landing)
    num_slides = len(list((clean_landing / "slides").iterdir()))
    assert 1 <= len(offered) < num_slides / 2
