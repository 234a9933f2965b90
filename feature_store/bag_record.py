"""A slide's bag: what is offered for storing, what may be stored, and the record of where it lies.

Belongs here: the structures of a bag and the checks on its values. Does not belong here: files, pages and offsets
(bag_file.py, bag_page.py), copying values out for training (bag_reader.py).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_store.bag_page import FLOAT16_BYTES
from feature_store.errors import BagInputError

FLOAT16_MAX = 65_504.0
INT32_MAX = 2**31 - 1
# Levels take 6 bytes a row, or a bit a value where eight does not divide a row (bag_parquet.py), and a few beside.
_LEVEL_BYTES_PER_ROW = 16
# Bytes checked and converted at a time: they stay in the processor's cache in between.
_BLOCK_BYTES = 1 << 19


@dataclass(frozen=True)
class EncoderInfo:
    """The patch encoder: its name, the sha256 of its weights, output width, and the normalisation of its input."""

    name: str
    weight_sha256: str
    dim: int
    normalisation: str


@dataclass(frozen=True, eq=False)
class SlideBag:
    """One slide's patches: `xy` (N, 2) level-0 pixels of each patch's corner, `embedding` (N, dim), in the same order.

    `patch_size_px` is 0, `mpp` (micrometres per pixel) and `magnification` are None where the source does not say.
    """

    slide_id: str
    case_id: str
    xy: npt.NDArray[np.integer]
    embedding: npt.NDArray[np.floating]
    source_sha256: str
    patch_size_px: int
    mpp: float | None
    magnification: float | None


@dataclass(frozen=True)
class BagRecord:
    """Where one slide's bag lies: a row of the table patch_bags, and all that a direct read needs.

    The values are `num_patches` * `dim` little-endian float16 at `offset_bytes` of the file `shard` (a name in the
    store's bag folder). `page_crc32` is Parquet's checksum of the page, `bag_sha256` the hash of the values alone.
    """

    slide_id: str
    case_id: str
    encoder: str
    shard: str
    offset_bytes: int
    num_patches: int
    dim: int
    page_crc32: int
    bag_sha256: str
    source_sha256: str


def checked_arrays(bag: SlideBag, encoder: EncoderInfo) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
    """Return (embedding as float16 (N, dim), xy as int32 (N, 2)), both C-contiguous, or raise BagInputError."""
    which = f"Bag of slide {bag.slide_id!r} (case {bag.case_id!r})"
    embedding, xy = np.asarray(bag.embedding), np.asarray(bag.xy)
    if not bag.slide_id or not bag.case_id:
        raise bag_input_error(which, "an empty identifier", "a slide and a case id")
    if embedding.ndim != 2 or embedding.shape[1] != encoder.dim or encoder.dim < 1 or embedding.dtype.kind != "f":
        found = f"embedding {embedding.dtype} of shape {embedding.shape}"
        raise bag_input_error(which, found, f"floating (N, {encoder.dim}) as {encoder.name} gives")
    num_patches = len(embedding)
    if num_patches == 0:
        raise bag_input_error(which, "0 patches", "at least 1")
    if xy.shape != (num_patches, 2) or xy.dtype.kind not in "iu":
        raise bag_input_error(which, f"xy {xy.dtype} of shape {xy.shape}", f"integers ({num_patches}, 2), one per patch")
    if np.abs(np.array([xy.min(), xy.max()], dtype=np.float64)).max() > INT32_MAX:
        raise bag_input_error(which, f"coordinates from {xy.min()} to {xy.max()}", "int32 pixels")
    page_bytes = num_patches * (encoder.dim * FLOAT16_BYTES + max(_LEVEL_BYTES_PER_ROW, encoder.dim // 8 + 1))
    if page_bytes > INT32_MAX:
        found = f"{num_patches} patches x {encoder.dim}, a page of up to {page_bytes} bytes"
        raise bag_input_error(which, found, f"at most {INT32_MAX}")
    if bag.patch_size_px < 0 or not all(
        value is None or (math.isfinite(value) and value > 0) for value in (bag.mpp, bag.magnification)
    ):
        found = f"patch size {bag.patch_size_px}, mpp {bag.mpp}, magnification {bag.magnification}"
        raise bag_input_error(which, found, "positive numbers, or 0, None and None where unknown")
    return _stored(embedding, which), np.ascontiguousarray(xy, dtype="<i4")


def _stored(embedding: npt.NDArray[np.floating], which: str) -> npt.NDArray[np.float16]:
    """Return the values as they are stored, checked; the same array where it is stored as it is."""
    is_stored = embedding.dtype == np.dtype("<f2") and embedding.flags.c_contiguous
    stored = embedding if is_stored else np.empty(embedding.shape, "<f2")
    step = max(1, _BLOCK_BYTES // (embedding.shape[1] * embedding.dtype.itemsize))
    for begin in range(0, len(embedding), step):
        rows = embedding[begin : begin + step]
        _check_values(rows, which, begin)
        if not is_stored:
            stored[begin : begin + step] = rows
    return stored


def bag_input_error(which: str, found: str, expected: str) -> BagInputError:
    """Return the error for patch features that cannot be stored."""
    return BagInputError(f"{which}: {found}, expected {expected}. Check the source file and the encoder that made it.")


def _check_values(rows: npt.NDArray[np.floating], which: str, begin: int) -> None:
    """Refuse values float16 cannot hold in `rows` (n, dim), which start at patch `begin` of the bag."""
    if rows.dtype == np.float16:
        # 40 times faster on the bits than with numpy's comparisons of halves: all exponent bits set is Inf or NaN.
        is_storable = bool(((np.ascontiguousarray(rows).view(np.uint16) & 0x7FFF).max()) < 0x7C00)
    else:
        # A NaN comes through min and max, and fails the comparison.
        is_storable = bool(rows.min() >= -FLOAT16_MAX and rows.max() <= FLOAT16_MAX)
    if is_storable:
        return
    num_bad = int((~np.isfinite(rows)).sum())
    num_large = int((np.isfinite(rows) & (np.abs(rows) > FLOAT16_MAX)).sum())
    first = begin + int(np.argmax(~(np.abs(rows) <= FLOAT16_MAX).all(axis=1)))
    found = f"{num_bad} NaN or Inf and {num_large} values beyond float16 in {len(rows)} patches, first in patch {first}"
    raise bag_input_error(which, found, f"finite values within {FLOAT16_MAX:.0f}")
