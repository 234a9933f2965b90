"""Tables with one feature vector per slide: each vector becomes a bag of one patch at (0, 0)."""

import re
from collections.abc import Iterator

import numpy as np
import polars as pl

from feature_store.bag_record import SlideBag
from feature_store.contract.rules import Identifier
from feature_store.contract.slide_sources import SlideVectorSource
from feature_store.errors import ColumnMissingError, SourceFormatError
from feature_store.ingest.context import Ingest
from feature_store.ingest.numbers import Matrix, feature_columns, numeric, variants
from feature_store.ingest.slide_offer import Listing
from feature_store.sources import SourceFile, require_columns


def list_vectors(ingest: Ingest, spec: SlideVectorSource) -> Iterator[Listing]:
    """Yield a listing per table. A slide's identifier is made of its case, the encoder and the source's own name for it."""
    for file, raw in ingest.read(spec):
        yield _listing(ingest, spec, file, raw)


def _listing(ingest: Ingest, spec: SlideVectorSource, file: SourceFile, raw: pl.DataFrame) -> Listing:
    require_columns(raw, [spec.slide_id] if spec.slide_id else [], file)
    canonical = {name: canonical_name(name) for name in raw.columns if name}
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
    own = [] if spec.slide_id is None else [canonical[spec.slide_id]]
    frame = raw[list(dict.fromkeys([canonical[spec.case_id.column], *own]))].with_row_index("_source_row")
    frame = ingest.known(ingest.identify(frame, _renamed(spec, canonical), "slides", file), "slides", file)
    for name in own:
        frame = ingest.with_identifier(frame, name, "slide_id", "slides", file)
    values = numeric(raw, list(columns), ingest.contract.missing_values, file, frame["_source_row"])
    frame = frame.with_columns(
        variants(values).alias("_values"),
        slide_id=pl.col("_case_id") + "/" + spec.encoder.name + "/" + (pl.col("slide_id") if own else pl.lit("slide")),
    )
    frame = ingest.one_row_per(frame.drop("_source_row").with_row_index("_row"), "slides", file, ["_values"], key="slide_id")
    values = values[frame["_row"].to_numpy()]
    is_whole = pl.Series(np.isfinite(values).all(axis=1), dtype=pl.Boolean)
    ingest.reject(frame.filter(~is_whole), "patch_bags", file, "slide vector has missing values", pl.col("slide_id"))
    rows = frame.with_columns(
        case_id="_case_id",
        mpp=pl.lit(None, pl.Float64),
        magnification=pl.lit(None, pl.Float64),
        stain=pl.lit(None, pl.String),
        source_sha256=pl.lit(file.sha256),
    )
    return Listing(file, spec.encoder, rows, _bags(frame.filter(is_whole), values[is_whole.to_numpy()], spec, file))


def _bags(whole: pl.DataFrame, values: Matrix, spec: SlideVectorSource, file: SourceFile) -> Iterator[tuple[str, SlideBag]]:
    vectors = values.astype(np.float64)
    if spec.transform == "signed_log1p":  # areas in square microns overflow float16 and span six orders of magnitude
        vectors = np.sign(vectors) * np.log1p(np.abs(vectors))
    for (slide_id, case_id, cohort), vector in zip(
        whole.select("slide_id", "_case_id", "cohort").iter_rows(), vectors, strict=True
    ):
        origin = np.zeros((1, 2), np.int32)
        yield cohort, SlideBag(slide_id, case_id, origin, vector[None].astype(np.float32), file.sha256, 0, None, None)


def canonical_name(column: str) -> str:
    """One spelling for a feature whether R or pandas wrote the header: runs of other signs become one underscore."""
    return re.sub(r"[^A-Z0-9]+", "_", column.upper()).strip("_")


def _renamed(spec: SlideVectorSource, canonical: dict[str, str]) -> Identifier:
    return spec.case_id.model_copy(update={"column": canonical[spec.case_id.column]})
