"""What ingest has to say of source rows: rejected, left out as the contract declares, or kept with a finding; and why.

What belongs here: filing it. Which row deserves what is decided where it is read.
"""

import logging
from typing import Literal

import polars as pl

from feature_store import tables
from feature_store.ingest.known_cases import KnownCases

logger = logging.getLogger(__name__)

Effect = Literal["rejected", "left_out", "kept"]
PATH = "_path"  # the column that says where a row lies, of rows that are files themselves


class Quarantine:
    """The rows filed so far in one ingest of a contract. `cases`: those known, as they become so."""

    def __init__(self, contract: str, cases: KnownCases) -> None:
        self._contract = contract
        self._cases = cases
        self._filed: list[pl.DataFrame] = []

    @property
    def unassigned(self) -> str:
        """The scope of rows that belong to no cohort (an unknown or malformed identifier)."""
        return f"{self._contract}:unassigned"

    def file(self, frame: pl.DataFrame, table: str, path: str, reason: str, found: pl.Expr | None, effect: Effect) -> None:
        """File the rows of `frame`, which has the columns `_case_id` and `_found_id`."""
        if frame.is_empty():
            return
        rows = frame.select(
            table_name=pl.lit(table),
            path=pl.col(PATH) if PATH in frame.columns else pl.lit(path),
            case_id_found=pl.col("_found_id"),
            found=(found if found is not None else pl.lit(None)).cast(pl.String),
            reason=pl.lit(reason),
            effect=pl.lit(effect),
            case_id=pl.col("_case_id"),
        )
        self._filed.append(self._cases.with_cohort(rows, "case_id").with_columns(pl.col("cohort").fill_null(self.unassigned)))
        logger.warning("%s: %d rows of %s %s: %s", self._contract, frame.height, path, effect.replace("_", " "), reason)

    def table(self) -> pl.DataFrame:
        """Return everything filed, as the quarantine table."""
        return pl.concat([tables.QUARANTINE.empty(), *(tables.QUARANTINE.conform(frame) for frame in self._filed)])

    def failures(self) -> pl.DataFrame:
        """Return case_id, table_name and reason of the rows of known cases that were not kept."""
        schema = {"case_id": pl.String, "table_name": pl.String, "reason": pl.String}
        rows = [frame.filter(pl.col("effect") != "kept").select(list(schema)) for frame in self._filed]
        return pl.concat([pl.DataFrame(schema=schema), *rows]).drop_nulls("case_id")
