"""Files that belong to one case each: of which case, which of several counts, where it lies. Nothing opens them here."""

import string
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from feature_store import sources
from feature_store.contract.sources import CaseFilesSource
from feature_store.ingest.context import Ingest
from feature_store.ingest.nesting import read_rows
from feature_store.ingest.quarantine import PATH
from feature_store.sources import SourceFile, checked, is_below, require_columns

# A table of files, rows of it, and the file of each row.
Listed = tuple[SourceFile, pl.DataFrame, list[SourceFile]]


def case_files(ingest: Ingest, spec: CaseFilesSource, table: str) -> Iterator[Listed]:
    """Yield each table of files, its rows of known cases that count, and the file of each row; a missing file is rejected.

    Without such tables, the files that the contract's path names are the rows of one; its column is `path`.
    """
    for listing, raw in _listings(ingest, spec):
        frame = ingest.rows(raw, spec, table, listing)
        frame = frame.with_columns(_places(frame, spec, listing).alias("_place"))
        places = frame["_place"].to_list()
        is_there = pl.Series([place is not None and is_below(ingest.landing / place, ingest.landing) for place in places])
        is_there = is_there.cast(pl.Boolean)
        ingest.reject(frame.filter(~is_there), table, listing, "no such file in the landing folder", pl.col("_place"))
        frame = frame.filter(is_there)
        files = [checked(ingest.landing, ingest.landing / place) for place in frame["_place"]]
        for cohort, file in zip(frame["cohort"], files, strict=True):
            ingest.files[file.relative] = file
            ingest.used_by[cohort].add(file.relative)
        yield listing, frame, files


def listed_files(landing: Path, spec: CaseFilesSource, missing: tuple[str, ...]) -> list[SourceFile]:
    """Return the files that the tables of files name, of whatever cases, as far as they are there."""
    if spec.files is None:
        return []
    paths: set[str] = set()
    for file in sources.find(landing, spec.path):
        paths |= set(_places(read_rows(file, spec, missing), spec, file).drop_nulls())
    return [checked(landing, landing / path) for path in sorted(paths) if is_below(landing / path, landing)]


def _listings(ingest: Ingest, spec: CaseFilesSource) -> Iterator[tuple[SourceFile, pl.DataFrame]]:
    if spec.files is not None:
        yield from ingest.read(spec)
        return
    found = [file.relative for file in sources.find(ingest.landing, spec.path)]
    listing = SourceFile(ingest.landing, spec.path, 0, "")
    raw = sources.meant(pl.DataFrame({"path": found, PATH: found}), spec, listing)
    require_columns(raw, [spec.case_id.column], listing)
    yield listing, raw


def _places(frame: pl.DataFrame, spec: CaseFilesSource, listing: SourceFile) -> pl.Series:
    """Return where each row's file lies below the landing folder, null where the row does not say."""
    parts: list[pl.Expr] = []
    for text, column, _, _ in string.Formatter().parse(spec.files or "{path}"):
        parts.append(pl.lit(text))
        if column is not None:
            require_columns(frame, [column], listing)
            parts.append(pl.col(column).str.strip_chars())
    return frame.select(pl.concat_str(parts)).to_series()
