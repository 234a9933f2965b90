"""Opening a whole-slide image, and which files make one.

Belongs here: OpenSlide, and what it says of a slide as a whole. Does not belong here: which scale a slide is taken to have
(scale.py), pixels (tissue.py, decoding.py). The label and macro images, which may show a name, are never read.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import openslide

from feature_store.errors import SlideReadError
from feature_store.sources import fingerprint

# What OpenSlide reads, by ending. A file says by its contents what it is; the ending only tells slides from patch features.
_DICOM = (".dcm", ".dicom")
_MIRAX = ".mrxs"


@dataclass(frozen=True)
class SlideFacts:
    """What a slide's header says. `levels` are (width, height) in pixels, largest first, `downsamples` each level's.

    `header_mpp` (microns per pixel at level 0, of x and y) and `objective_power` are None where the header does not say.
    `bounds` is (x, y, width, height) at level 0 of the part that was scanned: all of level 0 for most scanners.
    """

    vendor: str
    levels: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    bounds: tuple[int, int, int, int]
    header_mpp: tuple[float, float] | None
    objective_power: float | None


def open_slide(path: Path) -> openslide.OpenSlide:
    """Open a slide for reading pixels. Raises SlideReadError where OpenSlide cannot."""
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideReadError(_reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file, expected a whole-slide image. Fetch it."
    reader = f"OpenSlide {openslide.__library_version__}"
    why = str(error).replace(f"Reading {path}: ", "").replace(str(path), "the file")
    if path.suffix.lower() in _DICOM:
        return (
            f"{reader} does not read this DICOM file ({why}), expected a VL Whole Slide Microscopy series with tiles in JPEG, "
            "JPEG 2000 or none. Put all files of the series into one folder, or convert it to a pyramid TIFF."
        )
    if isinstance(error, openslide.OpenSlideUnsupportedFormatError):
        return (
            f"no format that {reader} knows, expected a whole-slide image such as svs, ndpi, mrxs or tiled TIFF. "
            "The download may be cut or another file: compare its checksum, and fetch it again."
        )
    return f"damaged ({why}), expected a whole file. Fetch it again."


def read_facts(slide: openslide.OpenSlide) -> SlideFacts:
    """Return what an open slide's header says."""
    said = slide.properties
    x, y = (_number(said.get(name)) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    width, height = slide.dimensions
    corner = [int(said.get(name, 0)) for name in (openslide.PROPERTY_NAME_BOUNDS_X, openslide.PROPERTY_NAME_BOUNDS_Y)]
    size = (
        int(said.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, width)),
        int(said.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, height)),
    )
    return SlideFacts(
        vendor=said.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=tuple(slide.level_dimensions),
        downsamples=tuple(slide.level_downsamples),
        bounds=(corner[0], corner[1], size[0], size[1]),
        header_mpp=None if x is None or y is None else (x, y),
        objective_power=_number(said.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
    )


def files_of(path: Path) -> list[Path]:
    """Return the files that make the slide at `path`: itself, a MIRAX slide's folder, the other files of a DICOM folder."""
    if path.suffix.lower() == _MIRAX:
        return [path, *sorted(file for file in path.with_suffix("").rglob("*") if file.is_file())]
    if path.suffix.lower() in _DICOM:
        return sorted(file for file in path.parent.iterdir() if file.suffix.lower() in _DICOM)
    return [path]


def slide_sha256(path: Path) -> str:
    """Return the checksum of a slide: its file's, or one over the checksums of all its files, by name."""
    files = files_of(path)
    if files == [path]:
        return fingerprint(path.parent, path).sha256
    found = [fingerprint(path.parent, file) for file in files]
    lines = (f"{file.relative}\0{file.sha256}\n" for file in found)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
