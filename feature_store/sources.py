"""Source files as they lie in a landing folder: finding, fingerprinting, and reading tables of any format as text.

Every column comes back as text, so that `001` stays `001`; turning text into values is the contract's business (ingest/).
"""

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
import pyarrow.parquet as pq

from feature_store.errors import ColumnMissingError, LandingMissingError, SourceFormatError

# A landing table larger than this is refused rather than read: the largest real one here is 13 MB unpacked.
MAX_UNPACKED_BYTES = 4 * 1024**3
_BYTES_PER_CELL = 16  # what polars takes at least for a text
# What readers of damaged or hostile files raise.
_UNREADABLE = (
    pl.exceptions.PolarsError,
    fastexcel.FastExcelError,
    zipfile.BadZipFile,
    zlib.error,
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
    """Return the files that `pattern` (a glob relative to `landing`) names, sorted. Raises LandingMissingError if none."""
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
    return [fingerprint(landing, path) for path in paths]


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
            return _read_parquet(source.path)
        if suffixes.endswith((".xlsx", ".xls")):
            return _read_sheet(source.path, sheet)
        if suffixes.endswith(".rds"):
            return _read_rds(source.path)
        separator = "\t" if ".tsv" in suffixes or ".txt" in suffixes else ","
        return _once_named(pl.read_csv(io.BytesIO(_unpacked(source.path)), separator=separator, infer_schema=False))
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


def _once_named(frame: pl.DataFrame) -> pl.DataFrame:
    """Refuse a header that names a column twice: polars would rename the second, and a contract would never see it."""
    names = set(frame.columns)
    renamed = {re.sub(r"_duplicated_\d+$", "", column) for column in frame.columns if "_duplicated_" in column}
    repeated = sorted((renamed & names) - {""})
    if repeated:
        raise ValueError(f"columns {repeated[:5]} occur twice in the header")
    return frame


def _read_parquet(path: Path) -> pl.DataFrame:
    footer = pq.read_metadata(path)
    if footer.num_rows * footer.num_columns * _BYTES_PER_CELL > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"{footer.num_rows:,} rows of {footer.num_columns:,} columns, over {MAX_UNPACKED_BYTES:,} bytes unpacked"
        )
    # through pyarrow, which answers damaged pages and texts with an error where polars panics
    table = pq.read_table(path, page_checksum_verification=True)
    table.validate(full=True)
    if len(set(table.column_names)) != table.num_columns:
        raise ValueError("a column occurs twice")
    columns = dict(zip(table.column_names, table.columns, strict=True))  # without the schema's metadata, which polars parses
    return pl.DataFrame({name: pl.Series(values).cast(pl.String) for name, values in columns.items()})


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
