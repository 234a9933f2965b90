"""One slide, from its file to what is kept of it: patches decoded, encoded in batches, and put in their places."""

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import openslide
from numpy.typing import NDArray

from feature_store.bag_record import FLOAT16_MAX, INT32_MAX
from feature_store.errors import EncoderError, SlideTissueError
from feature_store.ingest.whole_slides import WholeSlide
from feature_store.progress import tracked
from feature_store.slides.decoding import Decoders
from feature_store.slides.embeddings import Manifest, RecipeFolder
from feature_store.slides.picture import slide_picture
from feature_store.slides.prepare import Prepared, prepare
from mice_model.slide_embedding.encoder import PatchEncoder

Piece = tuple[NDArray[np.intp], NDArray[np.uint8]]


def embed_slide(slide: WholeSlide, encoder: PatchEncoder, decoders: Decoders, folder: RecipeFolder, *, shows: bool) -> int:
    """Embed a slide, keep the result, and return the number of patches. `shows` progress within the slide.

    Raises SlideError for a slide that cannot be embedded; what is kept of it is the caller's to say.
    """
    recipe = slide.recipe
    found = prepare(slide.path, recipe.patches, recipe.min_tissue, slide.declared_mpp)
    features = encode_patches(
        slide.name if shows else "", found, decoders.patches(slide.path, found.grid, _downsample(found)), encoder
    )
    manifest = _manifest(slide, found)
    folder.keep(manifest, features, found.grid.xy, slide_picture(found.low, found.mask, found.grid))
    return len(features)


def encode_patches(shown: str, found: Prepared, pieces: Iterator[Piece], encoder: PatchEncoder) -> NDArray[np.float16]:
    """Return (N, width), a row per patch of the grid; batches do not depend on how the patches were decoded.

    Progress is shown under the name `shown`, if it is one. Raises EncoderError for values that a bag cannot hold.
    """
    num = len(found.grid.xy)
    if num * (encoder.width * 2 + 16) > INT32_MAX:
        raise SlideTissueError(f"{num} patches of {encoder.width} values, expected at most 2 GiB. Ask for coarser patches.")
    features = np.empty((num, encoder.width), np.float16)
    done = batches(pieces, encoder.batch_size)
    num_batches = -(-num // encoder.batch_size)
    for places, patches in tracked(done, f"patches of {shown}", num_batches) if shown else done:
        vectors = encoder.encode(patches)
        if not (np.abs(vectors) <= FLOAT16_MAX).all():  # a NaN fails it too
            raise EncoderError(
                f"encoder {encoder.name}: NaN, Inf or values beyond float16 for a patch, expected finite ones. Check its weights."
            )
        features[places] = vectors
    return features


def batches(pieces: Iterator[Piece], size: int) -> Iterator[Piece]:
    """Yield pieces joined and cut into batches of `size`, the last one smaller."""
    places: list[NDArray[np.intp]] = []
    patches: list[NDArray[np.uint8]] = []
    waiting = 0
    for where, pixels in pieces:
        places.append(where)
        patches.append(pixels)
        waiting += len(where)
        if waiting < size:
            continue
        where_all, pixels_all = np.concatenate(places), np.concatenate(patches)
        whole = waiting - waiting % size
        for begin in range(0, whole, size):
            yield where_all[begin : begin + size], pixels_all[begin : begin + size]
        places, patches, waiting = [where_all[whole:]], [pixels_all[whole:]], waiting - whole
    if waiting:
        yield np.concatenate(places), np.concatenate(patches)


def _downsample(found: Prepared) -> float:
    return found.facts.downsamples[found.grid.level]


def _manifest(slide: WholeSlide, found: Prepared) -> Manifest:
    grid, facts, patches = found.grid, found.facts, slide.recipe.patches
    return Manifest(
        slide.sha256,
        slide.declared_mpp,
        num_patches=len(grid.xy),
        mpp=found.scale.mpp,
        mpp_origin=found.scale.origin,
        objective_power=facts.objective_power,
        level0_size_px=grid.level0_size_px,
        tissue_share=round(float(found.mask.mean()), 4),
        grid={
            "mpp": round(grid.mpp, 5),
            "size_px": grid.size_px,
            "overlap_px": patches.overlap_px or 0,
            "level": grid.level,
            "level_size_px": grid.level_size_px,
            "min_tissue": slide.recipe.min_tissue,
        },
        slide={"vendor": facts.vendor, "levels": facts.levels, "bounds": facts.bounds, "bytes": slide.path.stat().st_size},
        versions={
            "openslide": openslide.__library_version__,
            **{name: version(name) for name in ("openslide-python", "pillow", "numpy", "scikit-image", "torch")},
        },
    )
