"""How many microns a slide's pixel measures, and by whose word. A slide of unknown scale is refused, never guessed."""

import math
from dataclasses import dataclass
from typing import Literal

from feature_store.errors import SlideScaleError
from feature_store.ingest.patch_attributes import MICRONS_AT_1X, TOLERANCE
from feature_store.slides.slide_file import SlideFacts

Origin = Literal["header", "contract", "objective power"]
# From 100x with oversampling to 1x. Beyond it a number is of something else: TIFF writers put a screen's or printer's resolution
# where scanners put theirs (72 dots per inch are 353 microns).
PLAUSIBLE_MPP = (0.05, 12.0)
# Pixels that are not square by more than this would show nuclei as ellipses.
_SQUARE_WITHIN = 0.05


@dataclass(frozen=True)
class Scale:
    """Microns per pixel at level 0, and what said so."""

    mpp: float
    origin: Origin


def slide_scale(facts: SlideFacts, declared_mpp: float | None) -> Scale:
    """Return a slide's scale: by its header, else as the contract declares it, else by the objective's nominal power.

    Raises SlideScaleError where nothing says it, where the header's number cannot be a slide's, and where header and contract
    differ by more than scanners' numbers do.
    """
    header = _header_mpp(facts, declared_mpp)
    if header is not None:
        if declared_mpp is not None and abs(math.log(header / declared_mpp)) > math.log1p(TOLERANCE):
            raise SlideScaleError(
                f"{header:g} microns per pixel by its header, expected {declared_mpp:g} by the contract. "
                "Find out which is right, and correct the contract."
            )
        return Scale(header, "header")
    if declared_mpp is not None:
        return Scale(declared_mpp, "contract")
    if facts.objective_power is not None:
        return Scale(MICRONS_AT_1X / facts.objective_power, "objective power")
    raise SlideScaleError(
        "no microns per pixel and no objective power in its header, expected one of them. "
        "Ask who scanned it, and declare `slide_mpp` in the contract, or the column `mpp` of the slide table."
    )


def _header_mpp(facts: SlideFacts, declared_mpp: float | None) -> float | None:
    if facts.header_mpp is None:
        return None
    x, y = facts.header_mpp
    mpp = (x + y) / 2
    if not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        if declared_mpp is not None:  # a number that is no slide's contradicts nobody
            return None
        raise SlideScaleError(
            f"{mpp:g} microns per pixel by its header, expected {PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g}: a "
            "resolution for screen or print. Declare `slide_mpp` in the contract, or the column `mpp` of the slide table."
        )
    if abs(x - y) > _SQUARE_WITHIN * mpp:
        raise SlideScaleError(
            f"{x:g} by {y:g} microns per pixel by its header, expected square pixels. Scan or convert it again."
        )
    return mpp
