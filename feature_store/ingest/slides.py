"""Slides and their patch bags: tables `slides` and `patch_bags`, and the bag shards they point to.

Shards are content-addressed and immutable, so writing them before the tables are published is harmless: nothing sees a
shard until a published row names it.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Protocol

import polars as pl

from feature_store import tables
from feature_store.bag_file import write_shards
from feature_store.bag_record import BagRecord, EncoderInfo, SlideBag
from feature_store.contract.slide_sources import SlideArchiveSource, SlideFolderSource, SlideSource, SlideTableSource
from feature_store.errors import BagInputError
from feature_store.ingest.context import Ingest
from feature_store.ingest.patch_attributes import TOLERANCE
from feature_store.ingest.slide_archives import list_archives
from feature_store.ingest.slide_files import list_folder, list_table
from feature_store.ingest.slide_offer import Listing, described
from feature_store.ingest.slide_vectors import list_vectors
from feature_store.sources import SourceFile


class ShardWriter(Protocol):
    """Writes bags as `bag_file.write_shards` does, under whatever names."""

    def __call__(
        self,
        directory: Path,
        bags: Iterable[SlideBag],
        encoder: EncoderInfo,
        *,
        on_rejected: Callable[[SlideBag, BagInputError], None],
    ) -> list[BagRecord]:
        """Return a record per bag that was written."""


def read_slides(ingest: Ingest, bags: Path, write: ShardWriter = write_shards) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (slides, patch_bags) and write the bags' shards to `bags`.

    A slide that several sources list is one row; one that they describe otherwise, or whose patches come twice from one encoder
    (at two magnifications, say), is rejected with its bags.
    """
    slides, patch_bags, files = [tables.SLIDES.empty()], [tables.PATCH_BAGS.empty()], [pl.Series("_file", [], pl.Int32)]
    listed: list[SourceFile] = []
    for spec in ingest.contract.slides:
        for listing in _listings(ingest, spec):
            patch_bags.append(_written(ingest, bags, listing, write))
            slides.append(tables.SLIDES.conform(described(listing.rows, listing.said)))
            files.append(pl.repeat(len(listed), slides[-1].height, dtype=pl.Int32, eager=True).alias("_file"))
            listed.append(listing.file)
    rows, offered = pl.concat(slides).with_columns(pl.concat(files)), pl.concat(patch_bags)
    refused = {
        "slide: sources describe it otherwise": _described_otherwise(rows),
        "slide: one encoder has patches of it twice": offered.filter(pl.struct("slide_id", "encoder").is_duplicated())[
            "slide_id"
        ],
    }
    for reason, found in refused.items():
        is_refused = pl.col("slide_id").is_in(found.unique().to_list())
        for (number,), of_file in rows.filter(is_refused).group_by("_file", maintain_order=True):
            named = of_file.with_columns(_case_id="case_id", _found_id="case_id")
            ingest.reject(named, "slides", listed[number], reason, pl.col("slide_id"))
        rows, offered = rows.filter(~is_refused), offered.filter(~is_refused)
    kept = rows.drop("_file").group_by("slide_id", maintain_order=True).agg(pl.all().drop_nulls().first())
    return tables.SLIDES.conform(kept), offered


def _described_otherwise(rows: pl.DataFrame) -> pl.Series:
    """Return the slides whose rows name two cases or stains, or two magnifications or resolutions that no rounding explains."""
    names = [pl.col(name).drop_nulls().n_unique() > 1 for name in ("case_id", "stain")]
    scales = [(pl.col(name).max() / pl.col(name).min() > 1 + TOLERANCE) for name in ("mpp", "magnification")]
    found = rows.group_by("slide_id").agg(pl.any_horizontal(*names, *scales).alias("_is_other"))
    return found.filter("_is_other")["slide_id"]


def _listings(ingest: Ingest, spec: SlideSource) -> Iterator[Listing]:
    if isinstance(spec, SlideTableSource):
        return list_table(ingest, spec)
    if isinstance(spec, SlideFolderSource):
        return list_folder(ingest, spec)
    if isinstance(spec, SlideArchiveSource):
        return list_archives(ingest, spec)
    return list_vectors(ingest, spec)


def _written(ingest: Ingest, bags: Path, listing: Listing, write: ShardWriter) -> pl.DataFrame:
    cohorts: dict[str, str] = {}

    def rejected(bag: SlideBag, error: BagInputError) -> None:
        row = pl.DataFrame({"_case_id": [bag.case_id], "_found_id": [bag.case_id]})
        ingest.reject(row, "patch_bags", listing.file, str(error), pl.lit(bag.slide_id))

    def remembered() -> Iterator[SlideBag]:
        for cohort, bag in listing.offered:
            if ingest.is_abandoned.is_set():
                raise CancelledError  # nobody hears it: another step failed
            cohorts[bag.slide_id] = cohort
            yield bag

    encoder = listing.made_by or EncoderInfo(
        listing.encoder.name, listing.encoder.sha256, listing.encoder.dim, "as the source has it"
    )
    records = write(bags, remembered(), encoder, on_rejected=rejected)
    rows = [
        {
            **{name: getattr(record, name) for name in tables.PATCH_BAGS.schema if hasattr(record, name)},
            "cohort": cohorts[record.slide_id],
            "encoder_sha256": encoder.weight_sha256,
        }
        for record in records
    ]
    return pl.DataFrame(rows, schema=tables.PATCH_BAGS.schema)
