"""The only module that knows DuckLake: loading its extension, attaching the catalog, transactions, snapshots.

Measured traps behind this file (architecture.md): a SQLite catalog answers "database is locked" to concurrent commits, so
commits go through one inter-process lock with a bounded wait; a commit can be present although never acknowledged, so every
write carries an idempotency key; extensions are loaded by path from their wheels and nothing is installed at run time.
"""

import importlib.util
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
from filelock import FileLock, Timeout

from feature_store.errors import SnapshotMissingError, StoreBusyError, StoreMissingError
from feature_store.home import Home
from feature_store.tables import ALL_TABLES

logger = logging.getLogger(__name__)

_EXTENSIONS = ("sqlite_scanner", "ducklake")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}
# Files of the tables are recorded relative to the data path, so a home that was moved or is mounted elsewhere is given anew.
# WAL lets readers go on while a commit is written; the busy timeout covers the moments when SQLite still needs the file alone.
_CATALOG_OPTIONS = "META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 10000, OVERRIDE_DATA_PATH true"


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
        self._lock_timeout_s = lock_timeout_s

    @property
    def exists(self) -> bool:
        """Say whether there is a store with tables, be they empty."""
        return self._newest() > 0

    @contextmanager
    def reader(self, snapshot_id: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a read-only connection to one snapshot, the given or the now newest one, whatever is committed meanwhile.

        Raises StoreMissingError when nothing was ever published here, SnapshotMissingError for an id that no commit has.
        """
        newest = self._newest()
        if newest < 1:
            raise StoreMissingError(
                f"feature store: no catalog at {self.home.catalog}, expected one. "
                "Run `make demo`, or set MICE_HOME to the folder that holds the store."
            )
        chosen = newest if snapshot_id is None else int(snapshot_id)
        if not 1 <= chosen <= newest:  # DuckLake would take 0 for "the newest"
            raise self._no_snapshot(chosen)
        with self._connected() as connection:
            try:
                self._attach(connection, f"READ_ONLY, SNAPSHOT_VERSION {chosen}")
            except duckdb.InvalidInputException as error:
                raise self._no_snapshot(chosen) from error
            yield connection

    @contextmanager
    def transaction(self, message: str, key: str) -> Iterator[Transaction]:
        """Yield one transaction over all tables; commit at the end, roll back on any error.

        Waits at most `lock_timeout_s` for other writers, then raises StoreBusyError.
        """
        self.home.catalog.parent.mkdir(parents=True, exist_ok=True)
        self.home.tables.mkdir(parents=True, exist_ok=True)
        lock_path = self.home.catalog.with_suffix(".lock")
        try:
            with FileLock(lock_path, timeout=self._lock_timeout_s), self._connected() as connection:
                self._attach(connection, "DATA_INLINING_ROW_LIMIT 0")
                self._ensure_tables(connection)
                transaction, newest = Transaction(connection), self._newest()
                connection.execute("BEGIN")
                try:
                    yield transaction
                    connection.execute("CALL lake.set_commit_message('mice', ?, extra_info => ?)", [message, key])
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
                        connection.execute("ROLLBACK")
                    raise
                committed = self._newest()  # ours, if it is another: the lock is still held
                transaction.snapshot_id = committed if committed > newest else None
        except Timeout as error:
            raise StoreBusyError(
                f"catalog lock {lock_path}: held by another writer for over {self._lock_timeout_s:g} s, expected it free. "
                "Wait for the other run, or see who holds it with `fuser`."
            ) from error

    def snapshots(self) -> list[Snapshot]:
        """Return all commits, oldest first."""
        with self.reader() as connection:
            rows = connection.execute(
                "SELECT snapshot_id, strftime(snapshot_time, '%Y-%m-%dT%H:%M:%SZ'), "
                "coalesce(commit_message, ''), coalesce(commit_extra_info, '') FROM lake.snapshots() ORDER BY snapshot_id"
            ).fetchall()
        return [Snapshot(*row) for row in rows]

    @staticmethod
    @contextmanager
    def _connected() -> Iterator[duckdb.DuckDBPyConnection]:
        connection = duckdb.connect(":memory:", config=_CONFIG)
        try:
            connection.execute("SET TimeZone = 'UTC'")  # snapshot times would otherwise come in the machine's zone
            for extension in _EXTENSIONS:
                connection.execute(f"LOAD '{_extension_path(extension)}'")
            yield connection
        finally:
            connection.close()

    def _attach(self, connection: duckdb.DuckDBPyConnection, options: str) -> None:
        catalog, data = _quoted(self.home.catalog), _quoted(self.home.tables)
        connection.execute(f"ATTACH 'ducklake:sqlite:{catalog}' AS lake (DATA_PATH '{data}', {_CATALOG_OPTIONS}, {options})")
        connection.execute("USE lake")

    def _newest(self) -> int:
        """Return the id of the newest commit; 0 without a catalog, or with one that a process killed over it left unfinished."""
        if not self.home.catalog.is_file():
            return 0
        with closing(sqlite3.connect(f"{self.home.catalog.resolve().as_uri()}?mode=ro", uri=True)) as catalog:
            if not catalog.execute("SELECT 1 FROM sqlite_master WHERE name = 'ducklake_snapshot'").fetchone():
                return 0
            return int(catalog.execute("SELECT coalesce(max(snapshot_id), 0) FROM ducklake_snapshot").fetchone()[0])

    def _no_snapshot(self, snapshot_id: int) -> SnapshotMissingError:
        return SnapshotMissingError(
            f"feature store {self.home.root}: no snapshot {snapshot_id}, expected the id of a commit. "
            "See SELECT * FROM lake.snapshots()."
        )

    @staticmethod
    def _ensure_tables(connection: duckdb.DuckDBPyConnection) -> None:
        """Create the declared tables that are not there yet, with their comments, in a commit of their own."""
        found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'").fetchall()
        missing = [table for table in ALL_TABLES if (table.name,) not in found]
        if not missing:
            return
        connection.execute("BEGIN")
        for table in missing:
            connection.execute(table.ddl)
            for target, comment in table.comments:
                connection.execute(f"COMMENT ON {target} IS '{comment.replace(chr(39), chr(39) * 2)}'")
        connection.execute("CALL lake.set_commit_message('mice', 'create tables', extra_info => '')")
        connection.execute("COMMIT")
        logger.info("created %d tables", len(missing))


def _extension_path(name: str) -> str:
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or not spec.submodule_search_locations:
        raise StoreMissingError(
            f"duckdb extension {name}: package duckdb-extension-{name.replace('_', '-')} not installed, expected it beside "
            "duckdb. Run `pip install -c constraints.txt -e .`."
        )
    found = sorted(Path(spec.submodule_search_locations[0]).rglob(f"{name}.duckdb_extension"))
    return _quoted(found[0])


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
