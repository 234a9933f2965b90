"""DuckLake's record of all files of all snapshots, and the one transaction that puts others in the place of some.

With catalog.py and lake.py what knows DuckLake's catalog tables; version 1.0 of the format, as duckdb 1.5.5 writes it. What
belongs here: reading and changing the record. What is in a file: rewriting.py; which rows: rows.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import duckdb
from sqlalchemy import Connection, text

from feature_store.catalog import Catalog
from feature_store.erase.databases import redact_texts
from feature_store.erase.identity import Identity
from feature_store.errors import ErasureError
from feature_store.home import Home

_NUMERIC = ("int", "uint", "float", "decimal")


@dataclass(frozen=True)
class StoredFile:
    """A data file, or with `of_data_file` a file of deleted positions; readable in snapshots `begin` to before `end`."""

    file_id: int
    table_id: int
    table: str
    path: Path
    named: str
    begin: int
    end: int | None
    num_rows: int
    num_bytes: int
    of_data_file: int | None = None


@dataclass(frozen=True)
class ColumnStats:
    """What the catalog keeps of a column of a file; bounds as text, None where unknown."""

    column_id: int
    column_size_bytes: int | None
    value_count: int | None
    null_count: int | None
    min_value: str | None
    max_value: str | None
    contains_nan: bool | None


@dataclass(frozen=True)
class Written:
    """A file that was written in another's place."""

    path: Path
    num_rows: int
    num_bytes: int
    footer_bytes: int
    stats: tuple[ColumnStats, ...] = ()


@dataclass
class Edit:
    """What is to change: file -> what takes its place, None where nothing is left of it."""

    data: dict[StoredFile, Written | None] = field(default_factory=dict)
    deletes: dict[StoredFile, Written | None] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        """The new files."""
        return [written.path for written in (*self.data.values(), *self.deletes.values()) if written is not None]


def stored_files(catalog: Catalog, home: Home) -> tuple[list[StoredFile], list[StoredFile]]:
    """Return all data files and all files of deleted positions that any snapshot reads.

    Raises ErasureError for what cannot be rewritten: encrypted files, inlined rows, another format of deletions.
    """
    with catalog.connected() as connection:
        _refuse_unknown(connection)
        data = _listed(connection, home, "data_file_id", "record_count", "NULL", "ducklake_data_file")
        deletes = _listed(connection, home, "delete_file_id", "delete_count", "data_file_id", "ducklake_delete_file")
    return data, deletes


def snapshot_ids(catalog: Catalog) -> list[int]:
    """Return the ids of all snapshots that can be read, ascending."""
    with catalog.connected() as connection:
        return [row[0] for row in connection.execute("SELECT snapshot_id FROM ducklake_snapshot ORDER BY 1").fetchall()]


def replace_files(catalog: Catalog, edit: Edit, identity: Identity) -> None:
    """Put the new files in the place of the old ones, with their statistics, in one transaction.

    Every other text of the catalog that names the case is redacted in it (commit messages, comments). The caller has the locks
    of writers and readers.
    """
    with catalog.sole_use() as connection:
        for file, written in edit.data.items():
            connection.execute(text("DELETE FROM ducklake_file_column_stats WHERE data_file_id = :id"), {"id": file.file_id})
            _replace(connection, file, written, "ducklake_data_file", "data_file_id", "record_count")
            if written is None:
                for name in ("ducklake_file_partition_value", "ducklake_delete_file"):
                    connection.execute(text(f"DELETE FROM {name} WHERE data_file_id = :id"), {"id": file.file_id})
            else:
                _insert_stats(connection, file, written)
        for file, written in edit.deletes.items():
            _replace(connection, file, written, "ducklake_delete_file", "delete_file_id", "delete_count")
        for table_id in sorted({file.table_id for file in edit.data}):
            _sum_up(connection, table_id)
        redact_texts(connection, identity)


def _refuse_unknown(connection: duckdb.DuckDBPyConnection) -> None:
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'catalog'").fetchall()
    names = {row[0] for row in tables}
    inlined = sorted(name for name in names if name.startswith(("ducklake_inlined_data_", "ducklake_inlined_delete_")))
    queries = {f"rows in {name}": f'SELECT count(*) FROM "{name}"' for name in inlined if name != "ducklake_inlined_data_tables"}
    queries |= {
        "encrypted files": "SELECT count(*) FROM ducklake_data_file WHERE encryption_key IS NOT NULL",
        "deletions that are not Parquet": "SELECT count(*) FROM ducklake_delete_file WHERE format <> 'parquet'",
    }
    found = {what: sum(row[0] for row in connection.execute(query).fetchall()) for what, query in queries.items()}
    if any(found.values()):
        raise ErasureError(
            f"catalog: {', '.join(f'{count} {what}' for what, count in found.items() if count)}, expected Parquet files alone, "
            "as this platform writes them. Write the store with this version's settings, or erase in a home made anew."
        )


def _listed(connection: duckdb.DuckDBPyConnection, home: Home, key: str, count: str, of: str, table: str) -> list[StoredFile]:
    rows = connection.execute(
        f"SELECT f.{key}, f.table_id, t.table_name, s.path, s.path_is_relative, t.path, t.path_is_relative, f.path, "
        f"f.path_is_relative, f.begin_snapshot, f.end_snapshot, f.{count}, f.file_size_bytes, {of} FROM {table} f "
        "JOIN ducklake_table t ON t.table_id = f.table_id JOIN ducklake_schema s ON s.schema_id = t.schema_id "
        f"ORDER BY f.{key}, t.begin_snapshot"
    ).fetchall()
    found = {}  # a renamed table is there twice
    for file_id, table_id, name, *place, begin, end, num_rows, num_bytes, of_file in rows:
        folder = home.tables
        for part, is_relative in zip(place[::2], place[1::2], strict=True):
            folder = folder / part if is_relative else Path(part)
        found[file_id] = StoredFile(file_id, table_id, name, folder, place[4], begin, end, num_rows, num_bytes, of_file)
    return list(found.values())


def _replace(connection: Connection, file: StoredFile, written: Written | None, table: str, key: str, count: str) -> None:
    if written is None:
        connection.execute(text(f"DELETE FROM {table} WHERE {key} = :id"), {"id": file.file_id})
        return
    connection.execute(
        text(
            f"UPDATE {table} SET path = :path, {count} = :num_rows, file_size_bytes = :num_bytes, footer_size = :footer "
            f"WHERE {key} = :id"
        ),
        {
            "path": str(PurePosixPath(file.named).with_name(written.path.name)),
            "num_rows": written.num_rows,
            "num_bytes": written.num_bytes,
            "footer": written.footer_bytes,
            "id": file.file_id,
        },
    )


def _insert_stats(connection: Connection, file: StoredFile, written: Written) -> None:
    known = {
        row[0]
        for row in connection.execute(text("SELECT column_id FROM ducklake_column WHERE table_id = :id"), {"id": file.table_id})
    }
    rows = [{"file": file.file_id, "table": file.table_id, **vars(stats)} for stats in written.stats if stats.column_id in known]
    if rows:
        connection.execute(
            text(
                "INSERT INTO ducklake_file_column_stats (data_file_id, table_id, column_id, column_size_bytes, value_count, "
                "null_count, min_value, max_value, contains_nan) VALUES (:file, :table, :column_id, :column_size_bytes, "
                ":value_count, :null_count, :min_value, :max_value, :contains_nan)"
            ),
            rows,
        )


def _sum_up(connection: Connection, table_id: int) -> None:
    """Set a table's own counts to those of its newest snapshot, and its bounds to those of all its files."""
    of = {"id": table_id}
    connection.execute(
        text(
            "UPDATE ducklake_table_stats SET record_count = "
            "(SELECT coalesce(sum(record_count), 0) FROM ducklake_data_file WHERE table_id = :id AND end_snapshot IS NULL) - "
            "(SELECT coalesce(sum(delete_count), 0) FROM ducklake_delete_file WHERE table_id = :id AND end_snapshot IS NULL), "
            "file_size_bytes = "
            "(SELECT coalesce(sum(file_size_bytes), 0) FROM ducklake_data_file WHERE table_id = :id AND end_snapshot IS NULL) "
            "WHERE table_id = :id"
        ),
        of,
    )
    kinds = dict(
        connection.execute(text("SELECT column_id, column_type FROM ducklake_column WHERE table_id = :id"), of).tuples().all()
    )
    query = "SELECT column_id, min_value, max_value, null_count, value_count FROM ducklake_file_column_stats WHERE table_id = :id"
    bounds: dict[int, list[tuple[str | None, str | None]]] = {}
    for column_id, low, high, null_count, value_count in connection.execute(text(query), of):
        if value_count != 0 or null_count is None:  # a file without a value has no bounds, and needs none
            bounds.setdefault(column_id, []).append((low, high))
    for column_id, kind in kinds.items():
        low, high = _span(bounds.get(column_id, []), str(kind))
        connection.execute(
            text(
                "UPDATE ducklake_table_column_stats SET min_value = :low, max_value = :high "
                "WHERE table_id = :id AND column_id = :column"
            ),
            {"low": low, "high": high, "column": column_id, **of},
        )


def _span(bounds: Iterable[tuple[str | None, str | None]], kind: str) -> tuple[str | None, str | None]:
    """Return the least and the greatest bound; None where a file's is unknown."""
    lows, highs = ([pair[side] for pair in bounds] for side in (0, 1))

    def order(value: str) -> float | bytes:
        return float(value) if kind.startswith(_NUMERIC) else value.encode()

    known = [[value for value in side if value is not None] for side in (lows, highs)]
    return (
        min(known[0], key=order) if known[0] and len(known[0]) == len(lows) else None,
        max(known[1], key=order) if known[1] and len(known[1]) == len(highs) else None,
    )


def by_table(files: Iterable[StoredFile]) -> Mapping[str, list[StoredFile]]:
    """Return table -> its files, in order."""
    found: dict[str, list[StoredFile]] = {}
    for file in files:
        found.setdefault(file.table, []).append(file)
    return found
