"""Source files as they lie in a landing folder: finding, fingerprinting, and reading tables of any format as text.

Every column comes back as text, so that `001` stays `001`; turning text into values is the contract's business (ingest/).
A text that was cut short does not show it, so a landing folder may list its files in SHA256SUMS; then they are held against it.
"""

import csv
import gzip
import hashlib
import io
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import fastexcel
import polars as pl

from feature_store.errors import ColumnMissingError, LandingMissingError, SourceFormatError
from feature_store.parquet_text import read_as_text
from feature_store.short_rows import refuse_short_rows

# What `sha256sum` writes and `sha256sum -c` reads: the digest, two signs, the path relative to the landing folder.
CHECKSUMS = "SHA256SUMS"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
# A landing table larger than this is refused rather than read: the largest real one here is 13 MB unpacked.
MAX_UNPACKED_BYTES = 4 * 1024**3
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
    files = [fingerprint(landing, path) for path in paths]
    checksums = landing / CHECKSUMS
    if checksums.is_file():
        listed = _listed(checksums, checksums.stat().st_mtime_ns)
        for file in files:
            if file.relative != CHECKSUMS and listed.get(file.relative) != file.sha256:
                found = f"sha256 {file.sha256[:12]}" if file.relative in listed else "not listed"
                expected = f"{listed.get(file.relative, '')[:12] or 'an entry'} of {CHECKSUMS}"
                raise SourceFormatError(f"source {file.relative}: {found}, expected {expected}. Fetch the file again.")
    return files


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


def read_table(source: SourceFile, sheet: str | None = None) -> pl.DataFrame:
    """Read CSV, TSV (plain, gzip, or the only member of a zip), XLSX, Parquet or RDS with every column as text.

    Raises SourceFormatError naming the file and what was wrong.
    """
    suffixes = "".join(source.path.suffixes[-2:]).lower()
    try:
        if suffixes.endswith(".parquet"):
            return read_as_text(source.path, MAX_UNPACKED_BYTES)
        if suffixes.endswith((".xlsx", ".xls")):
            return _read_sheet(source.path, sheet)
        if suffixes.endswith(".rds"):
            return _read_rds(source.path)
        separator = "\t" if ".tsv" in suffixes or ".txt" in suffixes else ","
        return _read_text(_unpacked(source.path), separator)
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceFormatError(
            f"source {source.relative}: unreadable as {suffixes.lstrip('.')} ({reason}), expected a table. "
            "Fetch the file again or correct the contract's layout."
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


def _unpacked(path: Path) -> bytes:
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            data = stream.read(MAX_UNPACKED_BYTES + 1)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise ValueError(f"{len(members)} members in the archive, expected exactly one table")
            with archive.open(members[0]) as stream:
                data = stream.read(MAX_UNPACKED_BYTES + 1)
    else:
        data = path.read_bytes()
    if len(data) > MAX_UNPACKED_BYTES:
        raise ValueError(f"over {MAX_UNPACKED_BYTES:,} bytes unpacked")
    return data


def _read_text(data: bytes, separator: str) -> pl.DataFrame:
    frame = _once_named(pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False))
    refuse_short_rows(data, separator, frame, MAX_UNPACKED_BYTES)
    return frame


def _once_named(frame: pl.DataFrame) -> pl.DataFrame:
    """Refuse a header that names a column twice: polars would rename the second, and a contract would never see it."""
    names = set(frame.columns)
    renamed = {re.sub(r"_duplicated_\d+$", "", column) for column in frame.columns if "_duplicated_" in column}
    repeated = sorted((renamed & names) - {""})
    if repeated:
        raise ValueError(f"columns {repeated[:5]} occur twice in the header")
    return frame


def _read_sheet(path: Path, sheet: str | None) -> pl.DataFrame:
    frame = pl.read_excel(path, sheet_name=sheet, infer_schema_length=0)
    return frame.select(pl.all().cast(pl.String))


def _read_rds(path: Path) -> pl.DataFrame:
    import rdata  # noqa: PLC0415 - slow to import (xarray), and needed by few contracts

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # rdata warns of every R attribute it does not map
            table = rdata.read_rds(path)
        return pl.from_pandas(table.rename(columns=str)).select(pl.all().cast(pl.String))
    except Exception as error:  # a damaged file makes its parser fail with whatever Python raises
        raise ValueError(f"no data frame of R: {error!r}") from error
