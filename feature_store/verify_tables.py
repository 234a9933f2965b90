"""Checks of the newest snapshot's tables: declared columns, the Parquet files behind them, and their rows' published hashes.

What belongs here: tables only. Whether files hold the bytes that were written, those of every snapshot: verify_objects.py.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.lake import Lake, rows_in_files
from feature_store.publish import Write, content_sha256
from feature_store.tables import ALL_TABLES, BY_NAME, Table
from feature_store.verify_finding import Finding, OnProgress

_RESTORE = "Restore the file from a backup, or ingest or train again and publish into a new home"


def check_tables(lake: Lake, checked: dict[str, int], *, is_quick: bool, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield what is wrong with the tables of the newest snapshot; count tables, files and hashed scopes in `checked`."""
    with lake.reader() as connection:
        checked |= {"tables": 0, "table_files": 0, "table_rows": 0, "hashed_scopes": 0}
        columns = _columns(connection)
        for done, table in enumerate(ALL_TABLES):
            on_progress("tables", done, len(ALL_TABLES))
            checked["tables"] += 1
            yield from _check_columns(table, columns.get(table.name, {}))
            if table.name in columns:
                yield from _check_files(connection, lake, table, checked, is_quick=is_quick)
        on_progress("tables", len(ALL_TABLES), len(ALL_TABLES))
        if not is_quick and "publications" in columns:
            yield from _check_hashes(connection, checked, on_progress)


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    query = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = 'lake'"
    for table, name, kind in connection.execute(query).fetchall():
        found.setdefault(table, {})[name] = kind
    return found


def _check_columns(table: Table, found: dict[str, str]) -> Iterator[Finding]:
    remedy = "The store was made by another version of the platform: publish into a new home"
    if not found:
        yield Finding("table", f"table {table.name}", "not in the catalog", "as declared in feature_store/tables.py", remedy)
        return
    for column in table.columns:
        kind = found.get(column.name)
        if kind != column.sql_type:
            yield Finding("column", f"column {table.name}.{column.name}", kind or "missing", column.sql_type, remedy)


def _check_files(
    connection: duckdb.DuckDBPyConnection, lake: Lake, table: Table, checked: dict[str, int], *, is_quick: bool
) -> Iterator[Finding]:
    """Look at each file the snapshot names: its size as the catalog has it, its rows, and (not `is_quick`) every value."""
    num_rows, is_sound = 0, True
    for data, data_bytes, deleted, deleted_bytes in rows_in_files(connection, table.name):
        for path, num_bytes, sign in ((data, data_bytes, 1), (deleted, deleted_bytes, -1)):
            if path is None:
                continue
            checked["table_files"] += 1
            problem, rows = _read(path, num_bytes, is_quick=is_quick)
            num_rows += sign * rows
            if problem:
                is_sound = False
                which = f"table {table.name}, file {_shown(path, lake)}"
                yield Finding("table_file", which, problem, "the file as it was written", _RESTORE)
    if not is_sound:
        return
    (listed,) = connection.execute(f'SELECT count(*) FROM "{table.name}"').fetchone() or (0,)
    checked["table_rows"] += listed
    if listed != num_rows:
        yield Finding("table", f"table {table.name}", f"{num_rows} rows in its files", f"the catalog's {listed}", _RESTORE)


def _read(path: Path, num_bytes: int | None, *, is_quick: bool) -> tuple[str, int]:
    """Return (what is wrong or "", number of rows) of one Parquet file."""
    if not path.is_file():
        return "missing", 0
    size = path.stat().st_size
    if num_bytes is not None and size != num_bytes:
        return f"{size} bytes instead of {num_bytes}", 0
    try:
        with pq.ParquetFile(path) as file:
            if not is_quick:
                for _ in file.iter_batches(batch_size=1024):
                    pass
            return "", file.metadata.num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"cannot be read ({' '.join(str(error).split())[:200]})", 0


def _check_hashes(connection: duckdb.DuckDBPyConnection, checked: dict[str, int], on_progress: OnProgress) -> Iterator[Finding]:
    """Hold every scope's rows against the hash they were published with: a flipped value in a readable file shows here alone."""
    query = "SELECT idempotency_key, written_at, table_name, scope, num_rows, content_sha256 FROM publications ORDER BY ALL"
    written = [row for row in connection.execute(query).fetchall() if row[2] in BY_NAME]
    num_of_write = Counter(row[:2] for row in written)
    differing: dict[tuple[str, str], list[Finding]] = {}
    for done, (key, written_at, name, scope, num_rows, digest) in enumerate(written):
        on_progress("published rows", done, len(written))
        found = _hash_differs(connection, BY_NAME[name], scope, num_rows, digest)
        checked["hashed_scopes"] += 1
        if found:
            remedy = "Ingest the cohort again, or evaluate the model again, and publish"
            expected = f"the {num_rows} rows that were published"
            differing.setdefault((key, written_at), []).append(Finding("rows", f"table {name}, {scope}", found, expected, remedy))
    on_progress("published rows", len(written), len(written))
    # Damage hits a file. Where every table of a write differs, another version hashed it otherwise, and all writes before it.
    others = [write for write, findings in differing.items() if len(findings) == num_of_write[write] > 1]
    last = max((written_at for _, written_at in others), default="")
    yield from (finding for write, findings in differing.items() if write[1] > last for finding in findings)
    num_unchecked = sum(len(findings) for write, findings in differing.items() if write[1] <= last)
    if num_unchecked:
        found = f"{num_unchecked} tables of scopes written until {last} have another hash than they were published with"
        remedy = "An older version of the platform hashed otherwise: publish again to have these rows checked"
        yield Finding("unchecked", "publications", found, "hashes of this version", remedy, is_problem=False)


def _hash_differs(connection: duckdb.DuckDBPyConnection, table: Table, scope: str, num_rows: int, digest: str) -> str:
    """Return how a scope's rows differ from those published, or an empty text."""
    try:
        found = connection.execute(f'SELECT * FROM "{table.name}" WHERE "{table.scope}" = $scope', {"scope": scope})
        rows = pl.DataFrame(found.to_arrow_table(), schema_overrides=dict(table.schema))
        is_same = rows.height == num_rows and content_sha256(Write(table, scope, rows)) == digest
    except (duckdb.Error, OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        return f"rows that cannot be read ({str(error).splitlines()[0][:200]})"
    return "" if is_same else f"{rows.height} rows of another hash"


def _shown(path: Path, lake: Lake) -> str:
    tables = lake.home.tables.resolve()
    resolved = path.resolve()
    return str(resolved.relative_to(tables) if resolved.is_relative_to(tables) else path)
