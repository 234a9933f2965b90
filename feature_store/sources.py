"""Source files as they lie in a landing folder: finding and fingerprinting them, and reading tables of any format as text.

Which reader a file's ending asks for is said here; the readers are file_tables.py, json_tables.py and parquet_text.py. Every
column comes back as text, so that `001` stays `001`; turning text into values is the contract's business (ingest/).
A text that was cut short does not show it, so a landing folder may list its files in SHA256SUMS; then they are held against it.
"""

import csv
import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

import fastexcel
import polars as pl

from feature_store.contract.formats import TableFormat
from feature_store.errors import ColumnMissingError, LandingMissingError, SourceFormatError
from feature_store.file_tables import read_r, read_sheet, read_text, unpacked, with_decimal_points
from feature_store.json_tables import MAX_BYTES, RECORD, Records, read_records
from feature_store.parquet_text import read_as_text
from feature_store.progress import tracked

# What `sha256sum` writes and `sha256sum -c` reads: the digest, two signs, the path relative to the landing folder.
CHECKSUMS = "SHA256SUMS"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
# A landing table larger than this is refused rather than read: the largest real one here is 13 MB unpacked.
MAX_UNPACKED_BYTES = 4 * 1024**3
_JSON = {".json": False, ".jsonl": True, ".ndjson": True}  # whether every line is a record
_TAB_SEPARATED = {".tsv", ".txt", ".maf"}
# More files than these are hashed with progress shown.
_FEW = 100
_HASHERS = 2
# What readers of damaged or hostile files raise.
_UNREADABLE = (
    pl.exceptions.PolarsError,
    fastexcel.FastExcelError,
    zipfile.BadZipFile,
    zlib.error,
    csv.Error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class SourceFile:
    """A file in the landing folder, fingerprinted."""

    path: Path
    relative: str
    num_bytes: int
    sha256: str


def find(landing: Path, pattern: str) -> list[SourceFile]:
    """Return the files that `pattern` (a glob relative to `landing`) names, sorted.

    Raises LandingMissingError if there is none, SourceFormatError for one that is not as the folder's SHA256SUMS lists it.
    """
    if not landing.is_dir():
        raise LandingMissingError(
            f"landing folder {landing}: not a folder, expected the cohort's source files there. "
            "Pass the right one (make tcga DATA=...), or fetch the data first."
        )
    paths = sorted(path for path in landing.glob(pattern) if path.is_file())
    if not paths:
        raise LandingMissingError(
            f"landing folder {landing}: no file matches {pattern!r}, expected at least one. "
            "Check that the download is complete and that the contract's path is right."
        )
    with ThreadPoolExecutor(_HASHERS) as pool:  # hashing lets other threads run
        files = pool.map(lambda path: checked(landing, path), paths)
        return list(tracked(files, f"fingerprints of {pattern}", len(paths)) if len(paths) > _FEW else files)


def checked(landing: Path, path: Path) -> SourceFile:
    """Return the file, fingerprinted. Raises SourceFormatError for one that is not as the folder's SHA256SUMS lists it."""
    file, checksums = fingerprint(landing, path), landing / CHECKSUMS
    if file.relative != CHECKSUMS and checksums.is_file():
        listed = _listed(checksums, checksums.stat().st_mtime_ns)
        if listed.get(file.relative) != file.sha256:
            found = f"sha256 {file.sha256[:12]}" if file.relative in listed else "not listed"
            expected = f"{listed.get(file.relative, '')[:12] or 'an entry'} of {CHECKSUMS}"
            raise SourceFormatError(f"source {file.relative}: {found}, expected {expected}. Fetch the file again.")
    return file


def is_below(path: Path, folder: Path) -> bool:
    """Say whether there is a file at a path that a table gave, and it lies in the folder."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a name that no file system takes
        return False


@lru_cache(maxsize=16)
def _listed(checksums: Path, _mtime_ns: int) -> dict[str, str]:
    """Return path -> digest. Raises SourceFormatError for a line of another kind and for a path listed twice."""
    listed: dict[str, str] = {}
    for line in checksums.read_text(encoding="utf-8").splitlines():
        match = _CHECKSUM_LINE.fullmatch(line)
        if match is None or match[2] in listed:
            found = f"{line[:80]!r} is {'no checksum line' if match is None else 'listed twice'}"
            raise SourceFormatError(f"{checksums}: {found}, expected `sha256sum`'s lines, each path once. Write the list again.")
        listed[match[2]] = match[1]
    return listed


def fingerprint(landing: Path, path: Path) -> SourceFile:
    """Return the file with its size and SHA-256 (remembered by size and modification time within the process)."""
    stat = path.stat()
    digest = _sha256(path, stat.st_size, stat.st_mtime_ns)
    return SourceFile(path, path.relative_to(landing).as_posix(), stat.st_size, digest)


@lru_cache(maxsize=65536)
def _sha256(path: Path, _num_bytes: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_table(
    source: SourceFile, form: TableFormat | None = None, columns: Sequence[str] | None = None, numbers: Sequence[str] = ()
) -> pl.DataFrame:
    """Read CSV, TSV, MAF or JSON (plain, gzip, or the only member of a zip), XLSX, Parquet, RDS or RDA with every column as text.

    `columns`: those that will do, where a format can leave others out and the file has them all. `numbers`: patterns of columns
    that may come as float32, in a quarter of the memory, where separated values hold nothing but numbers in them.
    Raises SourceFormatError naming the file and what was wrong, ColumnMissingError for a column of `form.where`.
    """
    form, kind = form or TableFormat(), _kind(source)
    with _readable(source):
        if kind == ".parquet":
            frame = read_as_text(source.path, MAX_UNPACKED_BYTES, columns)
        elif kind in {".xlsx", ".xls"}:
            frame = read_sheet(source.path, form.sheet)
        elif kind in {".rds", ".rda"}:
            frame = read_r(source.path)
        elif kind in _JSON:
            frame = _records(source, form, ()).main.drop(RECORD)
        else:
            separator = form.separator or ("\t" if kind in _TAB_SEPARATED else ",")
            frame = read_text(unpacked(source.path, MAX_UNPACKED_BYTES), separator, form, MAX_UNPACKED_BYTES, numbers)
        if form.decimal == ",":
            frame = with_decimal_points(frame)
    return meant(frame, form, source)


def read_nested(source: SourceFile, form: TableFormat, lists: Sequence[str]) -> Records:
    """Read JSON with lists inside its records. Raises SourceFormatError as read_table does, and for a file of another kind."""
    with _readable(source):
        if _kind(source) not in _JSON:
            raise ValueError("only JSON has nested lists")
        return _records(source, form, lists)


def meant(frame: pl.DataFrame, form: TableFormat, source: SourceFile) -> pl.DataFrame:
    """Return a table with its optional columns, and without the rows that `form.where` leaves out."""
    absent = [name for name in form.optional_columns if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent) if absent else frame
    require_columns(frame, list(form.where), source)
    kept = [pl.col(name).str.strip_chars().is_in(values) for name, values in form.where.items()]
    return frame.filter(kept) if kept else frame


def _records(source: SourceFile, form: TableFormat, lists: Sequence[str]) -> Records:
    return read_records(
        unpacked(source.path, min(MAX_UNPACKED_BYTES, MAX_BYTES)),
        form.encoding,
        form.records,
        is_lines=_JSON[_kind(source)],
        lists=lists,
        max_bytes=MAX_UNPACKED_BYTES,
    )


def _kind(source: SourceFile) -> str:
    """Return the ending that says how a file is written, without how it is packed."""
    return PurePath(source.path.name.lower().removesuffix(".gz").removesuffix(".zip")).suffix


@contextmanager
def _readable(source: SourceFile) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceFormatError(
            f"source {source.relative}: unreadable as {''.join(source.path.suffixes[-2:]).lower().lstrip('.')} ({reason}), "
            "expected a table. Fetch the file again or correct the contract's layout."
        ) from error


def require_columns(frame: pl.DataFrame, names: list[str], source: SourceFile) -> None:
    """Raise ColumnMissingError unless `frame` has all of `names`."""
    absent = [name for name in names if name not in frame.columns]
    if absent:
        near = [c for c in frame.columns if any(c.lower().strip() == a.lower().strip() for a in absent)]
        hint = f"; close: {near[:5]}" if near else f"; the first columns are {frame.columns[:8]}"
        raise ColumnMissingError(
            f"source {source.relative}: no column {absent[:5]}, expected it by the contract{hint}. "
            "If the source renamed it, change the contract."
        )
