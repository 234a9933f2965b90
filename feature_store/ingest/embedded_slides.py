"""The bag of a whole slide: what the embedding run left of it (slides/embeddings.py), or why there is none."""

from pathlib import Path

from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.contract.slide_sources import SlideFolderSource, SlideTableSource
from feature_store.errors import BagInputError
from feature_store.ingest.patch_attributes import PatchAttributes
from feature_store.ingest.patch_file import read_patches
from feature_store.ingest.slide_offer import Listing
from feature_store.slides.embeddings import MIN_TISSUE, Recipe, RecipeFolder
from feature_store.slides.slide_file import slide_sha256
from feature_store.sources import fingerprint

WholeSlideSource = SlideTableSource | SlideFolderSource


def recipe_of(spec: WholeSlideSource) -> Recipe:
    """Return what a source of whole slides asks for."""
    return Recipe(spec.encoder, spec.patches, MIN_TISSUE if spec.min_tissue is None else spec.min_tissue)


def declared_mpp(spec: WholeSlideSource, row: dict[str, object]) -> float | None:
    """Return what the contract says of a slide's resolution: its row of the table, else all slides of the source."""
    said = row["mpp"]
    return said if isinstance(said, float) else spec.slide_mpp


def made_by(spec: WholeSlideSource, embeddings: Path) -> EncoderInfo | None:
    """Return the encoder that made a source's embeddings; None before the first."""
    made = RecipeFolder(embeddings, recipe_of(spec)).encoder()
    return None if made is None else EncoderInfo(spec.encoder.name, made.weight_sha256, made.width, made.normalisation)


def embedded_bag(path: Path, spec: WholeSlideSource, row: dict[str, object], listing: Listing, embeddings: Path) -> SlideBag:
    """Return a slide's bag. Raises BagInputError where it was refused, is not embedded yet, or its embedding is damaged."""
    slide_id, digest = str(row["slide_id"]), slide_sha256(path)
    folder = RecipeFolder(embeddings, recipe_of(spec))
    manifest = folder.manifest(digest, declared_mpp(spec, row))
    if manifest is None:
        raise BagInputError(
            f"slide {slide_id}: no embedding yet, expected one by {spec.encoder.name}. Run `mice embed`, or the asset "
            "slide_embeddings."
        )
    if manifest.refused is not None:
        raise BagInputError(f"slide {slide_id}: {manifest.refused}")
    features = folder.features(digest)
    if not features.is_file() or fingerprint(features.parent, features).sha256 != manifest.features_sha256:
        raise BagInputError(
            f"slide {slide_id}: an embedding that is missing or changed, expected what its manifest says. "
            f"Remove {digest}.json from {folder.path.name} and run `mice embed`."
        )
    patches = read_patches(features, slide_id, spec.encoder.dim)
    listing.said[slide_id] = PatchAttributes(level0_mpp=manifest.mpp, level0_magnification=manifest.objective_power)
    return SlideBag(
        slide_id=slide_id,
        case_id=str(row["case_id"]),
        xy=patches.coords,
        embedding=patches.features,
        source_sha256=digest,
        patch_size_px=manifest.level0_size_px,
        mpp=manifest.mpp,
        magnification=manifest.objective_power,
    )
