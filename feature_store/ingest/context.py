"""What every ingest step shares: the contract, the landing folder, the files read so far, and what became of their rows.

What belongs here: bookkeeping and identifier rules common to all tables. How one kind of table is read is that step's module.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import polars as pl

from feature_store import sources
from feature_store.contract import Contract
from feature_store.contract.rules import Identifier
from feature_store.contract.sources import RowSource, Source
from feature_store.erase.tombstones import Tombstones
from feature_store.errors import ContractError
from feature_store.ingest.choosing import EFFECT, MARKS, REASON, SHOWN, chosen
from feature_store.ingest.known_cases import KnownCases
from feature_store.ingest.quarantine import PATH, Effect, Quarantine
from feature_store.ingest.shared_tables import SharedTables
from feature_store.ingest.values import identifier
from feature_store.read_ahead import read_ahead
from feature_store.sources import SourceFile

# Dashes that word processors and PDFs put where a barcode has a hyphen.
DASHES = "[\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d]"
WAS_ERASED = "case was erased"


@dataclass
class Ingest:
    """State of one ingest run of one contract. `cases` is filled by the cases step; after it, several steps may run at once."""

    contract: Contract
    landing: Path
    tombstones: Tombstones = field(default_factory=Tombstones)
    embeddings: Path = Path("no-embeddings")  # what was made of whole slides (Home.embeddings)
    # identifiers that no tombstone has, of people whom an alias tells
    also_erased: set[str] = field(default_factory=set)
    cases: KnownCases = field(default_factory=KnownCases)
    files: dict[str, SourceFile] = field(default_factory=dict)
    case_files: set[str] = field(default_factory=set)
    # cohort -> files that gave it rows
    used_by: dict[str, set[str]] = field(default_factory=dict)
    # how many identifiers were put into the contract's spelling, file by file
    respelled: list[int] = field(default_factory=list)
    # modality -> cases that were assessed, though they may have no row to show for it (sequenced, no variant found)
    assessed: dict[str, set[str]] = field(default_factory=dict)
    # set once a step failed: the others need not go on
    is_abandoned: Event = field(default_factory=Event)
    quarantine: Quarantine = field(init=False)
    shared: SharedTables = field(init=False)

    def __post_init__(self) -> None:
        self.shared = SharedTables(self.contract.case_tables)
        self.quarantine = Quarantine(self.contract.name, self.cases)

    def read(self, spec: Source) -> Iterator[tuple[SourceFile, pl.DataFrame]]:
        """Yield every file of a source as text, checking that it has the identifier column; the next is read meanwhile."""
        files = sources.find(self.landing, spec.path)
        frames = (self.shared.read(file, spec, self.contract.missing_values) for file in files)
        with closing(read_ahead(frames, 1)) as ahead:
            for file, frame in zip(files, ahead, strict=True):
                sources.require_columns(frame, [spec.case_id.column], file)
                self.files[file.relative] = file
                yield file, frame

    def reject(
        self,
        frame: pl.DataFrame,
        table: str,
        file: SourceFile,
        reason: str,
        found: pl.Expr | None = None,
        effect: Effect = "rejected",
    ) -> None:
        """Quarantine the rows of `frame` (columns `_case_id`, `_found_id` from `identify`) with a reason.

        `effect`: what becomes of them: rejected, left out as the contract declares, or kept with what was found.
        """
        self.quarantine.file(frame, table, file.relative, reason, found, effect)

    def identify(self, frame: pl.DataFrame, rule: Identifier, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows with a valid `_case_id` (and `_found_id` as found); quarantine the others.

        Spaces, dashes and letter case are normalised and counted; a barcode of another level is not cut silently: only a
        declared `extract` shortens one. Rows of erased cases are quarantined without the identifier.
        """
        # each spelling is looked at once, however many rows it has
        found, pattern = pl.col(rule.column), f"^(?:{self.contract.case_id.pattern})$"
        spellings = frame.lazy().select(found.unique()).select(_found_id=found, _case_id=self.normalised(rule))
        spellings = spellings.with_columns(pl.when(pl.col("_case_id").str.contains(pattern)).then("_case_id"))
        frame = (
            frame.lazy()
            .with_columns(_found_id=found)
            .join(spellings, on="_found_id", how="left", nulls_equal=True, maintain_order="left")
            .collect()
        )
        if frame["_case_id"].null_count():
            malformed = frame.filter(pl.col("_case_id").is_null())
            self._reject_identity(malformed, table, file, f"identifier does not match {self.contract.case_id.pattern}")
            frame = frame.filter(pl.col("_case_id").is_not_null())
        frame = self._set_aside(self._without_erased(frame, table, file), table, file)
        if rule.extract is None and not self._is_reported(table, file):
            self.respelled.append(int((frame["_found_id"] != frame["_case_id"]).sum() or 0))
        return frame

    def picked(self, frame: pl.DataFrame, spec: RowSource, table: str, file: SourceFile) -> pl.DataFrame:
        """Return of each case the rows that `pick` lets count; the others are left out, named."""
        if not spec.pick:
            return frame
        sources.require_columns(frame, [key.column for key in spec.pick], file)
        counting, others = chosen(frame, "_case_id", spec.pick, self.contract.missing_values)
        self._set_aside(others, table, file)
        return counting

    def of_its_cohort(self, frame: pl.DataFrame, spec: RowSource, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows whose `cohort` is the one that the file's path says, where the contract declares that it does.

        Raises ContractError for a path that says none.
        """
        if spec.cohort_from_path is None:
            return frame
        match = re.search(spec.cohort_from_path.extract, file.relative)
        if match is None:
            raise ContractError(
                f"source {file.relative}: no match of {spec.cohort_from_path.extract!r}, expected the file's cohort in its path. "
                "Correct cohort_from_path."
            )
        cohort = spec.cohort_from_path.prefix + match[1]
        is_of_another = pl.col("cohort") != cohort
        self.reject(frame.filter(is_of_another), table, file, f"case is not of {cohort}, as the file is", pl.col("cohort"))
        return frame.filter(~is_of_another)

    def rows(self, raw: pl.DataFrame, spec: RowSource, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows of known cases that count, with `_case_id`, `_found_id` and `cohort`."""
        found = self.counting(raw, spec, table, file)
        rows = raw.drop(MARKS, strict=False)
        rows = rows if found.height == raw.height else rows[found["_source_row"]]
        return rows.with_columns(found.drop("_source_row").get_columns())

    def counting(self, raw: pl.DataFrame, spec: RowSource, table: str, file: SourceFile) -> pl.DataFrame:
        """Return `_row` (in `raw`), `_case_id`, `_found_id` and `cohort` of the rows of known cases that count.

        That is `identify`, `known`, `of_its_cohort` and `picked` in turn. They see the columns that they ask for alone: each
        looks at all rows several times, and a table of vectors has thousands of columns.
        """
        keys = [key.column for key in spec.pick]
        sources.require_columns(raw, keys, file)
        asked = dict.fromkeys([spec.case_id.column, *keys, *(name for name in (*MARKS, PATH) if name in raw.columns)])
        frame = raw[list(asked)].with_row_index("_source_row")
        frame = self.known(self.identify(frame, spec.case_id, table, file), table, file)
        frame = self.picked(self.of_its_cohort(frame, spec, table, file), spec, table, file)
        return frame.select("_source_row", "_case_id", "_found_id", "cohort")

    def normalised(self, rule: Identifier) -> pl.Expr:
        """Return an identifier column in the contract's one spelling, null where `extract` finds nothing.

        `extract` may mean the capitals that identifiers are put into, or small letters around them, as a path has.
        """
        clean = pl.col(rule.column).str.replace_all(DASHES, "-").str.strip_chars()
        spellings = [clean.str.to_uppercase(), clean] if self.contract.case_id.upper else [clean]
        if rule.extract is None:
            return spellings[0]
        found = pl.coalesce([spelling.str.extract(rule.extract, 1) for spelling in spellings])
        return found.str.to_uppercase() if self.contract.case_id.upper else found

    def known(self, frame: pl.DataFrame, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows whose case exists, with its `cohort`; quarantine the others."""
        frame = self.cases.with_cohort(frame)
        if frame["cohort"].null_count():
            unknown = frame.filter(pl.col("cohort").is_null())
            self._reject_identity(unknown, table, file, "case is not in the cases table")
            frame = frame.filter(pl.col("cohort").is_not_null())
        for cohort in frame["cohort"].unique():
            self.used_by.setdefault(cohort, set()).add(file.relative)
        return frame

    def one_row_per(
        self, frame: pl.DataFrame, table: str, file: SourceFile, values: list[str], key: str = "_case_id"
    ) -> pl.DataFrame:
        """Return one row per `key`: equal repeats keep their first row, contradicting ones are all quarantined."""
        if frame[key].n_unique() == frame.height:
            return frame
        repeats = frame.group_by(key).agg(pl.len().alias("_rows"), pl.struct(values).n_unique().alias("_variants"))
        frame = frame.join(repeats, on=key, how="left", maintain_order="left")
        which = None if key == "_case_id" else pl.col(key)
        contradicting = frame.filter(pl.col("_variants") > 1)
        self._reject_identity(contradicting, table, file, "duplicate: rows of the same case contradict each other", which)
        frame = frame.filter(pl.col("_variants") == 1)
        is_first = pl.col(key).is_first_distinct()
        self._reject_identity(frame.filter(~is_first), table, file, "duplicate: equal to a row that was kept", which)
        return frame.filter(is_first).drop("_rows", "_variants")

    def accepted(self, raw: pl.DataFrame, spec: RowSource, table: str, file: SourceFile, values: list[str]) -> pl.DataFrame:
        """Return one row per known case: `rows` and `one_row_per` in turn."""
        return self.one_row_per(self.rows(raw, spec, table, file), table, file, values)

    def erase(self, case_ids: Iterable[str]) -> None:
        """Leave out cases that the cases step took in: an alias says that they were erased under another identifier."""
        self.also_erased |= set(case_ids)
        self.cases.remove(self.also_erased)

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

    def _set_aside(self, frame: pl.DataFrame, table: str, file: SourceFile) -> pl.DataFrame:
        """File the rows that choosing.py marked, and return the others."""
        if EFFECT not in frame.columns:
            return frame
        marked = frame.filter(pl.col(EFFECT).is_not_null())
        for (effect, reason), rows in marked.group_by(EFFECT, REASON, maintain_order=True):
            self.reject(rows, table, file, str(reason), pl.col(SHOWN), "left_out" if effect == "left_out" else "rejected")
        return frame.filter(pl.col(EFFECT).is_null()).drop(MARKS)

    def _is_reported(self, table: str, file: SourceFile) -> bool:
        """Say whether the cases step read this file already and reported its bad identifiers and repeats."""
        return table != "cases" and file.relative in self.case_files

    def _reject_identity(
        self, frame: pl.DataFrame, table: str, file: SourceFile, reason: str, found: pl.Expr | None = None
    ) -> None:
        if not self._is_reported(table, file):
            self.reject(frame, table, file, reason, found)

    def with_identifier(self, frame: pl.DataFrame, column: str, name: str, table: str, file: SourceFile) -> pl.DataFrame:
        """Return the rows that have an identifier in `column`, as the column `name`; quarantine the others."""
        frame = frame.with_columns(identifier(column).alias(name))
        self.reject(frame.filter(pl.col(name).is_null()), table, file, f"no {name}")
        return frame.filter(pl.col(name).is_not_null())
