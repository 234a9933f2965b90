"""Tables out of files that people and programs write: CSV and its kin, packed or not, sheets, R's data frames. All as text.

Which file is read how is sources.py's business; JSON is json_tables.py's, Parquet parquet_text.py's. Raises whatever the readers
raise over damaged or hostile files, ValueError for what they would let through.
"""

import gzip
import io
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import polars as pl

from feature_store.contract.formats import TableFormat
from feature_store.short_rows import refuse_short_rows

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 24
_LINE_END = re.compile(rb"\r\n|\n|\r")
_COMMA_NUMBER = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"
_GROUPED_NUMBER = r"^\s*[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?\s*$"


def unpacked(path: Path, max_bytes: int) -> bytes:
    """Return a file's bytes: unpacked, if it is gzip, or a zip archive with one member."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as stream:
            return _bounded(stream, max_bytes)
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise ValueError(f"{len(members)} members in the archive, expected exactly one table")
            with archive.open(members[0]) as stream:
                return _bounded(stream, max_bytes)
    with path.open("rb") as stream:
        return _bounded(stream, max_bytes)


def _bounded(stream: IO[bytes] | gzip.GzipFile, max_bytes: int) -> bytes:
    """Read to the end, piece by piece: asked for all at once, Python would set the whole bound aside."""
    data = io.BytesIO()  # gives its bytes away without a copy
    while piece := stream.read(_PIECE_BYTES):
        data.write(piece)
        if data.tell() > max_bytes:
            raise ValueError(f"over {max_bytes:,} bytes unpacked")
    return data.getvalue()


def read_text(data: bytes, separator: str, form: TableFormat, max_bytes: int, numbers: Sequence[str] = ()) -> pl.DataFrame:
    """Read separated values. Refuses columns named twice and rows cut short.

    Columns that one of the patterns `numbers` matches come as float32, if all of them hold numbers only.
    """
    if form.encoding.lower().replace("_", "-") not in {"utf-8", "utf8"}:
        data = data.decode(form.encoding).encode()
    if form.comment is not None:
        data = _without_comments(data, form.comment.encode())
    kinds = _number_columns(data, separator, numbers) if form.decimal == "." else {}
    frame = _once_named(_parsed(data, separator, kinds))
    refuse_short_rows(data, separator, frame, max_bytes)
    return frame


def _parsed(data: bytes, separator: str, kinds: Mapping[str, type[pl.Float32]]) -> pl.DataFrame:
    if kinds:
        with suppress(pl.exceptions.ComputeError):  # some text is no number: whose reader says which, and what it means
            return pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False, schema_overrides=kinds)
    return pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False)


def _number_columns(data: bytes, separator: str, patterns: Sequence[str]) -> dict[str, type[pl.Float32]]:
    if not patterns:
        return {}
    header = pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False, n_rows=0)
    compiled = [re.compile(pattern) for pattern in patterns]
    return {name: pl.Float32 for name in header.columns if any(pattern.fullmatch(name) for pattern in compiled)}


def read_sheet(path: Path, sheet: str | None) -> pl.DataFrame:
    """Read one sheet of a workbook, the first by default."""
    frame = pl.read_excel(path, sheet_name=sheet, infer_schema_length=0)
    return frame.select(pl.all().cast(pl.String))


def read_r(path: Path) -> pl.DataFrame:
    """Read the data frame of an .rds file, or the only one of an .rda file."""
    import rdata  # noqa: PLC0415 - slow to import (xarray), and needed by few contracts

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # rdata warns of every R attribute it does not map
            if path.suffix.lower() == ".rds":
                table = rdata.read_rds(path)
            else:
                ((_, table),) = rdata.read_rda(path).items()
        return pl.from_pandas(table.rename(columns=str)).select(pl.all().cast(pl.String))
    except Exception as error:  # a damaged file makes its parser fail with whatever Python raises
        raise ValueError(f"no data frame of R: {error!r}") from error


def with_decimal_points(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table written with decimal commas with decimal points instead.

    Only cells that are a number as a whole are rewritten. A point that groups thousands becomes a comma, so that such a number
    is refused where one is expected, as it is in a table written with points.
    """
    text = pl.col(pl.String)
    swapped = text.str.replace_all(".", "\0", literal=True).str.replace_all(",", ".", literal=True)
    grouped = swapped.str.replace_all("\0", ",", literal=True)
    pointed = text.str.replace(_COMMA_NUMBER, "${1}.${2}")
    return frame.with_columns(pl.when(text.str.contains(_GROUPED_NUMBER)).then(grouped).otherwise(pointed))


def _without_comments(data: bytes, comment: bytes) -> bytes:
    start = len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0
    while data.startswith(comment, start):
        end = _LINE_END.search(data, start)
        start = len(data) if end is None else end.end()
    return data[start:]


def _once_named(frame: pl.DataFrame) -> pl.DataFrame:
    """Refuse a header that names a column twice: polars would rename the second, and a contract would never see it."""
    names = set(frame.columns)
    renamed = {re.sub(r"_duplicated_\d+$", "", column) for column in frame.columns if "_duplicated_" in column}
    repeated = sorted((renamed & names) - {""})
    if repeated:
        raise ValueError(f"columns {repeated[:5]} occur twice in the header")
    return frame
