"""Which bag shards there are, which any snapshot or staged cohort names, and which nobody does. Nothing is removed here."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.tables import PATCH_BAGS


def published_shards(lake: Lake) -> set[str]:
    """Return the shards that a row of any snapshot names (and, more than needed, of rows since deleted)."""
    return _named(path for path in lake.catalog.table_files(PATCH_BAGS.name) if path.is_file())


def staged_shards(home: Home) -> set[str]:
    """Return the shards that staged cohorts name, published or not yet."""
    return _named(home.staging.glob(f"*/*/{PATCH_BAGS.name}.parquet"))


def stored_shards(home: Home) -> set[str]:
    """Return the finished shards in the bag folder."""
    return {path.name for path in home.bags.glob("[!.]*.parquet")}


def _named(files: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for path in files:
        frame = pl.scan_parquet(path)
        if "shard" in frame.collect_schema():  # files of deleted rows hold positions only
            found |= set(frame.select(pl.col("shard").unique()).collect()["shard"])
    return found
