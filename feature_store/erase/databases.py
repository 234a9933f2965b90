"""Taking the erased person out of SQL databases that keep texts: DuckLake's catalog, Dagster's storage.

What belongs here: any table, any text column, and blobs that zlib packed. What the catalog's files are: history.py.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, inspect, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.types import LargeBinary, NullType, String

from feature_store.durable import sync_file
from feature_store.erase.identity import Identity
from feature_store.errors import ErasureError

_ZLIB = (b"\x78\x01", b"\x78\x9c", b"\x78\xda")
# DuckLake's bounds of what a file holds: one that names the person is dropped, for `[erased]` would be a wrong bound.
_BOUNDS = ("min_value", "max_value")
_BUSY_TIMEOUT_S = 30.0


def redact_texts(connection: Connection, identity: Identity) -> int:
    """Redact every text of a database that names the person, whatever its table; return how many different values did."""
    count = 0
    for table, column, values in _naming(connection, identity):
        for value in values:
            new = None if column.strip('"') in _BOUNDS else _redacted(value, identity)
            connection.execute(text(f"UPDATE {table} SET {column} = :new WHERE {column} = :old"), {"new": new, "old": value})
        count += len(values)
    return count


def columns_naming(connection: Connection, identity: Identity) -> list[str]:
    """Return the columns, as table.column, in which a text of a database names the person."""
    return [f"{table}.{column}" for table, column, _ in _naming(connection, identity)]


def _naming(connection: Connection, identity: Identity) -> Iterator[tuple[str, str, list[str | bytes]]]:
    """Yield (table, column, different values that name the person) where there are any; names are quoted for SQL."""
    quote = connection.dialect.identifier_preparer.quote
    inspector = inspect(connection)
    for name in inspector.get_table_names():
        for column in inspector.get_columns(name):
            if isinstance(column["type"], String | LargeBinary | NullType):
                table, place = quote(name), quote(column["name"])
                values = connection.execute(text(f"SELECT DISTINCT {place} FROM {table} WHERE {place} IS NOT NULL"))
                plain = [bytes(value) if isinstance(value, memoryview) else value for (value,) in values]  # PostgreSQL's bytea
                hits = [value for value in plain if identity.is_named_in(unpacked(value))]
                if hits:
                    yield table, place, hits


def redact_sqlite(path: Path, identity: Identity) -> None:
    """Redact a SQLite database and rebuild it. Raises ErasureError where another process has it open."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": _BUSY_TIMEOUT_S})
    try:
        with engine.begin() as connection:
            redact_texts(connection, identity)
    except OperationalError as error:
        raise _busy(path, str(error.orig)) from error
    compact_sqlite(path)


def compact_sqlite(path: Path) -> None:
    """Rebuild a SQLite database: no freed page, nor its log, then holds what is gone. Raises ErasureError where it is open."""
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as database:
            database.execute("PRAGMA secure_delete = ON")
            database.execute("VACUUM")
            (is_busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        raise _busy(path, str(error)) from error
    if is_busy:
        raise _busy(path, "its log is in use")
    sync_file(path)


def compact_postgres(url: str) -> None:
    """Rebuild all tables of a PostgreSQL database, so that none holds rows as they were. Its log keeps them for a while."""
    driver = make_url(url).set(drivername="postgresql+psycopg2")
    with create_engine(driver, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM FULL"))


def unpacked(value: object) -> str:
    """Return the text of a text or a blob, unpacked if zlib packed it; empty for anything else."""
    if isinstance(value, bytes):
        try:
            return (zlib.decompress(value) if value.startswith(_ZLIB) else value).decode("utf-8", errors="replace")
        except zlib.error:
            return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else ""


def _redacted(value: str | bytes, identity: Identity) -> str | bytes:
    if isinstance(value, str):
        return identity.redacted(value)
    try:
        return zlib.compress(identity.redacted(zlib.decompress(value).decode()).encode())
    except zlib.error:
        return identity.redacted(value.decode()).encode()


def _busy(path: Path, found: str) -> ErasureError:
    return ErasureError(
        f"database {path}: {found}, expected to be its only user. Stop what has it open (`fuser {path}`), Dagster's web server "
        "and daemon among them, then erase again: what was done so far stays done."
    )
