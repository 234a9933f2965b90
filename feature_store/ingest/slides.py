"""Slides and their patch bags: tables `slides` and `patch_bags`, and the bag shards they point to.

Shards are content-addressed and immutable, so writing them before the tables are published is harmless: nothing sees a
shard until a published row names it.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from feature_store import tables
from feature_store.bag_file import write_shards
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.contract.rules import Identifier
from feature_store.contract.slide_sources import PatchFolderSource, SlideVectorSource
from feature_store.errors import BagInputError, ColumnMissingError, SourceFormatError
from feature_store.ingest.context import Ingest
from feature_store.ingest.omics import feature_columns, numeric
from feature_store.ingest.trident import read_patches
from feature_store.ingest.values import present
from feature_store.progress import tracked
from feature_store.sources import SourceFile, fingerprint, require_columns

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Offered:
    """A bag and the cohort it is for."""

    cohort: str
    bag: SlideBag


def read_slides(ingest: Ingest, bags: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (slides, patch_bags) and write the bags' shards to `bags`."""
    slides, patch_bags = [tables.SLIDES.empty()], [tables.PATCH_BAGS.empty()]
    for spec in ingest.contract.slides:
        for file, raw in ingest.read(spec):
            if isinstance(spec, SlideVectorSource):
                frame, offered = _vectors(ingest, spec, file, raw)
            else:
                frame, offered = _patch_files(ingest, spec, file, raw)
            slides.append(tables.SLIDES.conform(frame))
            encoder = EncoderInfo(spec.encoder.name, spec.encoder.sha256, spec.encoder.dim, "as the source has it")
            patch_bags.append(_written(ingest, bags, offered, encoder, file))
    # a slide that two encoders saw is listed by both sources
    return pl.concat(slides).unique(maintain_order=True), pl.concat(patch_bags)


def _vectors(
    ingest: Ingest, spec: SlideVectorSource, file: SourceFile, raw: pl.DataFrame
) -> tuple[pl.DataFrame, Iterator[_Offered]]:
    """Rows of slide vectors: each becomes a bag of one patch at (0, 0)."""
    require_columns(raw, [spec.slide_id] if spec.slide_id else [], file)
    canonical = {name: _canonical(name) for name in raw.columns if name}
    if len(set(canonical.values())) != len(canonical):
        raise SourceFormatError(
            f"source {file.relative}: columns that differ in case or signs only, expected each once. Rename them in the source."
        )
    raw = raw.rename(canonical)
    columns = feature_columns(raw, spec.features, file)
    if len(columns) != spec.encoder.dim:
        raise ColumnMissingError(
            f"source {file.relative}: {len(columns)} columns match {spec.features!r}, expected the {spec.encoder.dim} "
            f"features of {spec.encoder.name}. If the source changed, change the contract."
        )
    frame = ingest.known(ingest.identify(raw, _renamed(spec, canonical), "slides", file), "slides", file)
    frame = numeric(frame, list(columns), ingest.contract.missing_values, file)
    if spec.slide_id:
        frame = ingest.with_identifier(frame, canonical[spec.slide_id], "slide_id", "slides", file)
    own = pl.col("slide_id") if spec.slide_id else pl.lit("slide")
    frame = frame.with_columns(slide_id=pl.col("_case_id") + "/" + spec.encoder.name + "/" + own)
    frame = ingest.one_row_per(frame, "slides", file, list(columns), key="slide_id")
    is_whole = pl.all_horizontal(pl.col(name).is_finite() for name in columns)
    ingest.reject(frame.filter(~is_whole), "patch_bags", file, "slide vector has missing values", pl.col("slide_id"))
    rows = frame.with_columns(
        case_id="_case_id",
        mpp=pl.lit(None, pl.Float64),
        magnification=pl.lit(None, pl.Float64),
        stain=pl.lit(None, pl.String),
        source_sha256=pl.lit(file.sha256),
    )
    whole = frame.filter(is_whole)
    vectors = whole.select(list(columns)).to_numpy().astype(np.float64)
    if spec.transform == "signed_log1p":  # areas in square microns overflow float16 and span six orders of magnitude
        vectors = np.sign(vectors) * np.log1p(np.abs(vectors))

    def offered() -> Iterator[_Offered]:
        for row, vector in zip(whole.select("slide_id", "_case_id", "cohort").iter_rows(), vectors, strict=True):
            slide_id, case_id, cohort = row
            bag = SlideBag(
                slide_id,
                case_id,
                np.zeros((1, 2), np.int32),
                vector[None].astype(np.float32),
                file.sha256,
                0,
                None,
                None,
            )
            yield _Offered(cohort, bag)

    return rows, offered()


def _patch_files(
    ingest: Ingest, spec: PatchFolderSource, file: SourceFile, raw: pl.DataFrame
) -> tuple[pl.DataFrame, Iterator[_Offered]]:
    """A table of slides with an h5 file each; a slide whose file is missing or unsound keeps its row, without a bag."""
    optional = {"mpp": spec.mpp, "magnification": spec.magnification, "stain": spec.stain}
    require_columns(raw, [spec.slide_id, *(name for name in optional.values() if name)], file)
    missing = ingest.contract.missing_values
    frame = ingest.known(ingest.identify(raw, spec.case_id, "slides", file), "slides", file)
    frame = ingest.with_identifier(frame, spec.slide_id, "slide_id", "slides", file)
    described = {name: present(column, missing) if column else pl.lit(None, pl.String) for name, column in optional.items()}
    frame = frame.with_columns(
        case_id="_case_id",
        source_sha256=pl.lit(file.sha256),
        mpp=_positive(described["mpp"]),
        magnification=_positive(described["magnification"]),
        stain=described["stain"],
    )
    frame = ingest.one_row_per(frame, "slides", file, ["case_id", *optional], key="slide_id")

    def offered() -> Iterator[_Offered]:
        for row in tracked(frame.iter_rows(named=True), f"{ingest.contract.name}: slides of {file.relative}", frame.height):
            try:
                yield _Offered(row["cohort"], _load(ingest, spec, row))
            except BagInputError as error:
                one = frame.filter(pl.col("slide_id") == row["slide_id"])
                ingest.reject(one, "patch_bags", file, str(error), pl.col("slide_id"))

    return frame, offered()


def _load(ingest: Ingest, spec: PatchFolderSource, row: dict[str, object]) -> SlideBag:
    slide_id = str(row["slide_id"])
    for name in ("mpp", "magnification"):
        if getattr(spec, name) is not None and row[name] is None:
            raise BagInputError(f"slide {slide_id}: {name} missing or not positive, expected a number. Correct the slide table.")
    path = ingest.landing / spec.files.format(slide_id=slide_id)
    if not _is_file_below(path, ingest.landing):
        raise BagInputError(
            f"slide {slide_id}: no file {path.name} in the landing folder, expected its patch features. Fetch it."
        )
    source = fingerprint(ingest.landing, path)
    ingest.files[source.relative] = source
    ingest.used_by.setdefault(str(row["cohort"]), set()).add(source.relative)
    embedding, xy, size = read_patches(path, slide_id, spec.encoder.dim)
    mpp, magnification = row["mpp"], row["magnification"]
    return SlideBag(
        slide_id=slide_id,
        case_id=str(row["case_id"]),
        xy=xy,
        embedding=embedding,
        source_sha256=source.sha256,
        patch_size_px=size or spec.encoder.patch_size_px,
        mpp=mpp if isinstance(mpp, float) else None,
        magnification=magnification if isinstance(magnification, float) else None,
    )


def _written(ingest: Ingest, bags: Path, offered: Iterator[_Offered], encoder: EncoderInfo, file: SourceFile) -> pl.DataFrame:
    cohorts: dict[str, str] = {}

    def rejected(bag: SlideBag, error: BagInputError) -> None:
        row = pl.DataFrame({"_case_id": [bag.case_id], "_found_id": [bag.case_id]})
        ingest.reject(row, "patch_bags", file, str(error), pl.lit(bag.slide_id))

    def remembered() -> Iterator[SlideBag]:
        for one in offered:
            cohorts[one.bag.slide_id] = one.cohort
            yield one.bag

    records = write_shards(bags, remembered(), encoder, on_rejected=rejected)
    rows = [
        {
            **{name: getattr(record, name) for name in tables.PATCH_BAGS.schema if hasattr(record, name)},
            "cohort": cohorts[record.slide_id],
            "encoder_sha256": encoder.weight_sha256,
        }
        for record in records
    ]
    return pl.DataFrame(rows, schema=tables.PATCH_BAGS.schema)


def _positive(text: pl.Expr) -> pl.Expr:
    number = text.cast(pl.Float64, strict=False)
    return pl.when((number > 0) & number.is_finite()).then(number)


def _is_file_below(path: Path, folder: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except OSError:  # a name too long for the file system
        return False


def _canonical(column: str) -> str:
    """One spelling for a feature whether R or pandas wrote the header: runs of other signs become one underscore."""
    return re.sub(r"[^A-Z0-9]+", "_", column.upper()).strip("_")


def _renamed(spec: SlideVectorSource, canonical: dict[str, str]) -> Identifier:
    return spec.case_id.model_copy(update={"column": canonical[spec.case_id.column]})
