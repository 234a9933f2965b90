"""Rows of a CSV text with fewer fields than its header, as cut downloads and careless merges leave them: polars fills them up."""

import csv
import io

import numpy as np
import polars as pl

_CHUNK_BYTES = 2**20
_QUOTE = ord('"')


def refuse_short_rows(data: bytes, separator: str, frame: pl.DataFrame, max_field_bytes: int) -> None:
    """Raise ValueError if a row of `data` is short; `frame` is what polars made of it. Empty lines are no rows.

    A short row leaves a null in the last column, which clears most files at once; the number of separators clears the others.
    Only where that differs is every row looked at, which takes longer than reading.
    """
    if frame.width < 2 or not frame.to_series(-1).null_count():
        return
    if _num_separators(data, ord(separator)) == (frame.height + 1) * (frame.width - 1):
        return
    csv.field_size_limit(max_field_bytes)
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), delimiter=separator)
    short = [(rows.line_num, len(row)) for row in rows if 0 < len(row) < frame.width]
    if short:
        line, num_fields = short[0]
        raise ValueError(f"{len(short)} rows cut short, the first at line {line} with {num_fields} of {frame.width} fields")


def _num_separators(data: bytes, separator: int) -> int:
    """Count the separators outside quotes."""
    found, is_quoted = 0, False
    for start in range(0, len(data), _CHUNK_BYTES):
        chunk = np.frombuffer(data, np.uint8, min(_CHUNK_BYTES, len(data) - start), start)
        quotes, is_separator = np.flatnonzero(chunk == _QUOTE), chunk == separator
        if len(quotes):
            num_before = np.searchsorted(quotes, np.flatnonzero(is_separator))
            found += int(np.count_nonzero((num_before + is_quoted) % 2 == 0))
            is_quoted ^= bool(len(quotes) % 2)
        elif not is_quoted:
            found += int(np.count_nonzero(is_separator))
    return found
