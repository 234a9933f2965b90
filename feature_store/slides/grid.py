"""Which patches of a slide are taken: a regular grid at one scale, and on it the places with enough tissue."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.contract.slide_sources import PatchGrid
from feature_store.errors import SlideScaleError, SlideTissueError
from feature_store.ingest.patch_attributes import MICRONS_AT_1X
from feature_store.slides.slide_file import SlideFacts
from feature_store.slides.tissue import LowMagnification

# Cutting patches finer than the scan would only blow pixels up; scanners' numbers differ by as much.
_FINEST = 0.8
# A scan that is so nearly a whole number of times finer (0.499 for 0.5, 0.2527 for 0.25) is not resampled for it: the patches'
# true scale is recorded.
_NEARLY_WHOLE = 0.03


@dataclass(frozen=True, eq=False)
class Grid:
    """Patches of `size_px` pixels at `mpp` microns per pixel; each covers `level0_size_px` squared at full resolution.

    `xy` (N, 2) int32: level-0 pixel of each patch's corner, row after row. `tissue` (N,): share of the patch that is tissue.
    `level`: the level that patches are read from, at `level_size_px` squared before they are brought to `size_px`.
    """

    size_px: int
    mpp: float
    level0_size_px: int
    level: int
    level_size_px: int
    xy: NDArray[np.int32]
    tissue: NDArray[np.float32]


def target_mpp(patches: PatchGrid) -> float:
    """Return the microns per pixel that patches are to have; ValueError where the contract does not say."""
    if patches.mpp is not None:
        return patches.mpp
    if patches.magnification is None:
        raise ValueError("patches: neither mpp nor magnification")
    return MICRONS_AT_1X / patches.magnification


def lay_grid(
    facts: SlideFacts, mpp: float, patches: PatchGrid, low: LowMagnification, mask: NDArray[np.bool_], min_tissue: float
) -> Grid:
    """Return the patches whose share of tissue is at least `min_tissue`. `mpp`: of level 0.

    Raises SlideScaleError where the slide is coarser than the patches are to be, SlideTissueError where no patch has enough.
    """
    wanted, size_px = target_mpp(patches), patches.size_px or 0
    scale = wanted / mpp
    if scale < _FINEST:
        raise SlideScaleError(
            f"scanned at {mpp:g} microns per pixel, expected {wanted:g} or finer. Ask for coarser patches, or leave it out."
        )
    whole = max(1, round(scale))
    scale = whole if abs(scale / whole - 1) <= _NEARLY_WHOLE else scale
    level0_size = max(1, round(size_px * scale))
    stride = max(1, round((size_px - (patches.overlap_px or 0)) * scale))
    level = max(index for index, downsample in enumerate(facts.downsamples) if downsample <= scale * 1.01 or index == 0)
    x0, y0, width, height = facts.bounds
    xs = np.arange(x0, x0 + width - level0_size + 1, stride)
    ys = np.arange(y0, y0 + height - level0_size + 1, stride)
    share = _share(mask, _edges(xs, x0, level0_size, low), _edges(ys, y0, level0_size, low))
    rows, columns = np.nonzero(share >= min_tissue)
    if len(rows) == 0:
        found = f"best of {share.size} patches has {share.max():.0%} tissue" if share.size else "smaller than one patch"
        raise SlideTissueError(
            f"{found}, expected {min_tissue:.0%} in at least one. Look at the slide; lower `min_tissue`, or leave it out."
        )
    return Grid(
        size_px=size_px,
        mpp=mpp * level0_size / size_px,
        level0_size_px=level0_size,
        level=level,
        level_size_px=max(1, round(level0_size / facts.downsamples[level])),
        xy=np.stack([xs[columns], ys[rows]], axis=1).astype(np.int32),
        tissue=share[rows, columns],
    )


Edges = tuple[NDArray[np.intp], NDArray[np.intp]]


def _edges(starts: NDArray[np.intp], origin: int, size: int, low: LowMagnification) -> Edges:
    """Return where patches begin and end in the mask, at least one of its pixels apart."""
    begin = np.floor((starts - origin) / low.downsample).astype(np.intp)
    end = np.ceil((starts - origin + size) / low.downsample).astype(np.intp)
    return begin, np.maximum(end, begin + 1)


def _share(mask: NDArray[np.bool_], columns: Edges, rows: Edges) -> NDArray[np.float32]:
    """Return (rows, columns): each window's share of tissue, by a summed-area table."""
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1), np.int64)
    table[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    left, right = (np.clip(edge, 0, width) for edge in columns)
    top, bottom = (np.clip(edge, 0, height) for edge in rows)
    inside = table[np.ix_(bottom, right)] - table[np.ix_(top, right)] - table[np.ix_(bottom, left)] + table[np.ix_(top, left)]
    area = np.outer(bottom - top, right - left)
    return (inside / np.maximum(area, 1)).astype(np.float32)


def blocks(grid: Grid, side: int) -> list[NDArray[np.intp]]:
    """Return the patches' indices by square blocks of `side` patches, block after block: what is decoded in one read.

    A tile of the slide that several patches share is then decoded once.
    """
    span = side * grid.level0_size_px
    corner = grid.xy.min(axis=0)
    block = (grid.xy - corner) // span
    number = block[:, 1].astype(np.int64) * (math.ceil((grid.xy[:, 0].max() - corner[0] + 1) / span)) + block[:, 0]
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
