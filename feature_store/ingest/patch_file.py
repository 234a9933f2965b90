"""One slide's file of patch features, of whatever kind: what is asked of it before it is read, and what comes out.

What belongs here: what holds for every kind. How a kind is laid out: h5_file.py, array_files.py. What a bag may hold:
bag_record.py.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from feature_store.contract.slide_sources import PICKLED, UNPICKLING, PatchArrays
from feature_store.errors import BagInputError
from feature_store.ingest.array_files import open_npy, open_npz, open_safetensors
from feature_store.ingest.h5_file import open_h5
from feature_store.ingest.patch_arrays import Declared, Opened, Reader
from feature_store.ingest.patch_attributes import KNOWN_ATTRIBUTES, PatchAttributes

READERS: dict[str, Reader] = {
    ".h5": open_h5,
    ".hdf5": open_h5,
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".npy": open_npy,
}
# What the readers raise over damaged files.
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, SafetensorError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Patches:
    """A slide's patches as its file has them: `features` (N, dim), `coords` (N, 2) level-0 pixels, in the same order."""

    features: NDArray[np.floating]
    coords: NDArray[np.integer]
    attributes: PatchAttributes

    @property
    def size_px(self) -> int:
        """The patches' size in level-0 pixels, 0 where the file does not say."""
        return round(self.attributes.level0_size_px or 0)


def read_patches(path: Path, slide_id: str, dim: int, arrays: PatchArrays | None = None) -> Patches:
    """Return what a file holds of a slide; its ending says how it is read.

    Raises BagInputError naming the slide, what was found and what was expected; a pickled file is not opened.
    """
    ending = path.suffix.lower()
    if ending not in READERS:
        remedy = UNPICKLING if ending in PICKLED else f"Expected one of {', '.join(READERS)}."
        raise BagInputError(f"slide {slide_id}: a file that ends in {ending!r}. {remedy}")
    names = arrays or PatchArrays()
    wanted = (names.features,) if names.coords is None else (names.features, names.coords)
    try:
        with READERS[ending](path, wanted, KNOWN_ATTRIBUTES) as opened:
            attributes = PatchAttributes.of(opened.attributes)
            features, coords = _values(opened, names, dim)
    except BagInputError as error:
        raise BagInputError(f"slide {slide_id}: {error}") from error
    except UNREADABLE as error:
        raise BagInputError(
            f"slide {slide_id}: unreadable {ending.lstrip('.')} ({error}), expected features and coordinates. Extract it again."
        ) from error
    return Patches(features, coords, attributes)


def refuse_constant(features: NDArray[np.floating]) -> None:
    """Raise BagInputError where every patch has the same values, or the only one a single value throughout: no encoder's work."""
    if len(features) == 1:
        is_constant = features.size > 1 and bool((features == features[0, 0]).all())
    else:  # the second patch tells for nearly every slide
        is_constant = len(features) > 1 and bool((features[1] == features[0]).all()) and bool((features == features[0]).all())
    if is_constant:
        raise BagInputError("the same values in every patch, expected an encoder's. Extract it again.")


def _values(opened: Opened, names: PatchArrays, dim: int) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Return (features (N, dim), coords (N, 2)), having looked at what is declared of both before reading either."""
    features = _array(opened, names.features)
    shape = _without_batch(features.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise BagInputError(f"features of shape {features.shape}, expected (N, {dim}). Check the encoder.")
    if features.dtype.kind != "f":
        raise BagInputError(f"features of type {features.dtype}, expected floats. Check the encoder.")
    coords = None if names.coords is None else _array(opened, names.coords)
    if coords is not None and _without_batch(coords.shape) != (shape[0], 2):
        raise BagInputError(
            f"{shape[0]} features and coords of shape {coords.shape}, expected one x, y per patch. Extract the slide again."
        )
    values = features.read().reshape(shape)
    refuse_constant(values)
    return values, np.zeros((shape[0], 2), np.int32) if coords is None else _pixels(coords.read().reshape(-1, 2))


def _array(opened: Opened, name: str) -> Declared:
    if name not in opened.arrays:
        raise BagInputError(f"{name} is nothing, expected an array of the file. Name it under `arrays`, or extract it again.")
    return opened.arrays[name]


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the batch of one that CLAM may leave in front."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _pixels(coords: NDArray[np.number]) -> NDArray[np.integer]:
    """Return coordinates as integers; some writers store them as floats, which must then be whole."""
    if coords.dtype.kind != "f":
        return coords.astype(np.int64, copy=False)
    if not (np.isfinite(coords) & (coords == np.rint(coords)) & (np.abs(coords) < 2**31)).all():
        raise BagInputError("coords that are not whole pixels, expected integers. Extract the slide again.")
    return coords.astype(np.int64)
