"""Values of many features, case by case, as a source's files have them: their transforms, and what is implausible in them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from feature_store.errors import SourceFormatError
from feature_store.ingest.context import Ingest
from feature_store.ingest.feature_names import FeatureNames
from feature_store.ingest.numbers import Matrix
from feature_store.sources import SourceFile


@dataclass(frozen=True)
class Measured:
    """`rows` (n): cohort, _case_id, _found_id, source_sha256; `values` (n, g), NaN where missing, of `features` in their order.

    `names` and `mapping`: how the source's identifiers became `features`, where they did.
    """

    rows: pl.DataFrame
    features: list[str]
    values: Matrix
    file: SourceFile
    names: FeatureNames | None = None
    mapping: pl.DataFrame | None = None


def transformed(measured: Measured, transform: Literal["none", "log2p1"]) -> Matrix:
    """Return the values as the contract wants them. Raises SourceFormatError for a negative value under a logarithm."""
    if transform == "none":
        return measured.values
    if (measured.values < 0).any():
        raise SourceFormatError(
            f"source {measured.file.relative}: {np.nanmin(measured.values):g} among the values, expected none under 0 for "
            "log2(x + 1). Correct the contract's column or transform."
        )
    return np.log2(measured.values + np.float32(1))


def report_implausible(
    ingest: Ingest, measured: Measured, values: Matrix, plausible: tuple[float, float] | None, table: str
) -> None:
    """Report the values outside the contract's range, feature by feature; they stay."""
    if plausible is None:
        return
    low, high = plausible
    row, column = np.nonzero((values < low) | (values > high))
    found = values[row, column]
    outside = pl.DataFrame(
        {"_row": row, "_feature": pl.Series(measured.features, dtype=pl.String).gather(column), "_value": found}
    ).with_columns(_distance=pl.max_horizontal(low - pl.col("_value"), pl.col("_value") - high))
    farthest = (
        measured.rows.with_row_index("_row")
        .with_columns(pl.col("_row").cast(pl.Int64))
        .join(outside, on="_row")
        .sort("_distance", descending=True, maintain_order=True)
        .group_by("cohort", "_feature", maintain_order=True)
        .agg(pl.len().alias("_count"), pl.col("_case_id", "_found_id", "_value").first())
    )
    shown = pl.format("{}: {} values, the farthest {}", "_feature", "_count", "_value")
    reason = f"values outside the plausible {low:g} to {high:g}"
    ingest.reject(farthest, table, measured.file, reason, shown, effect="kept")
