"""What a file of patches says of itself beside its arrays, in one vocabulary, held against the contract and the slide table.

What belongs here: which writer calls what how, and what contradicts what. An attribute that nobody declared anything about is
believed; one that says otherwise than the contract is refused, since somebody is wrong and the patches may be of another scale.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from feature_store.contract.rules import Encoder
from feature_store.contract.slide_sources import PatchGrid
from feature_store.errors import BagInputError

# Nominal magnification and measured microns per pixel differ by some per cent; the next magnification is a factor of 2.
TOLERANCE = 0.2
MICRONS_AT_1X = 10.0  # 20x is 0.5 microns per pixel

# ours -> TRIDENT's, CLAM's and other writers' names for it
_NUMBERS = {
    "size_px": ("patch_size",),
    "level0_size_px": ("patch_size_level0",),
    "downsample": ("downsample",),
    "level": ("patch_level",),
    "magnification": ("target_magnification",),
    "mpp": ("target_mpp",),
    "overlap_px": ("overlap",),
    "level0_magnification": ("level0_magnification",),
    "level0_mpp": ("level0_mpp", "mpp"),
}
_ENCODER = ("encoder", "encoder_name", "patch_encoder", "model_name")
KNOWN_ATTRIBUTES = (*(name for names in _NUMBERS.values() for name in names), *_ENCODER)


@dataclass(frozen=True)
class PatchAttributes:
    """Attributes of a slide's patches, None where the file does not say.

    `size_px` and `overlap_px` at the patches' own magnification, which is `magnification` or `mpp` (microns per pixel);
    `level0_*` at the slide's full resolution.
    """

    size_px: float | None = None
    level0_size_px: float | None = None
    magnification: float | None = None
    mpp: float | None = None
    overlap_px: float | None = None
    level0_magnification: float | None = None
    level0_mpp: float | None = None
    encoder: str | None = None

    @classmethod
    def of(cls, found: Mapping[str, object]) -> "PatchAttributes":
        """Return the attributes that a file has by its writer's names. Raises BagInputError for one that is no number."""
        numbers = {ours: _number(found, names) for ours, names in _NUMBERS.items()}
        downsample, level = numbers.pop("downsample"), numbers.pop("level")
        if numbers["level0_size_px"] is None and numbers["size_px"] is not None and (downsample or level == 0):
            numbers["level0_size_px"] = numbers["size_px"] * (downsample or 1)
        return cls(encoder=next((str(found[name]) for name in _ENCODER if found.get(name)), None), **numbers)

    def scales(self, slide_mpp: float | None) -> dict[str, float]:
        """Return, by whose word it is, how many microns a pixel of a patch measures."""
        found = {}
        if self.mpp is not None:
            found[f"its target_mpp {self.mpp:g}"] = self.mpp
        if self.magnification is not None:
            found[f"its target_magnification {self.magnification:g}"] = MICRONS_AT_1X / self.magnification
        mpp = slide_mpp or self.level0_mpp
        if mpp is not None and self.level0_size_px is not None and self.size_px is not None:
            how = f"{self.level0_size_px:g} px of {mpp:g} microns as {self.size_px:g} px"
            found[how] = mpp * self.level0_size_px / self.size_px
        return found


def refuse_contradictions(
    said: PatchAttributes, encoder: Encoder, patches: PatchGrid, mpp: float | None, magnification: float | None
) -> None:
    """Raise BagInputError where a file says otherwise than its contract or the slide's row (`mpp`, `magnification`)."""
    if said.encoder is not None and _plain(said.encoder) != _plain(encoder.name):
        raise BagInputError(
            f"features of encoder {said.encoder!r} by the file's attribute, expected {encoder.name!r}. "
            "Extract the slide again, or correct the contract."
        )
    for what, counted, declared in (
        ("patch_size", said.size_px, patches.size_px),
        ("overlap", said.overlap_px, patches.overlap_px),
    ):
        if counted is not None and declared is not None and counted != declared:
            raise BagInputError(f"{what} {counted:g} px by the file's attribute, expected {declared}. Extract the slide again.")
    for what, found, expected in (
        ("level0_magnification", said.level0_magnification, magnification),
        ("level0_mpp", said.level0_mpp, mpp),
    ):
        if found is not None and expected is not None and _differ(found, expected):
            raise BagInputError(
                f"{what} {found:g} by the file's attribute, expected {expected:g} by the slide table. Find out which is right."
            )
    wanted = patches.mpp or (MICRONS_AT_1X / patches.magnification if patches.magnification else None)
    if wanted is None:
        return
    asked = f"{patches.magnification:g}x" if patches.magnification else "mpp"
    for how, scale in said.scales(mpp).items():
        if _differ(scale, wanted):
            raise BagInputError(
                f"patches of {scale:.3g} microns per pixel by {how}, expected {wanted:g} ({asked}) by the contract. "
                "Extract the slide again at that scale."
            )


def _differ(found: float, expected: float) -> bool:
    return abs(math.log(found / expected)) > math.log1p(TOLERANCE)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _number(found: Mapping[str, object], names: tuple[str, ...]) -> float | None:
    """Return the first that is there; writers say unknown with 0 or -1, an overlap or level of 0 is a number like any other."""
    for name in names:
        if name not in found:
            continue
        try:
            number = float(str(found[name]))
        except ValueError as error:
            raise BagInputError(f"attribute {name} is {str(found[name])[:40]!r}, expected a number.") from error
        if math.isfinite(number) and (number > 0 or (number == 0 and name in {"overlap", "patch_level"})):
            return number
    return None
