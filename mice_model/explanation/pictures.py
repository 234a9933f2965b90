"""Pixels: attention drawn where its patches lie, and pictures as they go into a page.

Shape legend: n patches that the networks saw, N all patches of the slide, H and W the picture's height and width.
"""

import base64
import io
from dataclasses import dataclass, replace

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from feature_store.slides.kept import KeptPicture

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float64]

COLOURS = mpl.colormaps["viridis"]
_SIDE_PX = 720
_OVER_TISSUE = 0.5  # how much of a pixel is the heat map's colour where there is a thumbnail below
_UNSEEN, _MOST_UNSEEN = "#dddddd", "white"


@dataclass(frozen=True)
class Canvas:
    """A picture on which a slide lies: level-0 pixel (`x`, `y`) in its corner, `scale` level-0 pixels to one of its own.

    `opacity` of what is drawn on it, 0 to 1.
    """

    image: Image.Image
    x: float
    y: float
    scale: float
    opacity: float

    def box(self, xy: IntArray, side_px: float) -> NDArray[np.int64]:
        """Return (n, 4): left, top, right and bottom of patches of a side in level-0 pixels, each at least a pixel of it."""
        begin = np.rint((xy - (self.x, self.y)) / self.scale)
        end = np.maximum(np.rint((xy + side_px - (self.x, self.y)) / self.scale), begin + 1)
        limits = np.tile(self.image.size, 2)
        return np.clip(np.concatenate([begin, end], axis=1), 0, limits).astype(np.int64)


def thumbnail_canvas(kept: KeptPicture) -> Canvas:
    """Return a slide's thumbnail as a canvas, small ones enlarged."""
    with Image.open(kept.path) as file:
        image = file.convert("RGB")
    x, y, width, height = kept.bounds
    canvas = Canvas(image, x, y, max(width, height) / max(image.size), _OVER_TISSUE)
    factor = _SIDE_PX // max(image.size)
    if factor <= 1:
        return canvas
    larger = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    return replace(canvas, image=larger, scale=canvas.scale / factor)


def blank_canvas(xy: IntArray, side_px: float) -> Canvas:
    """Return a white canvas that all patches of a slide (N, 2) lie on, grey where they do."""
    corner, extent = xy.min(axis=0), np.ptp(xy, axis=0) + side_px
    scale = max(float(extent.max()) / _SIDE_PX, side_px / 48)  # a few patches do not fill the page
    width, height = (max(1, int(np.ceil(length / scale))) for length in extent)
    image = Image.new("RGB", (width, height), _MOST_UNSEEN)
    canvas = Canvas(image, float(corner[0]), float(corner[1]), scale, 1.0)
    for box in canvas.box(xy, side_px).tolist():
        image.paste(_UNSEEN, tuple(box))
    return canvas


def patch_side_px(xy: IntArray) -> float:
    """Return what a patch is taken to measure where nobody says: the least distance between neighbours of (N, 2)."""
    gaps = np.concatenate([np.diff(np.unique(xy[:, axis])) for axis in (0, 1)])
    return float(gaps.min()) if len(gaps) else 256.0


def heat(xy: IntArray, weight: FloatArray, side_px: float, canvas: Canvas) -> FloatArray:
    """Return (H, W): the attention of the patch that a pixel lies in, of the highest where several do, NaN outside of all."""
    found = np.full(canvas.image.size[::-1], np.nan)
    order = np.argsort(weight, kind="stable")
    for (left, top, right, bottom), value in zip(canvas.box(xy[order], side_px).tolist(), weight[order].tolist(), strict=True):
        found[top:bottom, left:right] = value
    return found


def heat_map(heat_HW: FloatArray, canvas: Canvas, highest: float) -> Image.Image:
    """Return the canvas with the heat on it, from COLOURS' first colour at zero to its last at `highest`."""
    is_seen = np.isfinite(heat_HW)
    colour = COLOURS(np.where(is_seen, heat_HW, 0) / highest)[..., :3] * 255
    share = np.where(is_seen, canvas.opacity, 0)[..., None]
    return Image.fromarray(np.rint(np.asarray(canvas.image) * (1 - share) + colour * share).astype(np.uint8))


def gradient_css() -> str:
    """Return COLOURS as a gradient of style sheets."""
    stops = ", ".join(mpl.colors.to_hex(COLOURS(share)) for share in np.linspace(0, 1, 9))
    return f"linear-gradient(to right, {stops})"


def data_uri(image: Image.Image, *, is_photo: bool) -> str:
    """Return a picture as text that a page can hold: JPEG for photographs, PNG for drawings."""
    data, kind = io.BytesIO(), "JPEG" if is_photo else "PNG"
    image.save(data, kind, optimize=True, **({"quality": 82} if is_photo else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
