"""How `mice sql` writes a result: a table for people, CSV, JSON and Parquet for programs. No query, no arguments."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_store.analyst import Rows

_MAX_TABLE_ROWS = 100
_MAX_COUNTED_ROWS = 1_000_000
_MAX_CELL = 60


class Format(StrEnum):
    """How the result is written."""

    table = "table"
    csv = "csv"
    parquet = "parquet"
    json = "json"


@contextmanager
def waiting(timeout_s: float) -> Iterator[None]:
    """Show on a terminal that the query runs, and since when.

    Not DuckDB's own bar: with a streamed result it never shows, otherwise it stays at 0%, and it would go to standard output.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("query running"), TimeElapsedColumn(), TextColumn(f"of at most {timeout_s:g} s"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task("query", total=None)
        yield


def _write_table(rows: "Rows", sink: BinaryIO) -> None:
    shown: list[list[str]] = []
    num_rows = 0
    for batch in rows.batches:
        taken = batch.slice(0, max(0, _MAX_TABLE_ROWS - num_rows))
        shown += [[_cell(value) for value in row] for row in zip(*(c.to_pylist() for c in taken.columns), strict=True)]
        num_rows += batch.num_rows
        if num_rows > _MAX_COUNTED_ROWS:
            break
    headers = [_cell(name) for name in rows.schema.names]
    widths = [max(map(len, column)) for column in zip(headers, *shown, strict=True)]
    is_number = [_is_number(kind) for kind in rows.schema.types]
    if sys.stdout.isatty() and sink is sys.stdout.buffer:
        _print_rich(headers, shown, is_number, sum(widths) + 3 * len(widths))
    else:
        for row in (headers, *shown):
            cells = zip(row, widths, is_number, strict=True)
            line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells)
            sink.write(f"{line.rstrip()}\n".encode())
    if num_rows > len(shown):
        many = "over " if num_rows > _MAX_COUNTED_ROWS else ""
        typer.echo(f"... and {many}{num_rows - len(shown):,} more rows; --format csv gives all.", err=True)


def _print_rich(headers: list[str], shown: list[list[str]], is_number: list[bool], width: int) -> None:
    """Print a table, or, where it is wider than the terminal, one value per line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=box.SIMPLE_HEAD) if width <= console.width else Table(box=None, show_header=False)
    if width <= console.width:
        for header, right in zip(headers, is_number, strict=True):
            table.add_column(Text(header), justify="right" if right else "left")
        for row in shown:
            table.add_row(*map(Text, row))
    else:
        for index, row in enumerate(shown, start=1):
            table.add_row(Text(f"row {index}", style="bold"), Text(""))
            for header, cell in zip(headers, row, strict=True):
                table.add_row(Text(header), Text(cell))
    console.print(table)


def _cell(value: object) -> str:
    """Return a value for a table: short, on one line, and without control characters (texts come from outside)."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    plain = _plain(value)
    text = "" if plain is None else str(plain)
    text = "".join(character if character.isprintable() else " " for character in text[: _MAX_CELL + 1])
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def _plain(value: object) -> object:
    """Return a value as JSON can hold it: NaN and infinities are null."""
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, str | int) else str(value)


def _write_json(rows: "Rows", sink: BinaryIO) -> None:
    before = b"[\n"
    for batch in rows.batches:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            record = dict(zip(rows.schema.names, map(_plain, row), strict=True))
            sink.write(before + json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
            before = b",\n"
    sink.write(b"\n]\n" if before == b",\n" else b"[]\n")


def _write_csv(rows: "Rows", sink: BinaryIO) -> None:
    """Write CSV; lists and other types that CSV has no form for become JSON."""
    import pyarrow as pa
    from pyarrow import csv

    is_simple = [_is_simple(field.type) for field in rows.schema]
    fields = [
        field if simple else pa.field(field.name, pa.string()) for field, simple in zip(rows.schema, is_simple, strict=True)
    ]
    schema = pa.schema(fields)
    with csv.CSVWriter(sink, schema) as writer:
        for batch in rows.batches:
            columns = [c if simple else _as_json(c) for c, simple in zip(batch.columns, is_simple, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _is_number(kind: "pa.DataType") -> bool:
    import pyarrow.types as t

    return t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind)


def _is_simple(kind: "pa.DataType") -> bool:
    import pyarrow.types as t

    others = (t.is_boolean, t.is_string, t.is_date, t.is_time, t.is_timestamp)
    return _is_number(kind) or any(fits(kind) for fits in others)


def _as_json(column: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    return pa.array([None if v is None else json.dumps(_plain(v), ensure_ascii=False) for v in column.to_pylist()], pa.string())


def _write_parquet(rows: "Rows", sink: BinaryIO) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
        for batch in rows.batches:
            writer.write_batch(batch)


WRITERS: dict[Format, Callable[["Rows", BinaryIO], None]] = {
    Format.table: _write_table,
    Format.csv: _write_csv,
    Format.json: _write_json,
    Format.parquet: _write_parquet,
}
