"""Looking for what is left of a case in a folder; shares nothing with the erasure's own proof.

Reads every byte of every file, and decodes what hides bytes: Parquet columns and footers, and the tables of SQLite files.
"""

import mmap
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Traces:
    """What only this case has: texts, and numbers as the bytes in which a file may hold them."""

    texts: tuple[str, ...]
    numbers: tuple[bytes, ...]


def hits(root: Path, traces: Traces) -> list[str]:
    """Return every place in which a trace is found, as `file: how`."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.stat().st_size:
            name = str(path.relative_to(root))
            found += [f"{name}: {how}" for how in (*_in_name(name, traces), *_in_bytes(path, traces), *_decoded(path, traces))]
    return found


def _in_name(name: str, traces: Traces) -> Iterator[str]:
    if any(text in name for text in traces.texts):
        yield "its name"


def _in_bytes(path: Path, traces: Traces) -> Iterator[str]:
    needles = [needle for text in traces.texts for needle in (text.encode(), text.encode("utf-16-le"))]
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
        for needle in (*needles, *traces.numbers):
            if (at := data.find(needle)) >= 0:
                yield f"byte {at:,} holds {needle[:24]!r}"


def _decoded(path: Path, traces: Traces) -> Iterator[str]:
    with path.open("rb") as file:
        magic = file.read(16)
    if magic.startswith(b"PAR1"):
        yield from _in_parquet(path, traces)
    elif magic.startswith(b"SQLite format 3"):
        yield from _in_sqlite(path, traces)


def _in_parquet(path: Path, traces: Traces) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        footer = f"{file.metadata.metadata} {file.schema_arrow.metadata}"
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        bounds = [column.statistics for group in groups for column in map(group.column, range(group.num_columns))]
        footer += " ".join(f"{bound.min} {bound.max}" for bound in bounds if bound is not None and bound.has_min_max)
        if any(text in footer for text in traces.texts):
            yield "its footer"
        names = [field.name for field in file.schema_arrow if not _is_half(field.type)]
        for batch in file.iter_batches(columns=names, batch_size=65_536):
            for field, column in zip(batch.schema, batch.columns, strict=True):
                yield from (f"column {field.name} holds {what}" for what in _in_column(column, traces))


def _is_half(kind: pa.DataType) -> bool:
    """Say whether a column is a bag's embeddings, which are stored plainly: the scan of the bytes reads them."""
    return pa.types.is_fixed_size_list(kind) and pa.types.is_float16(kind.value_type)


def _in_column(column: pa.Array, traces: Traces) -> Iterator[str]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        for text in traces.texts:
            if pc.any(pc.match_substring(column, text)).as_py():
                yield repr(text[:24])
    elif pa.types.is_list(column.type):
        values = column.flatten()
        data = values.to_numpy(zero_copy_only=False).tobytes() if pa.types.is_floating(values.type) else b""
        yield from ("its numbers" for number in traces.numbers if number in data)


def _in_sqlite(path: Path, traces: Traces) -> Iterator[str]:
    """Read a copy, so that looking at a database changes none of its files."""
    copy = path.with_name(f"{path.name}.scanned")
    try:
        for ending in ("", "-wal"):
            if path.with_name(path.name + ending).exists():
                shutil.copy(path.with_name(path.name + ending), copy.with_name(copy.name + ending))
        with closing(sqlite3.connect(copy)) as connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    texts = " ".join(str(value) for value in row if isinstance(value, (str, bytes)))
                    if any(text in texts for text in traces.texts):
                        yield f"a row of {table}"
    finally:
        for ending in ("", "-wal", "-shm"):
            copy.with_name(copy.name + ending).unlink(missing_ok=True)
