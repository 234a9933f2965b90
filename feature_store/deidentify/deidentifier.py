"""What stands between reading a contract's sources and writing anything of them: no identifier of a source gets past it.

All tables, and the bags. Columns are known by their declarations, so a new layout of sources needs nothing here; a new column of
identifiers is named in IDENTIFIERS (a test asks for it).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from feature_store.bag_file import write_shards
from feature_store.bag_record import BagRecord, EncoderInfo, SlideBag
from feature_store.columns import AGE, FOLLOW_UP_END, Column
from feature_store.contract import Contract
from feature_store.contract.deidentify import Deidentify
from feature_store.deidentify.key import load_key
from feature_store.deidentify.messages import Messages, shape
from feature_store.deidentify.pseudonyms import Kind, Pseudonyms, PseudonymTombstones
from feature_store.deidentify.texts import dates_moved, naming, scrubbed
from feature_store.erase.tombstones import Tombstones
from feature_store.errors import BagInputError, DeidentifyError
from feature_store.home import Home
from feature_store.sources import SourceFile, find
from feature_store.tables import BY_NAME, CLINICAL, FOLLOW_UP, QUARANTINE, REPORTS, SOURCES, Table

IDENTIFIERS: dict[str, Kind] = {
    "case_id": "case",
    "alias": "case",
    "slide_id": "slide",
    "report_id": "report",
    "sample_id": "sample",
    "aliquot_id": "sample",
    "site": "site",
}
Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Deidentifier:
    """De-identifies what one ingest of one contract reads.

    `people`: names that its texts may name. `counts`: what was done, by kind; never what it was done to.
    """

    rules: Deidentify
    pseudonyms: Pseudonyms
    messages: Messages
    people: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, contract: Contract, landing: Path, home: Home) -> "Deidentifier | None":
        """Return what the contract asks for, None where it asks for nothing. Raises DeidentifyError, see `load_key`."""
        if not contract.deidentify:
            return None
        rules, pseudonyms = contract.deidentify, Pseudonyms(load_key(home))
        files = find(landing, rules.names) if rules.names else []
        people = frozenset(
            line for file in files for line in file.path.read_text(encoding="utf-8", errors="replace").splitlines()
        )
        return cls(rules, pseudonyms, Messages(contract, landing, pseudonyms.known), people)

    def tombstones(self, stored: Tombstones) -> PseudonymTombstones:
        """Return the store's tombstones, to be asked by identifiers of the sources."""
        return PseudonymTombstones(stored.marks, stored.key, self.pseudonyms)

    def write_shards(
        self,
        directory: Path,
        bags: Iterable[SlideBag],
        encoder: EncoderInfo,
        *,
        on_rejected: Callable[[SlideBag, BagInputError], None],
    ) -> list[BagRecord]:
        """Write bags under pseudonyms, as `bag_file.write_shards` does; the caller sees the identifiers that it gave."""
        given: dict[str, tuple[str, str]] = {}

        def renamed() -> Iterator[SlideBag]:
            for bag in bags:
                slide_id = self.pseudonyms.of("slide", bag.slide_id)
                given[slide_id] = bag.slide_id, bag.case_id
                yield replace(bag, slide_id=slide_id, case_id=self.pseudonyms.of("case", bag.case_id))
                del bag  # its arrays would otherwise be held while the next one is read

        def rejected(bag: SlideBag, error: BagInputError) -> None:
            slide_id, case_id = given[bag.slide_id]
            on_rejected(replace(bag, slide_id=slide_id, case_id=case_id), error)

        records = write_shards(directory, renamed(), encoder, on_rejected=rejected)
        return [replace(record, slide_id=given[record.slide_id][0], case_id=given[record.slide_id][1]) for record in records]

    def applied(self, staged: Tables, files: Mapping[str, SourceFile]) -> Tables:
        """Return all tables of a contract de-identified. `files`: the sources by their paths.

        Raises DeidentifyError where an identifier would be stored in a column that is not meant for it.
        """
        done = {name: self._renamed(frame) for name, frame in staged.items()}  # all are known before any text is searched
        done = {name: self._valued(BY_NAME[name], frame) for name, frame in done.items()}
        paths = {path: self.messages.path(path, file.sha256) for path, file in files.items()}
        done |= {name: self._spoken(BY_NAME[name], frame, paths) for name, frame in done.items()}
        for name, frame in done.items():
            self._refuse_identifiers(name, frame)
        return done

    def _renamed(self, frame: pl.DataFrame) -> pl.DataFrame:
        found = {column: kind for column, kind in IDENTIFIERS.items() if column in frame.columns}
        return frame.with_columns(self.pseudonyms.column(kind, frame[column]) for column, kind in found.items())

    def _valued(self, table: Table, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a table with its texts scrubbed, ages capped and years as declared."""
        for column in table.columns if "case_id" in table.schema else ():
            values = frame[column.name]
            if column in _free_texts(table):
                frame = frame.with_columns(self._scrubbed(values, frame["case_id"]))
            elif column == AGE:
                frame = frame.with_columns(self._capped(values))
            elif column.unit == "year":
                frame = frame.with_columns(self._year(values, frame["case_id"]))
            elif column == FOLLOW_UP_END and self.rules.years != "keep":  # with the end's date it would give that of time zero
                frame = frame.with_columns(_nothing(values))
        return frame.with_columns(num_characters=pl.col("text").str.len_chars().cast(pl.Int32)) if table is REPORTS else frame

    def _spoken(self, table: Table, frame: pl.DataFrame, paths: Mapping[str, str]) -> pl.DataFrame:
        """Return a table that says of files, reasons and offending values only what may be said."""
        if table is QUARANTINE:
            frame = frame.with_columns(
                case_id_found=_mapped(frame["case_id_found"], self.pseudonyms.of_found),
                found=_mapped(frame["found"].fill_null(frame["case_id_found"]), shape),
            )
        if "reason" in frame.columns:
            frame = frame.with_columns(_mapped(frame["reason"], self.messages.without_identifiers))
        if "path" in frame.columns:
            frame = frame.with_columns(_mapped(frame["path"], lambda path: paths.get(path) or self.messages.path(path)))
        return frame.unique(table.key, maintain_order=True) if table is SOURCES else frame  # two files of one content

    def _scrubbed(self, texts: pl.Series, case_ids: pl.Series) -> pl.Series:
        def moved(texts: pl.Series) -> pl.Series:
            return dates_moved(texts, self._days(case_ids), is_day_first=self.rules.day_first)

        move_dates = moved if self.rules.report_dates == "shift" else None
        new, counts = scrubbed(texts, self.pseudonyms.known, self.people, move_dates)
        self.counts.update(counts)
        return new

    def _capped(self, ages: pl.Series) -> pl.Series:
        oldest = float(self.rules.oldest_age_years)
        self.counts["ages capped"] += int((ages > oldest).sum())
        return ages.clip(upper_bound=oldest)

    def _year(self, years: pl.Series, case_ids: pl.Series) -> pl.Series:
        if self.rules.years == "keep":
            return years
        self.counts["years"] += years.count()
        if self.rules.years == "drop":
            return _nothing(years)
        if self.rules.years == "generalise":
            return years // self.rules.year_step * self.rules.year_step
        moved = [
            None if year is None else (date(year, 7, 1) + timedelta(days)).year
            for year, days in zip(years, self._days(case_ids), strict=True)
        ]
        return pl.Series(years.name, moved, dtype=years.dtype)

    def _days(self, case_ids: pl.Series) -> pl.Series:
        most = self.rules.most_shift_days
        return pl.Series([self.pseudonyms.shift_days(case_id, most) for case_id in case_ids], dtype=pl.Int64)

    def _refuse_identifiers(self, name: str, frame: pl.DataFrame) -> None:
        for column in frame.select(pl.col(pl.String).exclude(*IDENTIFIERS)).columns:
            num_found = len(naming(frame[column], self.pseudonyms.known))
            if num_found:
                raise DeidentifyError(
                    f"table {name}, column {column}: {num_found} identifiers of the sources, expected none. The contract maps a "
                    "column of identifiers to it, or takes one for the name of a feature: change that."
                )


def _nothing(values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [None] * values.len(), dtype=values.dtype)


def _free_texts(table: Table) -> list[Column]:
    """Return the columns of a table that may hold whatever a person wrote."""
    if table is REPORTS:
        return [column for column in table.columns if column.name == "text"]
    of_values = table.columns if table in (CLINICAL, FOLLOW_UP) else ()
    kinds = ("baseline", "post_treatment")
    return [c for c in of_values if c.sql_type == "VARCHAR" and c.role in kinds and not c.allowed]


def _mapped(texts: pl.Series, change: Callable[[str], str]) -> pl.Series:
    changed = {text: change(text) for text in texts.unique().drop_nulls()}
    return texts.replace_strict(changed, default=None, return_dtype=pl.String) if changed else texts
