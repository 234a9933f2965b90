"""A few patches of a slide as pictures, for people to look at; reading all of a slide's is decoding.py's."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from feature_store.errors import SlideReadError
from feature_store.slides.slide_file import open_slide
from feature_store.slides.tissue import flattened

# Of the level that is read: a slide without small levels does not fill the memory for one coarse patch.
_MAX_SIDE_PX = 4_096


def read_regions(path: Path, xy: NDArray[np.int32], level0_size_px: int, size_px: int) -> list[Image.Image]:
    """Return squares of `size_px` pixels, RGB: at each row of `xy` (n, 2), level-0 pixels, `level0_size_px` of them a side.

    Only the slide's own pixels are read, never its label or macro image. Raises SlideReadError.
    """
    with closing(open_slide(path)) as slide:
        try:
            return list(_regions(slide, xy, level0_size_px, size_px))
        except openslide.OpenSlideError as error:
            why = str(error).replace(str(path), "the file")
            raise SlideReadError(f"pixels that do not decode ({why}), expected a whole file. Fetch it again.") from error


def _regions(slide: openslide.OpenSlide, xy: NDArray[np.int32], level0_size_px: int, size_px: int) -> Iterator[Image.Image]:
    level = slide.get_best_level_for_downsample(max(1.0, 1.01 * level0_size_px / size_px))
    side = max(1, round(level0_size_px / slide.level_downsamples[level]))
    if side > _MAX_SIDE_PX:
        raise SlideReadError(f"patches of {side:,} pixels, expected at most {_MAX_SIDE_PX:,}. Ask for finer patches.")
    for x, y in xy.tolist():
        region = flattened(slide.read_region((x, y), level, (side, side)))
        yield region if side == size_px else region.resize((size_px, size_px), Image.Resampling.BILINEAR)
