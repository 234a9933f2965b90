"""One h5 file per slide as TRIDENT (and CLAM) writes it: datasets `features` (N, dim) and `coords` (N, 2).

Refuses, before reading a value, what can make an h5 file read other files or fill the memory (links, external and virtual
datasets, object types, a size the file cannot hold).
"""

import math
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_store.errors import BagInputError

# gzip of float features reaches 2:1 at best; a claim beyond this ratio to the file's size is not honest data.
_MAX_EXPANSION = 64
# What h5py raises over damaged files, beside OSError.
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError)


def read_patches(path: Path, slide_id: str, dim: int) -> tuple[NDArray[np.floating], NDArray[np.integer], int]:
    """Return (features (N, dim), coords (N, 2) level-0 pixels, patch size in level-0 pixels, 0 if not said).

    Raises BagInputError naming the slide, what was found and what was expected.
    """
    try:
        with h5py.File(path, "r") as file:
            num_bytes = path.stat().st_size
            features, coords = _dataset(file, "features", slide_id, num_bytes), _dataset(file, "coords", slide_id, num_bytes)
            shape = features.shape[1:] if features.ndim == 3 and features.shape[0] == 1 else features.shape  # CLAM's batch of 1
            if len(shape) != 2 or shape[1] != dim:
                raise BagInputError(
                    f"slide {slide_id}: features of shape {features.shape}, expected (N, {dim}). Check the encoder."
                )
            if coords.shape != (shape[0], 2):
                raise BagInputError(
                    f"slide {slide_id}: {shape[0]} features and coords of shape {coords.shape}, expected one x, y per patch. "
                    "Extract the slide again."
                )
            if features.dtype.kind != "f" or coords.dtype.kind not in "iuf":
                raise BagInputError(f"slide {slide_id}: types {features.dtype} and {coords.dtype}, expected floats and integers.")
            size = coords.attrs.get("patch_size_level0", coords.attrs.get("patch_size", 0))
            values, xy = features[...].reshape(shape), _pixels(coords[...], slide_id)
            if _is_constant(values):
                raise BagInputError(f"slide {slide_id}: the same values in every patch, expected an encoder's. Extract it again.")
            return values, xy, int(size)
    except _UNREADABLE as error:
        raise BagInputError(f"slide {slide_id}: unreadable h5 ({error}), expected TRIDENT's layout. Extract it again.") from error


def _dataset(file: h5py.File, name: str, slide_id: str, file_bytes: int) -> h5py.Dataset:
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        kind = "nothing" if link is None else type(link).__name__
        raise BagInputError(f"slide {slide_id}: {name} is {kind}, expected a dataset in the file itself. Refused.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.dtype.kind == "O":
        raise BagInputError(f"slide {slide_id}: {name} is not plain data in the file itself. Refused.")
    claimed = dataset.dtype.itemsize * math.prod(dataset.shape or (0,))  # in Python's integers: a claim may pass 2**63
    if claimed > _MAX_EXPANSION * file_bytes:
        raise BagInputError(f"slide {slide_id}: {name} claims {claimed:,} bytes in a file of {file_bytes:,}. Refused.")
    return dataset


def _pixels(coords: NDArray[np.number], slide_id: str) -> NDArray[np.integer]:
    """Return coordinates as integers; some writers store them as floats, which must then be whole."""
    if coords.dtype.kind != "f":
        return coords.astype(np.int64, copy=False)
    if not (np.isfinite(coords) & (coords == np.rint(coords)) & (np.abs(coords) < 2**31)).all():
        raise BagInputError(f"slide {slide_id}: coords that are not whole pixels, expected integers. Extract the slide again.")
    return coords.astype(np.int64)


def _is_constant(values: NDArray[np.floating]) -> bool:
    """Say whether several patches all hold the same values; the second patch tells for nearly every slide."""
    is_repeated = len(values) > 1 and bool((values[1] == values[0]).all())
    return is_repeated and bool((values == values[0]).all())
