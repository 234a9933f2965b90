"""The vector tables the other way round: a row per feature with the values of all cases, for SQL that asks for one gene.

What belongs here: deriving these rows from rows per case, and writing them to staging. Training reads rows per case (vectors.py).
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from feature_store.tables import Table

_MOST_ROWS, _TILE_BYTES = 1024, 2**22  # of a staged file's row group


def by_feature(vectors: pl.DataFrame, panels: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return the rows of `table` that one cohort's rows per case give, in order of `feature_lookup`.

    `vectors`: the cohort's rows of the table that `table` is derived from; `panels`: gene_panels, of this cohort or of all.
    """
    return pl.concat([table.empty(), *_tiles(vectors, panels, table)])


def stage_by_feature(vectors: pl.DataFrame, panels: pl.DataFrame, table: Table, path: Path) -> None:
    """Write the rows of `table` for all cohorts to a Parquet file; in memory is one cohort, and of its rows one group."""
    with pq.ParquetWriter(path, table.empty().to_arrow().schema, use_dictionary=["cohort", "panel_id", "unit"]) as writer:
        for cohort in vectors["cohort"].unique().sort():
            for tile in _tiles(vectors.filter(pl.col("cohort") == cohort), panels, table):
                writer.write_table(tile.to_arrow())


def _tiles(vectors: pl.DataFrame, panels: pl.DataFrame, table: Table) -> Iterator[pl.DataFrame]:
    """Yield the rows of one cohort, some at a time."""
    of_cases = {
        panel_id: rows["values"].list.to_array(rows["values"].list.len()[0]).to_numpy()
        for (panel_id,), rows in vectors.sort("case_id").group_by("panel_id", maintain_order=True)
    }
    rows = (
        panels.filter(pl.col("cohort").is_in(vectors["cohort"].unique().to_list()), pl.col("panel_id").is_in(list(of_cases)))
        .with_columns(feature_lookup=pl.col("feature").str.to_lowercase())
        .sort("feature_lookup", "feature", "panel_id")
    )
    num_rows = min(_MOST_ROWS, max(1, _TILE_BYTES // (4 * max(map(len, of_cases.values()), default=1))))
    for tile in rows.iter_slices(num_rows):
        parts = [
            part.with_columns(
                pl.Series("values", of_cases[panel_id][:, part["position"].to_numpy()].T.copy()).cast(pl.List(pl.Float32))
            )
            for (panel_id,), part in tile.with_row_index("_row").group_by("panel_id", maintain_order=True)
        ]
        yield table.conform(pl.concat(parts).sort("_row"))
