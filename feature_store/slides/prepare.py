"""All that is found out about a slide before its patches are decoded, in one call: header, scale, tissue, grid."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from feature_store.contract.slide_sources import PatchGrid
from feature_store.errors import SlideError, SlideReadError
from feature_store.slides.grid import Grid, lay_grid
from feature_store.slides.scale import Scale, slide_scale
from feature_store.slides.slide_file import SlideFacts, open_slide, read_facts
from feature_store.slides.tissue import LowMagnification, read_low, tissue_mask

# The longest that any scanner makes is about half of this; a header that claims more would have memory claimed for it.
MAX_SIDE_PX = 500_000


@dataclass(frozen=True, eq=False)
class Prepared:
    """A slide ready to be cut: its header, its scale, how it looks from afar, where it is tissue (as `low`), its patches."""

    facts: SlideFacts
    scale: Scale
    low: LowMagnification
    mask: NDArray[np.bool_]
    grid: Grid


def prepare(path: Path, patches: PatchGrid, min_tissue: float, declared_mpp: float | None = None) -> Prepared:
    """Return a slide's patches and what they follow from.

    Raises SlideReadError where it cannot be opened or decoded, SlideScaleError where its scale is unknown, contradictory or too
    coarse for the patches, SlideTissueError where no patch has `min_tissue`. Their messages do not name the slide: see `named`.
    """
    with closing(open_slide(path)) as slide:
        facts = read_facts(slide)
        if max(facts.levels[0]) > MAX_SIDE_PX:
            raise SlideReadError(f"{max(facts.levels[0]):,} pixels long, expected at most {MAX_SIDE_PX:,}. Fetch it again.")
        scale = slide_scale(facts, declared_mpp)
        try:
            low = read_low(slide, facts, scale.mpp)
        except openslide.OpenSlideError as error:
            raise SlideReadError(f"pixels that do not decode ({error}), expected a whole file. Fetch it again.") from error
    mask = tissue_mask(low, scale.mpp)
    return Prepared(facts, scale, low, mask, lay_grid(facts, scale.mpp, patches, low, mask, min_tissue))


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the slide's name in front of whatever is said of it: what reads a slide does not know what people call it."""
    try:
        yield
    except SlideError as error:
        raise type(error)(f"slide {name}: {error}") from error
