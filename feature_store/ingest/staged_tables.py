"""A contract's tables on their way to a staging folder: written one by one as they are read, or together, de-identified.

What belongs here: when a table is written, and how its rows lie in the file. What is read is stage.py's business.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from feature_store.deidentify import Deidentifier
from feature_store.erase.tombstones import Tombstones
from feature_store.sources import SourceFile
from feature_store.tables import BY_NAME, COHORT_TABLES, Table
from feature_store.transposed import stage_by_feature

logger = logging.getLogger(__name__)

_ROWS_PER_GROUP = 20_000
_TURNED = {table.derived_from: table for table in COHORT_TABLES if table.derived_from}


class StagedTables:
    """The tables of one ingest in `folder`. Threads may add different tables at once; memory holds none that is written.

    Under a de-identifier all are held until `close`: every identifier has to be known before any text is searched for them.
    """

    def __init__(self, contract: str, folder: Path, tombstones: Tombstones, deidentifier: Deidentifier | None) -> None:
        self._contract = contract
        self._folder = folder
        self._tombstones = tombstones
        self._deidentifier = deidentifier
        self._held: dict[str, pl.DataFrame] = {}
        self._panels: dict[str, pl.DataFrame] = {}
        self.cases_with: dict[str, pl.DataFrame] = {}  # table -> its different case_id

    def add(self, table: Table, rows: pl.DataFrame, panels: pl.DataFrame | None = None) -> None:
        """Take a whole table in; `panels`: of a table of vectors, what its rows are in the order of."""
        logger.info("%s: %d rows of %s", self._contract, rows.height, table.name)
        if "case_id" in rows.columns:
            self.cases_with[table.name] = rows.select(pl.col("case_id").unique())
        if panels is not None:
            self._panels[table.name] = panels
        if self._deidentifier:
            self._held[table.name] = rows
        else:
            self._write(table, rows)

    def close(self, files: Mapping[str, SourceFile]) -> None:
        """Write what is held. `files`: the sources by their paths. Raises DeidentifyError, see `Deidentifier.applied`."""
        if self._deidentifier:
            for name, rows in self._deidentifier.applied(self._held, files).items():
                self._write(BY_NAME[name], rows)

    def _write(self, table: Table, rows: pl.DataFrame) -> None:
        if turned := _TURNED.get(table.name):
            stage_by_feature(rows, self._panels[table.name], turned, self._path(turned))
        frame = self._tombstones.redacted(table.conform(rows))
        # by cohort first and in small row groups, so that reading one cohort skips the others; what else a key has is sorted by
        # whoever compares rows (publish.py), and a table without one is filled by several threads
        order = ["cohort", *[name for name in table.key if name != "cohort"][:1]] if table.key else frame.columns
        frame = frame.sort(order, maintain_order=True)
        # packed lightly: a staged file is read once or twice, then superseded
        frame.write_parquet(self._path(table), row_group_size=_ROWS_PER_GROUP, compression="lz4")

    def _path(self, table: Table) -> Path:
        return self._folder / f"{table.name}.parquet"
