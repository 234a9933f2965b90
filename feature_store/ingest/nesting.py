"""A source's file as one table of rows. Of lists inside JSON's records, all elements become rows, or the one that keys choose."""

from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from feature_store.contract.rules import PickKey
from feature_store.contract.sources import RowSource, Source
from feature_store.errors import SourceFormatError
from feature_store.ingest.choosing import chosen
from feature_store.json_tables import RECORD, Records
from feature_store.sources import SourceFile, meant, read_nested, read_table, require_columns

_MAX_ROWS = 20_000_000  # several lists with all their elements multiply


def read_rows(file: SourceFile, spec: Source, missing: tuple[str, ...], numbers: Sequence[str] = ()) -> pl.DataFrame:
    """Read a file as a source says; rows of elements that do not count come last, marked as choosing.py marks them.

    `numbers` is read_table's.

    Raises SourceFormatError for a file of another form, ColumnMissingError for a column that a key or `where` names.
    """
    if not isinstance(spec, RowSource) or not spec.nested:
        return read_table(file, spec, spec.columns_read if isinstance(spec, RowSource) else None, numbers)
    records = read_nested(file, spec, list(spec.nested))
    return meant(_flattened(records, spec.nested, spec.optional_columns, missing, file), spec, file)


def _flattened(
    records: Records,
    nested: Mapping[str, Literal["all"] | tuple[PickKey, ...]],
    optional_columns: tuple[str, ...],
    missing: tuple[str, ...],
    file: SourceFile,
) -> pl.DataFrame:
    frame, others = records.main, []
    for name, keys in nested.items():
        elements = records.lists[name]
        if keys != "all":
            absent = [column for column in optional_columns if column.startswith(f"{name}.") and column not in elements.columns]
            elements = elements.with_columns(pl.lit(None, pl.String).alias(column) for column in absent)
            require_columns(elements, [key.column for key in keys], file)
            elements, left_out = chosen(elements, RECORD, keys, missing)
            others.append(records.main.join(left_out, on=RECORD))
        per_record = frame.group_by(RECORD).len("n").join(elements.group_by(RECORD).len("m"), on=RECORD)
        if (num_rows := per_record.select((pl.col("n") * pl.col("m")).sum()).item()) > _MAX_ROWS:
            raise SourceFormatError(
                f"source {file.relative}: {num_rows:,} rows with every element of {list(nested)}, expected {_MAX_ROWS:,} at "
                "most. Say in the contract which elements count, or read the lists as sources of their own."
            )
        frame = frame.join(elements, on=RECORD, how="left", maintain_order="left")
    return pl.concat([frame, *others], how="diagonal").drop(RECORD)
