"""One slide's file: every kind gives the same patches, and what could harm or mislead is refused before it is read."""

import io
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from feature_store.contract.rules import Encoder
from feature_store.contract.slide_sources import PATCH_ENDINGS, PatchArrays, PatchGrid
from feature_store.errors import BagInputError
from feature_store.ingest.patch_attributes import PatchAttributes, refuse_contradictions
from feature_store.ingest.patch_file import READERS, read_patches

DIM = 8
FEATURES = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
COORDS = np.arange(10).reshape(5, 2) * 512


def write_h5(path: Path, **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = FEATURES
        file["coords"] = COORDS
        file["coords"].attrs.update(attributes)
    return path


def write_npy(path: Path) -> Path:
    np.save(path, FEATURES)
    return path


def written(folder: Path, ending: str) -> Path:
    path = folder / f"slide{ending}"
    arrays = {"features": FEATURES, "coords": COORDS}
    writers: dict[str, Callable[[], Any]] = {
        ".h5": lambda: write_h5(path),
        ".hdf5": lambda: write_h5(path),
        ".safetensors": lambda: save_file(arrays, path),
        ".npz": lambda: np.savez_compressed(path, **arrays),
        ".npy": lambda: write_npy(path),
    }
    writers[ending]()
    return path


def test_every_ending_that_a_contract_may_name_has_a_reader() -> None:
    assert tuple(READERS) == PATCH_ENDINGS


@pytest.mark.parametrize("ending", PATCH_ENDINGS)
def test_every_kind_gives_the_same_patches(tmp_path: Path, ending: str) -> None:
    arrays = PatchArrays(coords=None) if ending == ".npy" else PatchArrays()
    patches = read_patches(written(tmp_path, ending), "s", DIM, arrays)
    np.testing.assert_array_equal(patches.features, FEATURES)
    np.testing.assert_array_equal(patches.coords, np.zeros((5, 2)) if ending == ".npy" else COORDS)
    assert patches.size_px == 0


def test_coordinates_are_never_made_up(tmp_path: Path) -> None:
    with pytest.raises(BagInputError, match="slide s: coords is nothing"):
        read_patches(written(tmp_path, ".npy"), "s", DIM)


def test_arrays_of_other_names_are_named(tmp_path: Path) -> None:
    save_file({"feats": FEATURES, "xy": COORDS}, tmp_path / "s.safetensors")
    patches = read_patches(tmp_path / "s.safetensors", "s", DIM, PatchArrays(features="feats", coords="xy"))
    np.testing.assert_array_equal(patches.coords, COORDS)


TRIDENT = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20, "overlap": 0}


def test_trident_and_clam_say_the_same_in_other_words(tmp_path: Path) -> None:
    trident = read_patches(write_h5(tmp_path / "t.h5", **TRIDENT), "s", DIM)
    assert trident.size_px == 512
    said = PatchAttributes(256, 512, magnification=20, overlap_px=0, level0_magnification=40)
    assert trident.attributes == said
    clam = {"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0]), "name": "someone"}
    assert read_patches(write_h5(tmp_path / "c.h5", **clam), "s", DIM).size_px == 1024
    unknown = {"patch_size": 256, "patch_level": 1, "level0_magnification": -1}
    assert read_patches(write_h5(tmp_path / "u.h5", **unknown), "s", DIM).attributes == PatchAttributes(256)
    save_file({"features": FEATURES, "coords": COORDS}, tmp_path / "m.safetensors", {n: str(v) for n, v in TRIDENT.items()})
    assert read_patches(tmp_path / "m.safetensors", "s", DIM).attributes == said


@pytest.mark.parametrize(
    ("said", "declared", "slide", "reason"),
    [
        ({"target_magnification": 20}, {"magnification": 10}, {}, "0.5 microns per pixel by its target_magnification 20"),
        ({"target_mpp": 0.25}, {"magnification": 20}, {}, "0.25 microns per pixel by its target_mpp"),
        ({"patch_size": 224}, {"size_px": 256}, {}, "patch_size 224 px"),
        ({"overlap": 0}, {"overlap_px": 64}, {}, "overlap 0 px"),
        ({"level0_magnification": 40}, {}, {"magnification": 20.0}, "level0_magnification 40"),
        ({"mpp": 0.25}, {}, {"mpp": 0.5}, "level0_mpp 0.25"),
        ({"encoder": "UNI2-h"}, {}, {}, "encoder 'UNI2-h'"),
        # CLAM at level 0 of a 40x scan, taken for 20x: what the file says only together with the slide's resolution
        ({"patch_size": 256, "patch_level": 0}, {"magnification": 20}, {"mpp": 0.2433}, "256 px of 0.2433 microns as 256 px"),
    ],
)
def test_a_file_that_contradicts_its_contract_is_refused(
    said: dict[str, object], declared: dict[str, Any], slide: dict[str, Any], reason: str
) -> None:
    encoder, slide = Encoder(name="uni", dim=DIM), {"mpp": None, "magnification": None, **slide}
    with pytest.raises(BagInputError, match=reason):
        refuse_contradictions(PatchAttributes.of(said), encoder, PatchGrid(**declared), **slide)


@pytest.mark.parametrize(
    ("said", "declared"),
    [
        (TRIDENT, {"magnification": 20, "size_px": 256, "overlap_px": 0}),
        (TRIDENT, {"mpp": 0.5}),
        ({}, {"mpp": 0.5}),
        (TRIDENT, {}),
    ],
)
def test_a_file_that_agrees_or_says_nothing_is_taken(said: dict[str, object], declared: dict[str, Any]) -> None:
    refuse_contradictions(PatchAttributes.of(said), Encoder(name="UNI v1", dim=DIM), PatchGrid(**declared), 0.2527, 40.0)
    refuse_contradictions(PatchAttributes.of({"encoder": "uni_v1"}), Encoder(name="UNI v1", dim=DIM), PatchGrid(), None, None)


def test_an_attribute_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagInputError, match="attribute patch_size is 'large'"):
        read_patches(write_h5(tmp_path / "s.h5", patch_size="large"), "s", DIM)


class Bomb:
    """Unpickling one fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a file was unpickled",))


def object_npy(path: Path) -> None:
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)


def object_npz(path: Path) -> None:
    np.savez(path, features=np.array([Bomb()], dtype=object), coords=COORDS)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"features": Bomb()}))


def npy_bytes(shape: tuple[int, ...], data: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def claiming_npy(path: Path) -> None:
    path.write_bytes(npy_bytes((2**37, DIM), b"\0" * 64))


def claiming_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy_bytes((2**37, DIM), b"\0" * 64))
        archive.writestr("coords.npy", npy_bytes((2**37, 2), b"\0" * 64))


def bomb_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", npy_bytes((2**21, DIM), b"\0" * (2**21 * DIM * 4)))
        archive.writestr("coords.npy", npy_bytes((2**21, 2), b"\0" * (2**21 * 8)))


def twice_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", npy_bytes((5, DIM), FEATURES.tobytes()))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("features.npy", npy_bytes((5, DIM), FEATURES.tobytes()))


def claiming_tensors(path: Path) -> None:
    header = b'{"features":{"dtype":"F32","shape":[137438953472,8],"data_offsets":[0,4398046511104]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)


def bfloat16(path: Path) -> None:
    header = b'{"features":{"dtype":"BF16","shape":[1,8],"data_offsets":[0,16]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)


def unknown_filter(path: Path) -> None:
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((5, DIM))
        plist.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((5, DIM))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, plist))
        dataset.id.write_direct_chunk((0, 0), FEATURES.tobytes(), filter_mask=0)
        file["coords"] = COORDS


def soft_link(path: Path) -> None:
    write_h5(path)
    with h5py.File(path, "r+") as file:
        file.move("features", "elsewhere")
        file["features"] = h5py.ExternalLink("/etc/passwd", "/features")


HOSTILE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "object npy": (".npy", object_npy, "holds object"),
    "object npz": (".npz", object_npz, "holds object"),
    "pickle called npy": (".npy", pickled, "unreadable npy"),
    "pickle called npz": (".npz", pickled, "unreadable npz"),
    "pickle called safetensors": (".safetensors", pickled, "unreadable safetensors"),
    "pickle called h5": (".h5", pickled, "unreadable h5"),
    "pickle": (".pt", pickled, "safetensors where nothing can be harmed"),
    "4 TB npy": (".npy", claiming_npy, "claims 4,398,046,511,104 bytes"),
    "4 TB npz": (".npz", claiming_npz, "claims 4,398,046,511,104 bytes"),
    "zip bomb": (".npz", bomb_npz, r"claims 67,108,\d+ bytes"),
    "member twice": (".npz", twice_npz, "2 arrays of 1 names"),
    "4 TB safetensors": (".safetensors", claiming_tensors, "unreadable safetensors"),
    "bfloat16": (".safetensors", bfloat16, "of type BF16"),
    "unknown filter": (".h5", unknown_filter, "unreadable h5"),
    "external link": (".h5", soft_link, "features is an external link"),
    "unknown ending": (".xml", pickled, "ends in '.xml'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    ending, make, reason = HOSTILE[name]
    make(tmp_path / f"s{ending}")
    with pytest.raises(BagInputError, match=reason) as raised:
        read_patches(tmp_path / f"s{ending}", "s", DIM, PatchArrays(coords=None) if ending == ".npy" else PatchArrays())
    assert str(raised.value).startswith("slide s: ")


def test_refusing_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    """Row 18: under 200 MB and 1 s of processor time, for all hostile files one after the other."""
    for number, (ending, make, _) in enumerate(HOSTILE.values()):
        make(tmp_path / f"{number}{ending}")
    code = """
import resource, sys
from pathlib import Path
from feature_store.errors import BagInputError
from feature_store.ingest.patch_file import read_patches
before = resource.getrusage(resource.RUSAGE_SELF)
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_patches(path, "s", 8)
    except BagInputError:
        refused += 1
after = resource.getrusage(resource.RUSAGE_SELF)
print(refused, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, (after.ru_maxrss - before.ru_maxrss) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    num_refused, seconds, num_bytes = map(float, done.stdout.split())
    assert num_refused == len(HOSTILE)
    assert seconds < 1
    assert num_bytes < 200e6


@pytest.mark.parametrize("num_patches", [1, 300_000])
def test_very_small_and_very_large_slides(tmp_path: Path, num_patches: int) -> None:
    features = np.random.default_rng(0).normal(size=(num_patches, DIM)).astype(np.float16)
    coords = np.stack([np.arange(num_patches), np.arange(num_patches)], axis=1)
    save_file({"features": features, "coords": coords}, tmp_path / "s.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    patches = read_patches(tmp_path / "s.safetensors", "s", DIM)
    assert patches.features.shape == (num_patches, DIM)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 20 * features.nbytes + 50e6


def test_one_patch_of_one_value_is_no_encoders(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.full((1, DIM), 0.5, np.float32))
    with pytest.raises(BagInputError, match="the same values in every patch"):
        read_patches(tmp_path / "s.npy", "s", DIM, PatchArrays(coords=None))


@pytest.mark.parametrize("ending", PATCH_ENDINGS)
@settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_typed_errors_only(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    whole = written(tmp_path, ending).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[start + data.draw(st.integers(0, 200)) :])
    try:
        read_patches(path, "s", DIM, PatchArrays(coords=None) if ending == ".npy" else PatchArrays())
    except BagInputError:
        return
