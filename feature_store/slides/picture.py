"""A slide's picture for people: the thumbnail, the tissue's outline, and the patches that were taken. Small enough for a UI."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from feature_store.slides.grid import Grid
from feature_store.slides.tissue import LowMagnification

# Dagster keeps metadata in its database: a picture there is to stay below this, base64 included.
MAX_BYTES = 40_000
_SIDE_PX = 720
_TISSUE, _PATCH = (0, 130, 60), (20, 60, 200)


def slide_picture(low: LowMagnification, mask: NDArray[np.bool_], grid: Grid) -> bytes:
    """Return a JPEG of at most MAX_BYTES: tissue outlined in green, patches in blue. Of the slide itself; no label, no macro."""
    factor = max(1, -(-max(low.rgb.shape[:2]) // _SIDE_PX))
    image = Image.fromarray(low.rgb).reduce(factor)
    scale = low.downsample * factor
    shrunk = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).reduce(factor)) > 127
    outline = shrunk ^ ndimage.binary_erosion(shrunk)
    pixels = np.array(image)
    pixels[outline] = _TISSUE
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    side = max(grid.level0_size_px / scale - 1, 1)
    for x, y in ((grid.xy - (low.x, low.y)) / scale).tolist():
        draw.rectangle((x, y, x + side, y + side), outline=_PATCH)
    return _jpeg(image)


def _jpeg(image: Image.Image) -> bytes:
    """Return the picture at the best quality that fits, smaller if none does."""
    while True:
        for quality in (85, 70, 50, 30):
            data = io.BytesIO()
            image.save(data, "JPEG", quality=quality, optimize=True)
            if data.tell() <= MAX_BYTES:
                return data.getvalue()
        image = image.reduce(2)
