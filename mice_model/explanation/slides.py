"""A case's slides as a page shows them: a heat map each, and the patches with most attention cut out of the slides' files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.bag_reader import BagReader
from feature_store.errors import SlideError
from feature_store.slides.kept import KeptPicture, kept_picture
from feature_store.slides.regions import read_regions
from mice_model.explanation.attribution import SlideAttention
from mice_model.explanation.pictures import blank_canvas, data_uri, heat, heat_map, patch_side_px, thumbnail_canvas

NUM_TOP = 12
_PATCH_PX = 192

# The file of a slide, by the checksum of what its bag was made of, and its identifier; or why there is none.
FindSlide = Callable[[str, str], Path | str]


@dataclass(frozen=True, eq=False)
class SeenSlide:
    """A slide with the patches that the networks saw: corners `xy` (n, 2) in level-0 pixels, their attention `weight` (n,).

    `all_xy` (N, 2) are all of its patches, `side_px` what one measures at level 0; `kept` its thumbnail, if there is one.
    """

    slide_id: str
    source_sha256: str
    xy: NDArray[np.int32]
    weight: NDArray[np.float64]
    all_xy: NDArray[np.int32]
    side_px: float
    kept: KeptPicture | None

    def picture(self, highest: float) -> str:
        """Return the heat map as a data URI; `highest`: the attention with the last colour."""
        kept = self.kept
        canvas = blank_canvas(self.all_xy, self.side_px) if kept is None else thumbnail_canvas(kept)
        image = heat_map(heat(self.xy, self.weight, self.side_px, canvas), canvas, highest)
        return data_uri(image, is_photo=kept is not None)


@dataclass(frozen=True)
class TopPatch:
    """A patch with much attention: its slide (an index), corner in level-0 pixels, weight, and how it looks as a data URI."""

    slide: int
    x: int
    y: int
    weight: float
    picture: str = field(default="", repr=False)


def see_slides(slides: Sequence[SlideAttention], reader: BagReader, embeddings: Path) -> list[SeenSlide]:
    """Return the slides with the coordinates of their patches, which a bag has in the order of its rows."""
    found = []
    for slide in slides:
        all_xy = reader.coordinates(slide.record)
        kept = kept_picture(embeddings, slide.record.source_sha256, all_xy)
        side_px = patch_side_px(all_xy) if kept is None else float(kept.level0_size_px)
        seen = all_xy[slide.rows], slide.weight
        found.append(SeenSlide(slide.record.slide_id, slide.record.source_sha256, *seen, all_xy, side_px, kept))
    return found


def top_patches(slides: Sequence[SeenSlide], find_slide: FindSlide) -> tuple[list[TopPatch], list[str]]:
    """Return the patches of a case with most attention, the highest first, and why some have no picture."""
    patches = [
        TopPatch(index, int(x), int(y), float(weight))
        for index, slide in enumerate(slides)
        for (x, y), weight in zip(slide.xy.tolist(), slide.weight.tolist(), strict=True)
    ]
    top = sorted(patches, key=lambda patch: -patch.weight)[:NUM_TOP]
    pictures: dict[TopPatch, str] = {}
    notes = []
    for index in sorted({patch.slide for patch in top}):
        slide, ours = slides[index], [patch for patch in top if patch.slide == index]
        try:
            pictures |= zip(ours, _pictures(slide, ours, find_slide), strict=True)
        except SlideError as error:
            notes.append(f"Slide {slide.slide_id}: {error}")
    return [TopPatch(p.slide, p.x, p.y, p.weight, pictures.get(p, "")) for p in top], notes


def _pictures(slide: SeenSlide, patches: Sequence[TopPatch], find_slide: FindSlide) -> list[str]:
    path = find_slide(slide.source_sha256, slide.slide_id)
    if isinstance(path, str):
        raise SlideError(path)
    xy = np.array([(patch.x, patch.y) for patch in patches], np.int32)
    return [data_uri(image, is_photo=True) for image in read_regions(path, xy, round(slide.side_px), _PATCH_PX)]
