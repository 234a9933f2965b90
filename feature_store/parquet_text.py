"""A Parquet file as a table of texts, in bounded memory: what it would unpack to is known before it is unpacked.

A footer says how large columns are, but counts a text that occurs in many rows once, as the file stores it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_BYTES_PER_CELL = 16  # what polars takes at least for a text


def read_as_text(path: Path, max_bytes: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return all columns as text, or only those asked for, if the file has them all.

    Raises ValueError for a file that unpacks to more, and pyarrow's errors for a damaged one.
    """
    footer = pq.read_metadata(path)
    schema = footer.schema.to_arrow_schema()
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    if nested:
        raise ValueError(f"columns {nested[:5]} hold lists or structs")
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("a column occurs twice")
    claimed = max(
        footer.num_rows * footer.num_columns * _BYTES_PER_CELL,
        sum(footer.row_group(index).total_byte_size for index in range(footer.num_row_groups)),
    )
    if claimed > max_bytes:
        raise ValueError(
            f"{footer.num_rows:,} rows of {footer.num_columns:,} columns claim {claimed:,} bytes unpacked, over {max_bytes:,}"
        )
    # Through pyarrow, which answers damaged pages and texts with an error where polars panics. A text that occurs in many rows
    # is stored once and the footer counts it once, so texts stay in their dictionaries until their full size is known.
    texts = [field.name for field in schema if _is_text(field.type)]
    asked = list(dict.fromkeys(columns)) if columns is not None and set(columns) <= set(schema.names) else None
    table = pq.read_table(path, columns=asked, page_checksum_verification=True, read_dictionary=texts)
    table.validate(full=True)
    unpacked = sum(_unpacked_bytes(column) for column in table.columns)
    if unpacked > max_bytes:
        raise ValueError(f"{unpacked:,} bytes unpacked, over {max_bytes:,}")
    found = dict(zip(table.column_names, table.columns, strict=True))  # without the schema's metadata, which polars parses
    none = pl.Series([], dtype=pl.String)
    return pl.DataFrame({name: pl.concat([none, *map(_as_text, values.chunks)]) for name, values in found.items()})


def _as_text(values: pa.Array) -> pl.Series:
    """Return values as texts; of a dictionary each entry is made into one once, however many rows have it."""
    if pa.types.is_dictionary(values.type):
        return pl.Series(values.dictionary).cast(pl.String).gather(pl.Series(values.indices))
    return pl.Series(values).cast(pl.String)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _unpacked_bytes(column: pa.ChunkedArray) -> int:
    """Return the size of a column's values written out, each as often as it occurs."""
    total = 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type) and len(chunk.dictionary) and _is_text(chunk.type.value_type):
            counts = np.bincount(chunk.indices.drop_null().to_numpy(), minlength=len(chunk.dictionary))
            lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False)
            total += int((counts * lengths.astype(np.int64)).sum())
        else:
            total += chunk.nbytes
    return total
