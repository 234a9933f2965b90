"""What an embedding run kept of a slide, found again by the slide's checksum: its picture, and where on the slide that lies."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from feature_store.slides.embeddings import Manifest


@dataclass(frozen=True)
class KeptPicture:
    """A slide's thumbnail: `bounds` (x, y, width, height) is the part of level 0 that it shows, in pixels.

    `level0_size_px`: what each patch covers of level 0, wide and high.
    """

    path: Path
    bounds: tuple[float, float, float, float]
    level0_size_px: int


def kept_picture(embeddings: Path, slide_sha256: str, xy: NDArray[np.int32]) -> KeptPicture | None:
    """Return the picture that was made with the patches at `xy` (N, 2), level-0 pixels; None where there is none.

    A slide that was embedded in several ways has a picture of each: only the one with these very patches is meant.
    """
    for path in sorted(embeddings.glob(f"*/{slide_sha256}.jpg")):
        try:
            manifest = Manifest(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
            with safe_open(path.with_suffix(".safetensors"), framework="numpy") as tensors:
                is_same = np.array_equal(tensors.get_tensor("coords"), xy)
            if is_same:
                return KeptPicture(path, _bounds(manifest.slide or {}), manifest.level0_size_px)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError):  # half of a slide, which is no slide
            continue
    return None


def _bounds(slide: dict[str, object]) -> tuple[float, float, float, float]:
    """Return the scanned part as the manifest says; all of level 0 where it is of a version that did not say."""
    if "bounds" in slide:
        x, y, width, height = slide["bounds"]  # type: ignore[misc] # what Manifest.slide holds is written by slide_embedding
    else:
        (width, height), x, y = slide["levels"][0], 0, 0  # type: ignore[index] # likewise
    return float(x), float(y), float(width), float(height)
