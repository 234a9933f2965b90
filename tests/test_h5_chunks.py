"""Reading chunks past HDF5: the same values as HDF5 gives, whatever the layout."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from feature_store.ingest.h5_chunks import _is_plain, _offsets, read_all
from feature_store.ingest.h5_index import chunk_offsets

VALUES = np.random.default_rng(0).normal(size=(301, 24)).astype(np.float32)


def write(path: Path, values: np.ndarray = VALUES, **options: object) -> Path:
    with h5py.File(path, "w", **{name: options.pop(name) for name in ("userblock_size", "libver") if name in options}) as file:
        file.create_dataset("features", data=values, **options)
        file.create_dataset("coords", data=np.zeros((len(values), 2), np.int64), chunks=(1, 2), maxshape=(None, 2))
    return path


def offsets_of(dataset: h5py.Dataset, path: Path) -> np.ndarray | None:
    with path.open("rb") as file:
        return _offsets(dataset, file.fileno()) if _is_plain(dataset) else None


def indexed(dataset: h5py.Dataset, path: Path) -> np.ndarray | None:
    with path.open("rb") as file:
        return chunk_offsets(dataset, file.fileno(), -(-dataset.shape[0] // dataset.chunks[0]))


@pytest.mark.parametrize(
    ("options", "is_direct"),
    [
        ({"chunks": (1, 24), "maxshape": (None, 24)}, True),
        ({"chunks": (7, 24)}, True),  # the last chunk reaches beyond the last row
        ({"chunks": (301, 24)}, True),
        ({"chunks": (1, 24), "libver": "latest"}, True),
        ({"chunks": (1, 24), "dtype": ">f8"}, True),
        ({"chunks": (1, 12)}, False),
        ({"chunks": (16, 24), "compression": "gzip"}, False),
        ({"chunks": (16, 24), "shuffle": True}, False),
        ({"chunks": (16, 24), "userblock_size": 512}, False),
        ({}, False),
    ],
)
def test_values_are_those_of_hdf5(tmp_path: Path, options: dict[str, object], is_direct: bool) -> None:
    path = write(tmp_path / "a.h5", **options)
    with h5py.File(path) as file:
        dataset = file["features"]
        assert (offsets_of(dataset, path) is not None) == is_direct
        found, expected = read_all(dataset, path), dataset[...]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_rows_that_were_written_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", shape=(0, 24), maxshape=(None, 24), chunks=(1, 24), dtype="f4")
        coords = file.create_dataset("coords", shape=(0, 2), maxshape=(None, 2), chunks=(1, 2), dtype="i8")
        for begin in range(0, 301, 50):  # as TRIDENT appends batches
            end = min(begin + 50, 301)
            features.resize(end, axis=0)
            coords.resize(end, axis=0)
            features[begin:end] = VALUES[begin:end]
            coords[begin:end] = begin
    with h5py.File(path) as file:
        assert offsets_of(file["features"], path) is not None
        np.testing.assert_array_equal(read_all(file["features"], path), VALUES)
        np.testing.assert_array_equal(read_all(file["coords"], path), file["coords"][...])


def test_rows_that_were_never_written_are_the_fill_value(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape=(10, 24), chunks=(1, 24), dtype="f4", fillvalue=3.0)[0] = 1.0
    with h5py.File(path) as file:
        found = read_all(file["features"], path)
    assert found[0, 0] == 1
    assert (found[1:] == 3).all()


def test_one_row_and_none(tmp_path: Path) -> None:
    for num_rows in (0, 1):
        path = write(tmp_path / f"{num_rows}.h5", VALUES[:num_rows], chunks=(1, 24), maxshape=(None, 24))
        with h5py.File(path) as file:
            np.testing.assert_array_equal(read_all(file["features"], path), VALUES[:num_rows])


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    path, cut = write(tmp_path / "a.h5", chunks=(1, 24)), tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:9000])
    with h5py.File(path) as file, pytest.raises(OSError, match="end after"):
        read_all(file["features"], cut)


def asked_of_hdf5(dataset: h5py.Dataset) -> list[int]:
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    return [info.byte_offset for info in sorted(found, key=lambda info: info.chunk_offset)]


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 4_000, 9_000])  # a leaf, a full one, two levels, three
def test_the_index_says_what_hdf5_says(tmp_path: Path, num_rows: int) -> None:
    values = np.random.default_rng(1).normal(size=(num_rows, 3)).astype("f4")
    path = write(tmp_path / "a.h5", values, chunks=(1, 3), maxshape=(None, 3))
    with h5py.File(path, "a") as file:
        for number in range(40):  # attributes push the layout's neighbours into a continuation of the header
            file["features"].attrs[f"about {number}"] = "x" * 200
    with h5py.File(path) as file:
        for name in ("features", "coords"):
            assert indexed(file[name], path).tolist() == asked_of_hdf5(file[name])


def test_rows_written_out_of_order_are_found_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", shape=(301, 24), chunks=(1, 24), dtype="f4")
        for row in np.random.default_rng(2).permutation(301):
            features[row] = VALUES[row]
    with h5py.File(path) as file:
        assert np.diff(indexed(file["features"], path)).min() < 0
        np.testing.assert_array_equal(read_all(file["features"], path), VALUES)


def test_of_newer_structures_nothing_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", chunks=(1, 24), libver="latest")
    with h5py.File(path) as file:
        assert indexed(file["features"], path) is None


def test_a_damaged_index_is_none_or_right(tmp_path: Path) -> None:
    """Every byte of the header and the tree's nodes changed in turn: no other answer, no error, no endless walk."""
    path, damaged = write(tmp_path / "a.h5", VALUES[:70], chunks=(1, 24)), tmp_path / "damaged.h5"
    rng, original = np.random.default_rng(3), path.read_bytes()
    with h5py.File(path) as file:
        dataset = file["features"]
        address, right = h5py.h5o.get_info(dataset.id).addr, asked_of_hdf5(dataset)
        places = [at for start in (address, *(at for at in range(len(original)) if original[at : at + 4] == b"TREE")) for at in
                  range(start, min(start + 400, len(original)))]  # fmt: skip
        num_none = 0
        for at in places:
            damaged.write_bytes(original[:at] + bytes([original[at] ^ int(rng.integers(1, 256))]) + original[at + 1 :])
            found = indexed(dataset, damaged)
            num_none += found is None
            # an address that still lies inside the file cannot be told from a right one here: HDF5 would follow it as well
            assert found is None or len(found) == len(right)
    assert num_none > len(places) / 8
