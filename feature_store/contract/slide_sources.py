"""The layouts in which a contract may name slides and what an encoder made of them.

A layout says how slides are listed; how a file is read follows from its ending.
"""

import re
import string
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from feature_store.contract.fields import ColumnPattern, Fraction, LandingPath, SlideFiles
from feature_store.contract.rules import Encoder, Strict
from feature_store.contract.sources import Source

# ingest/patch_file.py has a reader for each.
PATCH_ENDINGS = (".h5", ".hdf5", ".safetensors", ".npz", ".npy")
# Whole-slide images, embedded first (feature_store/slides/, mice_model/slide_embedding/): what OpenSlide reads.
SLIDE_ENDINGS = (".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".dcm", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".zvi", ".czi")
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".joblib")
UNPICKLING = (
    "Loading such a file runs whatever code is in it, so it is never loaded here. Convert the files to safetensors where nothing "
    "can be harmed: docs/onboarding.md, Files of PyTorch."
)


def _has_a_reader(path: str) -> str:
    ending = PurePosixPath(path).suffix.lower()
    if ending in PICKLED:
        raise ValueError(f"{path!r} names pickled files. {UNPICKLING}")
    if ending not in PATCH_ENDINGS + SLIDE_ENDINGS:
        known = f"{', '.join(PATCH_ENDINGS)}, or of a slide, {', '.join(SLIDE_ENDINGS)}"
        raise ValueError(f"{path!r} ends in {ending or 'nothing'!r}, expected one of {known}")
    return path


def _is_archive(path: str) -> str:
    if PurePosixPath(path).suffix.lower() != ".npz":
        raise ValueError(f"{path!r} names no .npz files, which hold an array per slide")
    return path


def _names_a_case(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
    if "case_id" not in groups:
        raise ValueError(f"{pattern!r} needs a group (?P<case_id>...)")
    return pattern


PatchFiles = Annotated[SlideFiles, AfterValidator(_has_a_reader)]
PatchFileGlob = Annotated[LandingPath, AfterValidator(_has_a_reader)]
ArchiveGlob = Annotated[LandingPath, AfterValidator(_is_archive)]
# At the top of a file: a path could lead through links.
ArrayName = Annotated[str, StringConstraints(pattern=r"^[^/]+$")]
NamePattern = Annotated[str, AfterValidator(_names_a_case)]


class PatchGrid(Strict):
    """How the patches were cut, to hold the files against. `size_px` and `overlap_px` are at the patches' own magnification."""

    magnification: float | None = Field(default=None, gt=0)
    mpp: float | None = Field(default=None, gt=0)
    size_px: int | None = Field(default=None, gt=0)
    overlap_px: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _says_its_scale_once(self) -> "PatchGrid":
        if self.magnification is not None and self.mpp is not None:
            raise ValueError("magnification and mpp exclude each other: both say how large a pixel of a patch is")
        return self


class PatchArrays(Strict):
    """What the arrays are called in a file; `coords: null` where there are none: the patches then all lie at (0, 0)."""

    features: ArrayName = "features"
    coords: ArrayName | None = "coords"


class _Patched(Strict):
    """Files with many patches each: of patch features, or slides that patches are cut from first, as their ending says.

    Of slides only: `slide_mpp`, microns per pixel at level 0 of those that no header or table says it of, and `min_tissue`, the
    share of a patch that must be tissue (default 0.25).
    """

    encoder: Encoder
    patches: PatchGrid = PatchGrid()
    arrays: PatchArrays = PatchArrays()
    slide_mpp: float | None = Field(default=None, gt=0)
    min_tissue: Fraction | None = None

    @property
    def are_slides(self) -> bool:
        """Whether the files are whole-slide images."""
        return PurePosixPath(getattr(self, "files", "")).suffix.lower() in SLIDE_ENDINGS

    @model_validator(mode="after")
    def _says_what_its_files_need(self) -> "_Patched":
        size, overlap = self.patches.size_px, self.patches.overlap_px or 0
        if not self.are_slides:
            if self.slide_mpp is not None or self.min_tissue is not None:
                raise ValueError("slide_mpp and min_tissue are of whole slides, and these files hold patch features")
        elif size is None or (self.patches.mpp is None and self.patches.magnification is None):
            raise ValueError("whole slides need patches.size_px, and patches.mpp or patches.magnification")
        elif overlap >= size:
            raise ValueError(f"patches of {size} px that overlap by {overlap} would never move on")
        elif self.arrays != PatchArrays():
            raise ValueError("arrays names what is in files of patch features, and these are whole slides")
        return self


class SlideVectorSource(Source):
    """A table with one feature vector per slide: becomes a bag of one patch."""

    layout: Literal["vector_table"]
    slide_id: str | None = None
    features: ColumnPattern
    transform: Literal["none", "signed_log1p"] = "none"
    encoder: Encoder

    @property
    def globs(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.path,)


class SlideTableSource(_Patched, Source):
    """A table of slides, and beside it one file per slide: its patch features, or the slide itself."""

    layout: Literal["slide_table"]
    slide_id: str
    files: PatchFiles
    mpp: str | None = None
    magnification: str | None = None
    stain: str | None = None

    @property
    def globs(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.path, self.files.format(slide_id="*"))


class _Named(Strict):
    """Slides whose names say all: `name` is looked for in each, and its groups give `case_id`, `slide_id` and `stain`.

    `slide_id` puts the identifier together from the pattern's groups, in braces.
    """

    files: str
    name: NamePattern
    slide_id: str = "{slide_id}"
    encoder: Encoder

    @model_validator(mode="after")
    def _slide_id_is_made_of_groups(self) -> "_Named":
        groups = set(re.compile(self.name).groupindex)
        try:
            used = {part[1] for part in string.Formatter().parse(self.slide_id) if part[1] is not None}
            self.slide_id.format(**dict.fromkeys(groups, ""))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(f"slide_id {self.slide_id!r} is not made of the groups of name, {sorted(groups)}") from error
        if not used or not used <= groups:
            raise ValueError(f"slide_id {self.slide_id!r} is not made of the groups of name, {sorted(groups)}")
        return self

    @property
    def globs(self) -> tuple[str, ...]:
        """The files that are read."""
        return (self.files,)


class SlideFolderSource(_Patched, _Named):
    """A folder of files, one per slide and without a table; `name` is looked for in a file's path."""

    layout: Literal["slide_folder"]
    files: PatchFileGlob


class SlideArchiveSource(_Named):
    """Archives of arrays, one per slide: (k, dim), or k vectors one after the other; `name` is looked for in `<path>/<array>`.

    `padding`: whether an array of fewer vectors than others was filled up with zeros, at its ends.
    """

    layout: Literal["slide_archive"]
    files: ArchiveGlob
    padding: Literal["none", "zeros"] = "none"


SlideSource = Annotated[
    SlideVectorSource | SlideTableSource | SlideFolderSource | SlideArchiveSource, Field(discriminator="layout")
]


def refuse_mixed_encoders(slides: Sequence[SlideSource]) -> None:
    """Raise ValueError where one encoder's name stands for two things: a bag would mix them."""
    first: dict[str, tuple[Encoder, PatchGrid]] = {}
    for spec in slides:
        meaning = spec.encoder, getattr(spec, "patches", PatchGrid())
        known = first.setdefault(spec.encoder.name, meaning)
        if known != meaning:
            differ = [
                f"{name} {getattr(a, name)} and {getattr(b, name)}"
                for a, b in zip(known, meaning, strict=True)
                for name in type(a).model_fields
                if getattr(a, name) != getattr(b, name)
            ]
            raise ValueError(f"encoder {spec.encoder.name} is declared with {'; '.join(differ)}: give each its own name")
