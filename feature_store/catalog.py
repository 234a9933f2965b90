"""The SQL database behind the lake: where it is, its locks, and the few questions we ask it without DuckLake.

What belongs here: the difference between SQLite and PostgreSQL, the names of DuckLake's own catalog tables, and our table of
checksums beside them (`mice_objects`). Attaching the lake, transactions and snapshots: lake.py.

A SQLite file is asked through DuckDB's own SQLite too. A second SQLite library in the process (Python's sqlite3), or merely
closing the file again, would drop the locks that the first one holds on it (POSIX locks belong to the process): it then takes
itself for the last user and puts away the log that a query beside it is reading ("disk I/O error").
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import duckdb
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from feature_store import duckdb_instances
from feature_store.duckdb_instances import quoted
from feature_store.errors import CatalogError
from feature_store.home import Home
from feature_store.locks import AdvisoryLocks, FileLocks, Locks

logger = logging.getLogger(__name__)

# WAL lets readers go on while a commit is written; the busy timeout covers the moments when SQLite still needs the file alone.
_BUSY_TIMEOUT_S = 10
_SQLITE_OPTIONS = f"META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT {1000 * _BUSY_TIMEOUT_S:d}"

_OBJECTS = "CREATE TABLE IF NOT EXISTS mice_objects (path VARCHAR PRIMARY KEY, num_bytes BIGINT, sha256 VARCHAR)"
_DELETION = "DELETE FROM {} WHERE list_contains($paths, path)"


@dataclass(frozen=True)
class StoredObject:
    """A file of the store, as it was when it was first named: `path` is relative to the home."""

    path: str
    num_bytes: int
    sha256: str


class Catalog:
    """One installation's catalog. Cheap to make; every method opens what it needs and closes it again."""

    def __init__(self, home: Home, file: Path | None = None) -> None:
        self._home = home
        self._file = file or home.catalog
        self.is_postgres = bool(home.catalog_url)

    @property
    def place(self) -> str:
        """Where it is, for messages: without a password."""
        return make_url(self._home.catalog_url).render_as_string() if self.is_postgres else str(self._file)

    @property
    def extensions(self) -> tuple[str, ...]:
        """The DuckDB extensions that open it."""
        return ("postgres_scanner" if self.is_postgres else "sqlite_scanner", "ducklake")

    @property
    def attachment(self) -> tuple[str, str]:
        """What DuckLake attaches, and the options for it."""
        if self.is_postgres:
            return f"ducklake:postgres:{self._home.catalog_url}", ""
        return f"ducklake:sqlite:{self._file}", _SQLITE_OPTIONS

    @cached_property
    def locks(self) -> Locks:
        """The locks of writers and readers."""
        if self.is_postgres:
            return AdvisoryLocks(self._engine)
        return FileLocks(self._home.locks, self._home.catalog.with_suffix(".lock"))

    def newest(self) -> int:
        """Return the id of the newest commit; 0 without a catalog, or with one that a process killed over it left unfinished."""
        if not self.is_postgres and not self._file.is_file():
            return 0
        with self.connected() as connection:
            if not _has_table(connection, "ducklake_snapshot"):
                return 0
            ((newest,),) = connection.execute("SELECT coalesce(max(snapshot_id), 0)::BIGINT FROM ducklake_snapshot").fetchall()
            return int(newest)

    @contextmanager
    def readable(self) -> Iterator["Catalog"]:
        """Yield a catalog that can be read: this one, or a private copy where its folder takes no new file.

        SQLite's write-ahead log needs one even for reading, which a full disk or one that may only be read does not give. No
        commit is under way where there is no such log, so the copy is whole.
        """
        try:
            self.newest()
        except CatalogError:
            log = self._file.with_name(f"{self._file.name}-wal")
            with tempfile.TemporaryDirectory(prefix="mice-catalog-") as folder:
                copy = shutil.copyfile(self._file, Path(folder) / self._file.name)
                if log.exists() and log.stat().st_size:
                    raise
                logger.info("%s: read from a copy, since its folder takes no new file", self._file)
                yield Catalog(self._home, copy)
        else:
            yield self

    def table_files(self, table_name: str | None = None) -> dict[Path, int]:
        """Return every data and delete file that any snapshot names, of all tables or one, with its size in bytes."""
        query = (
            "SELECT s.path, s.path_is_relative, t.path, t.path_is_relative, f.path, f.path_is_relative, f.file_size_bytes "
            "FROM {} f JOIN ducklake_table t ON t.table_id = f.table_id "
            "JOIN ducklake_schema s ON s.schema_id = t.schema_id WHERE t.table_name = $name OR $name IS NULL"
        )
        with self.connected() as connection:
            rows = [
                row
                for kind in ("ducklake_data_file", "ducklake_delete_file")
                for row in connection.execute(query.format(kind), {"name": table_name}).fetchall()
            ]
        found = {}
        for schema, schema_is_relative, table, table_is_relative, path, is_relative, num_bytes in rows:
            place = self._home.tables / schema if schema_is_relative else Path(schema)
            place = place / table if table_is_relative else Path(table)
            found[place / path if is_relative else Path(path)] = int(num_bytes)
        return found

    def scheduled_files(self) -> dict[Path, datetime]:
        """Return the table files that no snapshot names any more and that are to be removed, with the time since when."""
        query = "SELECT path, path_is_relative, CAST(schedule_start AS VARCHAR) FROM ducklake_files_scheduled_for_deletion"
        with self.connected() as connection:
            rows = connection.execute(query).fetchall()
        return {
            self._home.tables / path if is_relative else Path(path): datetime.fromisoformat(since)
            for path, is_relative, since in rows
        }

    def unschedule(self, paths: Iterable[Path]) -> None:
        """Drop the entries of scheduled files that were removed. The caller holds the writers' lock."""
        removed = [name for path in paths for name in (str(path), str(path.relative_to(self._home.tables)))]
        if removed:
            with self.connected() as connection:
                connection.execute(_DELETION.format("ducklake_files_scheduled_for_deletion"), {"paths": removed})

    def objects(self) -> dict[str, StoredObject]:
        """Return path -> what was recorded of the file when it was first named."""
        with self.connected() as connection:
            if not _has_table(connection, "mice_objects"):
                return {}
            rows = connection.execute("SELECT path, num_bytes, sha256 FROM mice_objects").fetchall()
            return {row[0]: StoredObject(*row) for row in rows}

    def record_objects(self, paths: Iterable[Path]) -> None:
        """Record size and SHA-256 of the files that have no record yet. The caller holds the writers' lock."""
        known = self.objects()
        named = {str(path.relative_to(self._home.root)): path for path in paths}
        found = [_fingerprint(name, path) for name, path in named.items() if name not in known and path.is_file()]
        if found:
            with self.connected() as connection:
                connection.execute(_OBJECTS)
                insert = "INSERT INTO mice_objects SELECT unnest($paths), unnest($sizes), unnest($digests)"
                columns = zip(*((one.path, one.num_bytes, one.sha256) for one in found), strict=True)
                connection.execute(insert, dict(zip(("paths", "sizes", "digests"), map(list, columns), strict=True)))

    def forget_objects(self, paths: Iterable[Path]) -> None:
        """Drop the records of files that are no more. The caller holds the writers' lock."""
        gone = [str(path.relative_to(self._home.root)) for path in paths]
        if gone:
            with self.connected() as connection:
                connection.execute(_OBJECTS)
                connection.execute(_DELETION.format("mice_objects"), {"paths": gone})

    @contextmanager
    def connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield DuckDB's connection to the database itself, in a transaction, whoever else uses it meanwhile.

        Raises CatalogError where it cannot be reached or read.
        """
        if self.is_postgres:
            target, options = self._home.catalog_url, "TYPE postgres"
        else:  # not read-only even for reading: a log that a killed writer left has to be taken in first
            target, options = str(self._file), f"TYPE sqlite, BUSY_TIMEOUT {1000 * _BUSY_TIMEOUT_S:d}"
        try:
            with duckdb_instances.lent(self.extensions) as connection:
                connection.execute(f"ATTACH {quoted(target)} AS catalog ({options})")
                connection.execute("USE catalog")
                connection.begin()
                yield connection
                connection.commit()
                connection.execute("USE memory")
                connection.execute("DETACH catalog")
        except duckdb.Error as error:
            raise self._not_opened(str(error)) from self.cause(error)

    @contextmanager
    def sole_use(self) -> Iterator[Connection]:
        """Yield SQLAlchemy's connection to the database, in a transaction, to one who holds the locks of writers and readers.

        So nobody in this process has a query under way in DuckDB. Raises CatalogError where it cannot be reached or read.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._not_opened(str(getattr(error, "orig", error))) from error

    def _not_opened(self, found: str) -> CatalogError:
        remedy = "Check MICE_CATALOG and the server" if self.is_postgres else "Restore it from a backup"
        return CatalogError(f"catalog {self.place}: {self.described(found)}, expected a database that opens. {remedy}.")

    def described(self, found: object) -> str:
        """Return the first line of an error's text, without the password that DuckDB repeats in it."""
        return str(found).strip().splitlines()[0].replace(self._home.catalog_url or "\n", self.place)

    def cause(self, error: duckdb.Error) -> duckdb.Error | None:
        """Return the error that may be shown as the cause of ours: none that repeats a password."""
        return None if self.is_postgres else error

    @cached_property
    def _engine(self) -> Engine:
        if self.is_postgres:
            return create_engine(
                make_url(self._home.catalog_url).set(drivername="postgresql+psycopg2"), poolclass=NullPool, echo=False
            )
        url = URL.create("sqlite", database=str(self._file))
        return create_engine(url, poolclass=NullPool, connect_args={"timeout": _BUSY_TIMEOUT_S})


def _has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    query = "SELECT 1 FROM duckdb_tables() WHERE database_name = 'catalog' AND table_name = $name"
    return connection.execute(query, {"name": name}).fetchone() is not None


def _fingerprint(name: str, path: Path) -> StoredObject:
    with path.open("rb") as file:
        return StoredObject(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
