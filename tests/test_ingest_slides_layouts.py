"""The ways in which slides are listed: by a table, by names of files, by names of arrays in an archive; and by several."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Corrupt, read_table
from ingesting import reasons, rejected, state
from pydantic import TypeAdapter, ValidationError

from feature_store.audit import audit
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.contract.slide_sources import SlideSource
from feature_store.errors import ContractError, SourceFormatError
from feature_store.ingest.stage import Staged

NAME = r"(?P<slide_id>(?P<case_id>SYN-[A-Z0-9]{2}-[0-9]{4})-[^/]+)\.h5$"
FOLDER = {"layout": "slide_folder", "files": "slides/*.h5", "name": NAME, "encoder": {"name": "synthetic-32", "dim": 32}}
TABLE = {
    "layout": "slide_table", "path": "slides.csv", "case_id": {"column": "case_id"}, "slide_id": "slide_id",
    "files": "slides/{slide_id}.h5", "encoder": {"name": "synthetic-32", "dim": 32},
}  # fmt: skip
ARCHIVE = {
    "layout": "slide_archive", "files": "tma_*.npz", "slide_id": "{case_id}/{stain}", "padding": "zeros",
    "name": r"tma_(?P<stain>[A-Z0-9]+)\.npz/(?P<case_id>.+)$", "encoder": {"name": "texture", "dim": 4},
}  # fmt: skip
Stage = Callable[..., Staged]


def source(plain: dict[str, Any], **changes: Any) -> Any:
    return TypeAdapter(SlideSource).validate_python(plain | changes)


@pytest.fixture
def staged(read: Stage) -> Stage:
    """Return a function that stages a landing with these sources of slides and nothing else."""
    return lambda landing, *slides: read(landing, rna=(), copy_number=(), mutations=(), reports=(), slides=slides)


def bags(staged: Staged, folder: Path) -> dict[str, np.ndarray]:
    rows = staged.table("patch_bags").select(list(BagRecord.__dataclass_fields__))
    with BagReader(folder / "home" / "store" / "bags") as reader:
        return {row["slide_id"]: reader.read(BagRecord(**row), verify=True) for row in rows.iter_rows(named=True)}


def test_a_folder_without_a_table_gives_what_its_table_would(clean_landing: Path, staged: Stage, tmp_path: Path) -> None:
    columns = ["slide_id", "case_id", "cohort", "magnification"]
    by_table = staged(clean_landing, source(TABLE, magnification="magnification"))
    expected, rows = bags(by_table, tmp_path), by_table.table("slides").select(columns).sort("slide_id")
    by_name = staged(clean_landing, source(FOLDER))
    found = bags(by_name, tmp_path)
    assert set(found) == set(expected) != set()
    for slide_id, values in found.items():
        np.testing.assert_array_equal(values, expected[slide_id])
    assert by_name.table("slides").select(columns).sort("slide_id").equals(rows)  # no table said the magnification, the files did
    paths = set(by_name.table("sources")["path"])
    assert {f"slides/{slide_id}.h5" for slide_id in found} <= paths
    assert set(by_name.table("slides")["source_sha256"]) <= set(by_name.table("sources")["source_sha256"])


def test_names_that_tell_no_slide_or_an_unknown_case_are_rejected(corrupt: Corrupt, staged: Stage) -> None:
    landing = corrupt()
    some = sorted((landing / "slides").iterdir())
    some[0].rename(landing / "slides" / "scan of Tuesday.h5")
    some[1].rename(landing / "slides" / "SYN-ZZ-0001-01Z.h5")
    found = staged(landing, source(FOLDER))
    by_reason = dict(rejected(found, "slides").select("reason", "found").rows())
    assert by_reason[f"name does not match {NAME}"] == "slides/scan of Tuesday.h5"
    assert reasons(found, "slides", "SYN-ZZ-0001") == ["case is not in the cases table"]


def test_one_slide_at_two_magnifications_is_rejected(corrupt: Corrupt, staged: Stage) -> None:
    landing = corrupt()
    for scale in ("10x", "20x"):
        (landing / scale).mkdir()
    path = min((landing / "slides").iterdir())
    for scale in ("10x", "20x"):
        shutil.copy(path, landing / scale / path.name)
    found = staged(landing, source(FOLDER, files="*x/*.h5"))
    assert rejected(found, "slides")["reason"].to_list() == ["duplicate: rows of the same case contradict each other"] * 2
    assert found.table("patch_bags").is_empty()
    # from two sources, each of which has it once
    found = staged(landing, *(source(FOLDER, files=f"{scale}/*.h5") for scale in ("10x", "20x")))
    assert rejected(found, "slides")["reason"].to_list() == ["slide: one encoder has patches of it twice"] * 2
    assert found.table("slides").is_empty()
    assert found.table("patch_bags").is_empty()
    assert state(found, path.name[:11], "slide")[0] == "failed_check"


def test_two_encoders_of_a_slide_share_its_row(corrupt: Corrupt, staged: Stage) -> None:
    landing = corrupt()
    shutil.copytree(landing / "slides", landing / "other")
    for path in (landing / "other").iterdir():
        with h5py.File(path, "r+") as file:
            values = file["features"][:, :16]
            del file["features"]
            file["features"] = values
            file["coords"].attrs.clear()  # this writer says nothing of the slide
    other = source(FOLDER, files="other/*.h5", encoder={"name": "half", "dim": 16})
    found = staged(landing, source(FOLDER), other)
    assert found.table("slides")["slide_id"].is_unique().all()
    assert found.table("slides")["magnification"].null_count() == 0
    assert found.table("patch_bags").height == 2 * found.table("slides").height
    assert [check for check in audit(found, "synthetic") if not check.is_passed] == []
    for path in (landing / "other").iterdir():
        with h5py.File(path, "r+") as file:
            file["coords"].attrs["level0_magnification"] = 10
    found = staged(landing, source(FOLDER), other)
    assert set(rejected(found, "slides")["reason"]) == {"slide: sources describe it otherwise"}
    assert found.table("slides").is_empty()
    assert found.table("patch_bags").is_empty()


def test_a_contract_of_another_scale_than_the_files_is_refused_slide_by_slide(clean_landing: Path, staged: Stage) -> None:
    found = staged(clean_landing, source(TABLE, patches={"magnification": 10}))
    num_slides = read_table(clean_landing / "slides.csv").height
    why = rejected(found, "patch_bags")["reason"]
    assert len(why) == num_slides
    assert why.str.contains(r"0\.5 microns per pixel by its target_magnification 20, expected 1 \(10x\) by the contract").all()
    right = staged(clean_landing, source(TABLE, mpp="mpp", patches={"magnification": 20, "size_px": 256, "overlap_px": 0}))
    assert right.table("patch_bags").height == num_slides


def write_archives(landing: Path, vectors: dict[str, np.ndarray]) -> None:
    cases = read_table(landing / "clinical.csv")["case_id"].head(3).to_list()
    for stain, values in vectors.items():
        np.savez_compressed(landing / f"tma_{stain}.npz", **dict(zip(cases, values, strict=True)))


def test_archives_hold_an_array_per_case_and_stain(corrupt: Corrupt, staged: Stage, tmp_path: Path) -> None:
    landing = corrupt()
    values = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    padded = values.copy()
    padded[1, :2] = padded[1, 6:] = 0  # one core of four values, filled up on both sides
    padded[2, :3] = 0  # five values: no whole number of cores
    write_archives(landing, {"HE": values, "CD3": padded})
    found = staged(landing, source(ARCHIVE))
    cases = read_table(landing / "clinical.csv")["case_id"].head(3).to_list()
    there = bags(found, tmp_path)
    assert set(there) == {f"{case}/{stain}" for case in cases for stain in ("HE", "CD3")} - {f"{cases[2]}/CD3"}
    np.testing.assert_allclose(there[f"{cases[0]}/HE"], values[0].reshape(2, 4), rtol=1e-3)
    np.testing.assert_allclose(there[f"{cases[1]}/CD3"], padded[1, 2:6][None], rtol=1e-3)
    assert found.table("slides").sort("slide_id")["stain"].to_list() == ["CD3", "HE"] * 3
    (why,) = rejected(found, "patch_bags")["reason"]
    assert why == f"slide {cases[2]}/CD3: array float32 of shape (5,), expected floats (4,) once or more. Check the encoder."


def test_an_archive_that_cannot_be_read_stops_the_contract(corrupt: Corrupt, staged: Stage) -> None:
    landing = corrupt()
    (landing / "tma_HE.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SourceFormatError, match=r"source tma_HE\.npz: unreadable"):
        staged(landing, source(ARCHIVE))


@pytest.mark.parametrize(
    ("plain", "changes", "reason"),
    [
        (TABLE, {"files": "slides/{slide_id}.pt"}, "names pickled files.*safetensors where nothing can be harmed"),
        (TABLE, {"files": "slides/{slide_id}.bin"}, r"ends in '\.bin', expected one of \.h5"),
        (TABLE, {"files": "slides/{slide_id}.svs"}, r"whole slides need patches\.size_px"),
        (FOLDER, {"files": "slides/*"}, "ends in 'nothing'"),
        (FOLDER, {"name": r"(?P<slide_id>.+)\.h5"}, r"needs a group \(\?P<case_id>"),
        (FOLDER, {"name": r"(?P<case_id>.+)\.h5"}, "not made of the groups of name"),
        (FOLDER, {"slide_id": "{case_id.__class__}"}, "not made of the groups of name"),
        (FOLDER, {"slide_id": "one"}, "not made of the groups of name"),
        (FOLDER, {"arrays": {"features": "a/b"}}, "should match pattern"),
        (FOLDER, {"patches": {"mpp": 0.5, "magnification": 20}}, "exclude each other"),
        (ARCHIVE, {"files": "tma_*.h5"}, r"names no \.npz files"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(plain: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        source(plain, **changes)


def test_one_name_for_two_encoders_is_refused(clean_landing: Path, staged: Stage) -> None:
    with pytest.raises((ContractError, ValidationError), match="encoder synthetic-32 is declared with magnification None and 20"):
        staged(clean_landing, source(TABLE), source(FOLDER, patches={"magnification": 20}))
