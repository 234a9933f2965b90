"""What every ingest step shares: the contract, the landing folder, the files read so far, and the rows rejected so far.

What belongs here: bookkeeping and identifier rules common to all tables. How one kind of table is read is that step's module.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from feature_store import sources, tables
from feature_store.contract import Contract
from feature_store.contract.rules import Identifier
from feature_store.contract.sources import Source
from feature_store.erase.tombstones import Tombstones
from feature_store.ingest.values import identifier
from feature_store.sources import SourceFile

logger = logging.getLogger(__name__)

# Dashes that word processors and PDFs put where a barcode has a hyphen.
DASHES = "[\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d]"
WAS_ERASED = "case was erased"


@dataclass
class Ingest:
    """State of one ingest run of one contract. `cohort_of` is filled by the cases step: case_id -> cohort."""

    contract: Contract
    landing: Path
    tombstones: Tombstones = field(default_factory=Tombstones)
    # identifiers that no tombstone has, of people whom an alias tells
    also_erased: set[str] = field(default_factory=set)
    cohort_of: dict[str, str] = field(default_factory=dict)
    rejected: list[pl.DataFrame] = field(default_factory=list)
    files: dict[str, SourceFile] = field(default_factory=dict)
    case_files: set[str] = field(default_factory=set)
    # cohort -> files that gave it rows
    used_by: dict[str, set[str]] = field(default_factory=dict)
    num_normalised: int = 0
    # modality -> cases that were assessed, though they may have no row to show for it (sequenced, no variant found)
    assessed: dict[str, set[str]] = field(default_factory=dict)

    @property
    def unassigned(self) -> str:
        """The scope of rejected rows that belong to no cohort (an unknown or malformed identifier)."""
        return f"{self.contract.name}:unassigned"

    def read(self, spec: Source) -> list[tuple[SourceFile, pl.DataFrame]]:
        """Read every file of a source as text, checking that it has the identifier column."""
        found = []
        for file in sources.find(self.landing, spec.path):
            frame = sources.read_table(file, spec.sheet)
            sources.require_columns(frame, [spec.case_id.column], file)
            self.files[file.relative] = file
            found.append((file, frame))
        return found

    def reject(self, frame: pl.DataFrame, table: str, file: SourceFile, reason: str, found: pl.Expr | None = None) -> None:
        """Quarantine the rows of `frame` (columns `_case_id`, `_found_id` from `identify`) with a reason."""
        if frame.is_empty():
            return
        cohort = pl.col("_case_id").replace_strict(self.cohort_of, default=self.unassigned, return_dtype=pl.String)
        self.rejected.append(
            frame.select(
                cohort=cohort.fill_null(self.unassigned) if self.cohort_of else pl.lit(self.unassigned),
                table_name=pl.lit(table),
                path=pl.lit(file.relative),
                case_id_found=pl.col("_found_id"),
                found=(found if found is not None else pl.lit(None)).cast(pl.String),
                reason=pl.lit(reason),
                case_id=pl.col("_case_id"),
            )
        )
        logger.warning("%s: %d rows of %s rejected: %s", self.contract.name, frame.height, file.relative, reason)

    def identify(self, frame: pl.DataFrame, rule: Identifier, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows with a valid `_case_id` (and `_found_id` as found); quarantine the others.

        Spaces, dashes and letter case are normalised and counted; a barcode of another level is not cut silently: only a
        declared `extract` shortens one. Rows of erased cases are quarantined without the identifier.
        """
        frame = frame.with_columns(_found_id=pl.col(rule.column), _case_id=self.normalised(rule))
        is_valid = pl.col("_case_id").str.contains(f"^(?:{self.contract.case_id.pattern})$").fill_null(value=False)
        self._reject_identity(
            frame.filter(~is_valid).with_columns(_case_id=pl.lit(None, pl.String)),
            table,
            file,
            f"identifier does not match {self.contract.case_id.pattern}",
        )
        frame = self._without_erased(frame.filter(is_valid), table, file)
        if rule.extract is None and not self._is_reported(table, file):
            self.num_normalised += frame.filter(pl.col("_found_id") != pl.col("_case_id")).height
        return frame

    def normalised(self, rule: Identifier) -> pl.Expr:
        """Return an identifier column in the contract's one spelling, null where `extract` finds nothing."""
        clean = pl.col(rule.column).str.replace_all(DASHES, "-").str.strip_chars()
        if self.contract.case_id.upper:
            clean = clean.str.to_uppercase()
        return clean if rule.extract is None else clean.str.extract(rule.extract, 1)

    def known(self, frame: pl.DataFrame, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows whose case exists, with its `cohort`; quarantine the others."""
        is_known = pl.col("_case_id").is_in(list(self.cohort_of))
        self._reject_identity(frame.filter(~is_known), table, file, "case is not in the cases table")
        kept = frame.filter(is_known).with_columns(
            cohort=pl.col("_case_id").replace_strict(self.cohort_of, default=None, return_dtype=pl.String)
        )
        for cohort in kept["cohort"].unique():
            self.used_by.setdefault(cohort, set()).add(file.relative)
        return kept

    def one_row_per(
        self, frame: pl.DataFrame, table: str, file: SourceFile, values: list[str], key: str = "_case_id"
    ) -> pl.DataFrame:
        """Return one row per `key`: equal repeats keep their first row, contradicting ones are all quarantined."""
        repeats = frame.group_by(key).agg(pl.len().alias("_rows"), pl.struct(values).n_unique().alias("_variants"))
        frame = frame.join(repeats, on=key, how="left", maintain_order="left")
        self._reject_identity(
            frame.filter(pl.col("_variants") > 1), table, file, "duplicate: rows of the same case contradict each other"
        )
        frame = frame.filter(pl.col("_variants") == 1)
        is_first = pl.col(key).is_first_distinct()
        self._reject_identity(frame.filter(~is_first), table, file, "duplicate: equal to a row that was kept")
        return frame.filter(is_first).drop("_rows", "_variants")

    def accepted(self, frame: pl.DataFrame, rule: Identifier, table: str, file: SourceFile, values: list[str]) -> pl.DataFrame:
        """Return one row per known case: `identify`, `known` and `one_row_per` in turn."""
        return self.one_row_per(self.known(self.identify(frame, rule, table, file), table, file), table, file, values)

    def erase(self, case_ids: Iterable[str]) -> None:
        """Leave out cases that the cases step took in: an alias says that they were erased under another identifier."""
        self.also_erased |= set(case_ids)
        for case_id in self.also_erased & self.cohort_of.keys():
            del self.cohort_of[case_id]

    def _without_erased(self, frame: pl.DataFrame, table: str, file: SourceFile) -> pl.DataFrame:
        if not self.tombstones:
            return frame
        is_erased = pl.col("_case_id").is_in(self.tombstones.erased(frame["_case_id"].unique()) | self.also_erased)
        nameless = frame.filter(is_erased).with_columns(_case_id=pl.lit(None, pl.String), _found_id=pl.lit(None, pl.String))
        self._reject_identity(nameless, table, self._nameless(file), WAS_ERASED)
        return frame.filter(~is_erased)

    def _nameless(self, file: SourceFile) -> SourceFile:
        """Return a file without the erased case that its name may name; rejections and log lines have it so."""
        relative = self.tombstones.redacted(pl.DataFrame({"path": [file.relative]}))["path"].item()
        return replace(file, relative=relative)

    def _is_reported(self, table: str, file: SourceFile) -> bool:
        """Say whether the cases step read this file already and reported its bad identifiers and repeats."""
        return table != "cases" and file.relative in self.case_files

    def _reject_identity(self, frame: pl.DataFrame, table: str, file: SourceFile, reason: str) -> None:
        if not self._is_reported(table, file):
            self.reject(frame, table, file, reason)

    def with_identifier(self, frame: pl.DataFrame, column: str, name: str, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows that have an identifier in `column`, as the column `name`; quarantine the others."""
        frame = frame.with_columns(identifier(column).alias(name))
        self.reject(frame.filter(pl.col(name).is_null()), table, file, f"no {name}")
        return frame.filter(pl.col(name).is_not_null())

    def quarantine(self) -> pl.DataFrame:
        """Return everything rejected so far, as the quarantine table."""
        rows = [tables.QUARANTINE.conform(frame) for frame in self.rejected]
        return pl.concat([tables.QUARANTINE.empty(), *rows])

    def failures(self) -> pl.DataFrame:
        """Return case_id, table_name and reason of the rejected rows whose case is known."""
        schema = {"case_id": pl.String, "table_name": pl.String, "reason": pl.String}
        rows = [frame.select(list(schema)) for frame in self.rejected]
        return pl.concat([pl.DataFrame(schema=schema), *rows]).drop_nulls("case_id")
