"""The lake: attaching DuckLake, reading one snapshot, writing all tables in one transaction.

With catalog.py and lake_maintenance.py the only module that knows DuckLake. Measured traps behind this file (architecture.md): a
SQLite catalog answers "database is locked" to concurrent commits, and DuckLake has missed conflicts on PostgreSQL, so on both
commits go through one lock with a bounded wait; a commit can be present although never acknowledged, so every write carries an
idempotency key. A reader shares a lock on its snapshot, which is how maintenance and erasure know of it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from feature_store import duckdb_instances
from feature_store.catalog import Catalog
from feature_store.duckdb_instances import quoted
from feature_store.errors import CatalogError, SnapshotMissingError, StoreMissingError, StoreWriteError
from feature_store.home import Home
from feature_store.locks import COMMIT, READERS, of_snapshot
from feature_store.tables import ALL_TABLES

logger = logging.getLogger(__name__)

# Without inlining, every row is in a Parquet file. Files are recorded relative to the data path, so a home that was moved or is
# mounted elsewhere is given anew.
_WRITE = "DATA_INLINING_ROW_LIMIT 0"
_READER_WAIT_S = 120.0


@dataclass(frozen=True)
class Snapshot:
    """One commit of the lake: `message` and `key` are what the writer gave it."""

    snapshot_id: int
    committed_at: str
    message: str
    key: str


@dataclass
class Transaction:
    """A transaction under way. Once it has ended, `snapshot_id` is its commit's, or None where it changed nothing."""

    connection: duckdb.DuckDBPyConnection
    snapshot_id: int | None = None


class Lake:
    """The tables of one installation. Cheap to make; every method opens what it needs and closes it again."""

    def __init__(self, home: Home, lock_timeout_s: float = 120.0) -> None:
        self.home = home
        self.catalog = Catalog(home)
        self._lock_timeout_s = lock_timeout_s

    @property
    def exists(self) -> bool:
        """Say whether there is a store with tables, be they empty."""
        return self.catalog.newest() > 0

    @contextmanager
    def reader(self, snapshot_id: int | None = None, *, is_locked_down: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a read-only connection to one snapshot, the given or the now newest one, whatever is committed meanwhile.

        `is_locked_down`: the caller will forbid the connection further attaching and detaching. Raises StoreMissingError when
        nothing was ever published here, SnapshotMissingError for an id that no commit has.
        """
        with self.catalog.readable() as catalog:
            newest = catalog.newest()
            if newest < 1:
                raise StoreMissingError(
                    f"feature store: no catalog at {catalog.place}, expected one. "
                    "Run `make demo`, or set MICE_HOME to the folder that holds the store."
                )
            chosen = newest if snapshot_id is None else int(snapshot_id)
            if not 1 <= chosen <= newest:  # DuckLake would take 0 for "the newest"
                raise self._no_snapshot(chosen)
            lease = self.catalog.locks.held([READERS, of_snapshot(chosen)], _READER_WAIT_S, is_shared=True)
            with lease, self._attached(catalog, chosen, is_kept=not is_locked_down) as connection:
                yield connection

    @contextmanager
    def transaction(self, message: str, key: str) -> Iterator[Transaction]:
        """Yield one transaction over all tables; commit at the end, roll back on any error.

        Waits at most `lock_timeout_s` for other writers, then raises StoreBusyError; StoreWriteError where it cannot be written.
        """
        with self.writing() as connection:
            transaction, newest = Transaction(connection), self.catalog.newest()
            with _typed(self.home):
                connection.execute("BEGIN")
                try:
                    yield transaction
                    connection.execute("CALL lake.set_commit_message('mice', ?, extra_info => ?)", [message, key])
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
                        connection.execute("ROLLBACK")
                    raise
            committed = self.catalog.newest()  # ours, if it is another: the lock is still held
            transaction.snapshot_id = committed if committed > newest else None
            if transaction.snapshot_id is not None:
                self.record_objects(connection)

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection that may write, outside a transaction, as the only writer; readers go on."""
        with _typed(self.home):
            if not self.home.catalog_url:
                self.home.catalog.parent.mkdir(parents=True, exist_ok=True)
            self.home.tables.mkdir(parents=True, exist_ok=True)
        with self.catalog.locks.held([COMMIT], self._lock_timeout_s), self._attached(self.catalog) as connection:
            with _typed(self.home):
                self._ensure_tables(connection)
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection that may write while nobody else writes or reads; waits for both, then raises StoreBusyError."""
        with self.writing() as connection, self.catalog.locks.held([READERS], self._lock_timeout_s):
            yield connection

    def snapshots(self) -> list[Snapshot]:
        """Return all commits, oldest first."""
        with self.reader() as connection:
            rows = connection.execute(
                "SELECT snapshot_id, strftime(snapshot_time, '%Y-%m-%dT%H:%M:%SZ'), "
                "coalesce(commit_message, ''), coalesce(commit_extra_info, '') FROM lake.snapshots() ORDER BY snapshot_id"
            ).fetchall()
        return [Snapshot(*row) for row in rows]

    @contextmanager
    def _attached(
        self, catalog: Catalog, snapshot_id: int | None = None, *, is_kept: bool = True
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection to a snapshot, read-only, or without one to the lake as it is, for writing."""
        target, own = catalog.attachment
        mode = _WRITE if snapshot_id is None else f"READ_ONLY, SNAPSHOT_VERSION {snapshot_id:d}"
        options = ", ".join(filter(None, [f"DATA_PATH {quoted(str(self.home.tables))}", "OVERRIDE_DATA_PATH true", own, mode]))
        with duckdb_instances.lent(catalog.extensions, is_kept=is_kept) as connection:
            try:
                connection.execute(f"ATTACH {quoted(target)} AS lake ({options})")
            except duckdb.Error as error:
                found, cause = catalog.described(error), catalog.cause(error)
                if snapshot_id is None:
                    raise _not_written(self.home, found) from cause
                if isinstance(error, duckdb.InvalidInputException):
                    raise self._no_snapshot(snapshot_id) from cause
                raise CatalogError(
                    f"catalog {catalog.place}: {found}, expected one that opens. Check the disk; restore it from a backup."
                ) from cause
            connection.execute("USE lake")
            yield connection
            if is_kept:  # after an error the whole instance goes
                connection.execute("USE memory")
                connection.execute("DETACH lake")

    def record_objects(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Record the checksums of new files; what a killed process left out, the next commit records."""
        shards = connection.execute("SELECT DISTINCT shard FROM patch_bags").fetchall()
        try:
            self.catalog.record_objects([*self.catalog.table_files(), *(self.home.bags / shard for (shard,) in shards)])
        except Exception as error:  # noqa: BLE001 - the commit stands, whatever happens to the record of its files
            logger.warning("checksums of new files were not recorded: %s", error)

    def _no_snapshot(self, snapshot_id: int) -> SnapshotMissingError:
        return SnapshotMissingError(
            f"feature store {self.home.root}: no snapshot {snapshot_id}, expected the id of a commit. See `mice snapshots`."
        )

    @staticmethod
    def _ensure_tables(connection: duckdb.DuckDBPyConnection) -> None:
        """Create declared tables and columns that are not there yet, with their comments, in a commit of their own."""
        rows = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake' AND NOT internal"
        ).fetchall()
        found: dict[str, set[str]] = {}
        for table_name, column_name in rows:
            found.setdefault(table_name, set()).add(column_name)
        missing = [table for table in ALL_TABLES if {column.name for column in table.columns} - found.get(table.name, set())]
        if missing:
            connection.execute("BEGIN")
            for table in missing:
                for statement in table.creation if table.name not in found else table.extension(found[table.name]):
                    connection.execute(statement)
            connection.execute("CALL lake.set_commit_message('mice', 'create tables', extra_info => '')")
            connection.execute("COMMIT")
            logger.info("created or extended %d tables", len(missing))
        sizes = {table.name: table.row_group_rows for table in ALL_TABLES if table.row_group_rows is not None}
        query = (
            "SELECT scope_entry FROM ducklake_options('lake') WHERE option_name = 'parquet_row_group_size' AND scope = 'TABLE'"
        )
        given = {str(entry).rpartition(".")[2] for (entry,) in connection.execute(query).fetchall()} if sizes else set()
        for name in sorted(sizes.keys() - given):  # DuckLake takes options of committed tables only
            set_size = "CALL lake.set_option('parquet_row_group_size', $rows, table_name => $name)"
            connection.execute(set_size, {"rows": sizes[name], "name": name})


def at(table: str, snapshot_id: int) -> str:
    """Return the SQL that names a table as another snapshot has it, for a connection to a newer one."""
    return f'"{table}" AT (VERSION => {snapshot_id:d})'


def rows_in_files(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[Path, int, Path | None, int | None]]:
    """Return (data file, its bytes, delete file, its bytes) of a table in the connection's snapshot."""
    rows = connection.execute(
        "SELECT data_file, data_file_size_bytes, delete_file, delete_file_size_bytes FROM ducklake_list_files('lake', $table)",
        {"table": table},
    ).fetchall()
    return [(Path(data), size, Path(deleted) if deleted else None, deleted_size) for data, size, deleted, deleted_size in rows]


@contextmanager
def _typed(home: Home) -> Iterator[None]:
    """Turn what the disk and the catalog raise into StoreWriteError; a mistake in our own SQL stays what it is."""
    try:
        yield
    except (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException, OSError) as error:
        raise _not_written(home, error) from error
    except duckdb.Error as error:
        if type(error) is not duckdb.Error:
            raise
        raise _not_written(home, error) from error  # what the catalog's extension raises, a full disk for one


def _not_written(home: Home, error: Exception | str) -> StoreWriteError:
    found = str(error).strip().splitlines()[0]
    return StoreWriteError(
        f"feature store {home.root}: cannot be written ({found}), expected a writable disk with space. "
        "Nothing was published; free some space or mend the permissions, then run again."
    )
