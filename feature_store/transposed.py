"""The vector tables the other way round: a row per feature with the values of all cases, for SQL that asks for one gene.

What belongs here: deriving these rows from rows per case, and writing them to staging. Training reads rows per case (vectors.py).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from feature_store.tables import Table

_ROWS_PER_GROUP = 1024  # of a staged file: a row of a cohort of 1,000 cases has 4 kB


def by_feature(vectors: pl.DataFrame, panels: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return the rows of `table` that one cohort's rows per case give, in order of `feature_lookup`.

    `vectors`: the cohort's rows of the table that `table` is derived from; `panels`: its rows of gene_panels.
    """
    frames = [table.empty()]
    for (cohort, panel_id), rows in vectors.sort("case_id").group_by("cohort", "panel_id", maintain_order=True):
        panel = panels.filter(pl.col("cohort") == cohort, pl.col("panel_id") == panel_id).sort("position")
        of_cases = rows["values"].list.to_array(panel.height).to_numpy()
        of_features = pl.Series("values", np.ascontiguousarray(of_cases.T), dtype=pl.Array(pl.Float32, rows.height))
        frames.append(
            table.conform(
                panel.select("cohort", "panel_id", "feature", "unit", feature_lookup=pl.col("feature").str.to_lowercase())
                .with_columns(of_features.cast(pl.List(pl.Float32)))
                .sort("feature_lookup", "feature")
            )
        )
    found = pl.concat(frames)
    return found if len(frames) <= 2 else found.sort("feature_lookup", "feature", "panel_id")


def stage_by_feature(vectors: pl.DataFrame, panels: pl.DataFrame, table: Table, path: Path) -> None:
    """Write the rows of `table` for all cohorts to a Parquet file, cohort by cohort: in memory is one cohort's copy at a time."""
    with pq.ParquetWriter(path, table.empty().to_arrow().schema, use_dictionary=["cohort", "panel_id", "unit"]) as writer:
        for rows in _by_cohort(vectors):
            writer.write_table(by_feature(rows, panels, table).to_arrow(), row_group_size=_ROWS_PER_GROUP)


def _by_cohort(vectors: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for cohort in vectors["cohort"].unique().sort():
        yield vectors.filter(pl.col("cohort") == cohort)
