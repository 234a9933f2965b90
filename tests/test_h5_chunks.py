"""Reading chunks past HDF5: the same values as HDF5 gives, whatever the layout."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from feature_store.ingest.h5_chunks import _offsets, read_all

VALUES = np.random.default_rng(0).normal(size=(301, 24)).astype(np.float32)


def write(path: Path, values: np.ndarray = VALUES, **options: object) -> Path:
    with h5py.File(path, "w", **{name: options.pop(name) for name in ("userblock_size", "libver") if name in options}) as file:
        file.create_dataset("features", data=values, **options)
        file.create_dataset("coords", data=np.zeros((len(values), 2), np.int64), chunks=(1, 2), maxshape=(None, 2))
    return path


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
        assert (_offsets(dataset) is not None) == is_direct
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
        assert _offsets(file["features"]) is not None
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
