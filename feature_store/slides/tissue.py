"""Where there is tissue on a slide, seen at low magnification.

Belongs here: reading a slide coarsely in bounded memory, and telling tissue from glass, ink and the scanner's black. Does not
belong here: which patches follow from it (grid.py).
"""

from dataclasses import dataclass

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from feature_store.slides.slide_file import SlideFacts

# Tissue is looked for at about this many microns per pixel (1.25x): a cell or so, so that glands and vessels are closed areas.
MASK_MPP = 8.0
# A slide that claims to be larger than any scanner's would not be read whole.
_MAX_MASK_SIDE_PX = 16_384
# Pixels of a level decoded at a time.
_STRIP_BYTES = 64 * 2**20
# Glass is grey: its channels differ by a few units of 255. Otsu's threshold is kept between these, because a slide that is all
# tissue, or all glass, has no two classes to tell apart.
_CHROMA_RANGE = (10.0, 32.0)
# Darker than this in every channel: the edge of the scan, or a black pen.
_BLACK = 45
# Fragments and holes smaller than this are dust and lumina.
_MIN_AREA_UM2 = 10_000.0


@dataclass(frozen=True, eq=False)
class LowMagnification:
    """A slide seen coarsely: `rgb` uint8 (h, w, 3); one of its pixels is `downsample` level-0 pixels wide and high.

    `x`, `y`: the level-0 pixel at which it begins.
    """

    rgb: NDArray[np.uint8]
    downsample: float
    x: int
    y: int


def read_low(slide: openslide.OpenSlide, facts: SlideFacts, mpp: float) -> LowMagnification:
    """Return the scanned part of a slide at about MASK_MPP, read in strips from the nearest finer level.

    `mpp`: of level 0. A slide without small levels is decoded whole, a strip at a time.
    """
    x, y, width, height = facts.bounds
    wanted = max(1.0, MASK_MPP / mpp, max(width, height) / _MAX_MASK_SIDE_PX)
    level = max(index for index, downsample in enumerate(facts.downsamples) if downsample <= wanted * 1.01)
    factor = max(1, round(wanted / facts.downsamples[level]))
    downsample = facts.downsamples[level] * factor
    out_w, out_h = max(1, int(width / downsample)), max(1, int(height / downsample))
    rows = max(1, _STRIP_BYTES // (4 * out_w * factor * factor))
    rgb = np.empty((out_h, out_w, 3), np.uint8)
    for top in range(0, out_h, rows):
        num = min(rows, out_h - top)
        at = (x, y + int(top * downsample))
        strip = flattened(slide.read_region(at, level, (out_w * factor, num * factor)))
        rgb[top : top + num] = np.asarray(strip.reduce(factor) if factor > 1 else strip)
    return LowMagnification(rgb, downsample, x, y)


def flattened(region: Image.Image) -> Image.Image:
    """Return an RGBA region as RGB on white: where a slide has no pixels, OpenSlide gives transparent black."""
    alpha = region.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return region.convert("RGB")
    white = Image.new("RGB", region.size, "white")
    white.paste(region.convert("RGB"), mask=alpha)
    return white


def tissue_mask(low: LowMagnification, mpp: float) -> NDArray[np.bool_]:
    """Return (h, w): whether a pixel of `low` is tissue. `mpp`: of level 0.

    Tissue is what has colour: the spread of the channels is above Otsu's threshold (1979), within limits. Ink of green and blue
    pens, red ink, and black are no tissue.
    """
    smooth = ndimage.uniform_filter(low.rgb.astype(np.float32), size=(3, 3, 1))
    red, green, blue = np.moveaxis(smooth, -1, 0)
    chroma = smooth.max(axis=-1) - smooth.min(axis=-1)
    is_tissue = (chroma > _threshold(chroma)) & (smooth.max(axis=-1) > _BLACK) & ~_is_ink(red, green, blue)
    min_px = max(1, round(_MIN_AREA_UM2 / (mpp * low.downsample) ** 2))
    return _without_small(_without_small(is_tissue, min_px, holes=False), min_px, holes=True)


def _threshold(chroma: NDArray[np.float32]) -> float:
    counts, edges = np.histogram(chroma, bins=256, range=(0, 256))
    weights = np.cumsum(counts)
    sums = np.cumsum(counts * edges[:-1])
    low, high = weights[:-1], weights[-1] - weights[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = low * high * (sums[:-1] / low - (sums[-1] - sums[:-1]) / high) ** 2
    best = edges[1:-1][np.nanargmax(between)] if np.isfinite(between).any() else _CHROMA_RANGE[0]
    return float(np.clip(best, *_CHROMA_RANGE))


def _is_ink(red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which pixels are of a marker: no stain used in pathology is green or a blue without red, or so pure a red."""
    is_green = (green > red + 12) & (green > blue - 12)
    is_blue = (blue > red + 60) & (green > red)
    is_red = (red > green + 110) & (red > blue + 90)
    return is_green | is_blue | is_red


def _without_small(mask: NDArray[np.bool_], min_px: int, *, holes: bool) -> NDArray[np.bool_]:
    """Return a mask without connected areas, or without holes, of fewer than `min_px` pixels."""
    labels, num = ndimage.label(~mask if holes else mask)
    is_small = np.bincount(labels.ravel(), minlength=num + 1) < min_px
    is_small[0] = False
    return mask | is_small[labels] if holes else mask & ~is_small[labels]
