"""A connection for analysts: the store's tables, views and macros, read-only, within caps, with nothing else in reach.

What belongs here: what an analyst may run and for how long. The SQL is in sql/, DuckLake in lake.py, the command in mice_cli/.

Measured behind this file (duckdb 1.5.5, held by tests/test_sql.py): with `enable_external_access` off, `sqlite_scan` still opens
any SQLite file, COPY still writes below `allowed_directories`, ATTACH ':memory:' and `ducklake_cleanup_old_files` still run. So
DuckDB only gets a statement that is one SELECT (or EXPLAIN of one) and calls listed table functions. An Arrow result is outside
`memory_limit`, so it has a cap of its own. One call of a scalar function on a huge string heeds neither `memory_limit` nor
interrupt(): the command (mice_cli/sql_command.py) is a process of its own and bounds those too.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

import sql
from feature_store.errors import QueryError
from feature_store.home import Home
from feature_store.lake import Lake
from sql.allowed import TABLE_FUNCTIONS, called, explained
from sql.header import literal

MAX_RESULT_BYTES = 1 << 30
_ROWS_PER_BATCH = 8192  # of a patch embedding of 1024 floats: 32 MiB
_HINTS = {
    "Parser": "Correct the SQL",
    "Binder": "See `mice sql --list` for tables, views, macros and their columns",
    "Catalog": "See `mice sql --list` for tables, views, macros and their columns",
    "Permission": "Only the store's own files can be read: use its tables and views, and patches_of for bags",
    "Out of Memory": "Filter or aggregate earlier, or raise the memory cap",
}

Parameters = Mapping[str, object] | Sequence[object] | None


@dataclass(frozen=True)
class Rows:
    """A running query's result: its columns, and its rows as they come."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Analyst:
    """Queries of one snapshot: what a writer commits meanwhile shows on the next connection. Made by `analyst_connection`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, snapshot_id: int, memory_limit: str, timeout_s: float) -> None:
        self.snapshot_id = snapshot_id
        self._connection = connection
        self._memory_limit = memory_limit
        self._timeout_s = timeout_s
        self._functions = TABLE_FUNCTIONS | set(sql.names("macro"))

    def query(self, query: str, parameters: Parameters = None) -> pa.Table:
        """Return the whole result of one SELECT. Raises QueryError if it is refused, fails, or exceeds a cap."""
        with self.stream(query, parameters) as rows:
            batches, num_bytes = [], 0
            for batch in rows.batches:
                num_bytes += batch.nbytes
                if num_bytes > MAX_RESULT_BYTES:
                    raise QueryError(
                        f"query: a result of over {MAX_RESULT_BYTES >> 20} MiB, expected less. "
                        "Aggregate or LIMIT it, or write it to a file with `mice sql --output`."
                    )
                batches.append(batch)
            return pa.Table.from_batches(batches, rows.schema)

    @contextmanager
    def stream(self, query: str, parameters: Parameters = None) -> Iterator[Rows]:
        """Yield the result of one SELECT batch by batch, in bounded memory; the time cap counts until the block is left."""
        statement = self._checked(query)
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            self._connection.interrupt()

        timer = threading.Timer(self._timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            with self._translated(is_late):
                reader = self._connection.execute(statement, parameters).to_arrow_reader(_ROWS_PER_BATCH)
            try:
                yield Rows(reader.schema, self._batches(reader, is_late))
            finally:
                reader.close()
        finally:
            timer.cancel()

    def _batches(self, reader: pa.RecordBatchReader, is_late: threading.Event) -> Iterator[pa.RecordBatch]:
        while True:
            with self._translated(is_late):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
                if is_late.is_set():
                    raise duckdb.InterruptException
            yield batch

    def _checked(self, query: str) -> duckdb.Statement:
        """Return the one SELECT that `query` is, with no table function but those in the list."""
        with self._translated():
            statements = self._connection.extract_statements(query)
            kinds = [statement.type.name for statement in statements]
            inner = statements
            if kinds == ["EXPLAIN"]:
                inner = self._connection.extract_statements(explained(query))
                kinds = [statement.type.name for statement in inner]
            if kinds != ["SELECT"]:
                raise QueryError(
                    f"query: {' and '.join(kinds) or 'no statement'}, expected one SELECT. "
                    "The connection reads only; a PIVOT needs its values in an IN list."
                )
            tree = self._connection.execute("SELECT json_serialize_sql($query)", {"query": inner[0].query}).fetchone()
        try:
            unknown = [name for name in called(tree[0] if tree else "") if name not in self._functions]
        except ValueError as error:
            raise QueryError(f"query: {error}, expected a SELECT that can be checked. Split it with WITH.") from error
        if unknown:
            raise QueryError(
                f"query: table function {unknown[0]}, expected one that docs/sql.md allows, or a macro of `mice sql --list`. "
                "Read through tables, views and macros instead."
            )
        return statements[0]

    @contextmanager
    def _translated(self, is_late: threading.Event | None = None) -> Iterator[None]:
        """Turn what DuckDB raises (as OSError, while Arrow fetches) into QueryError."""
        try:
            yield
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            if is_late is not None and is_late.is_set():
                cap = f"{self._timeout_s:g} s"
                message = f"query: still running after the time cap of {cap}, expected an end. Narrow it, or raise the cap."
            else:
                message = _message("query", error, f" of {self._memory_limit}")
            raise QueryError(message) from error


@contextmanager
def analyst_connection(
    home: Home,
    *,
    snapshot_id: int | None = None,
    memory_limit: str = "2GB",
    threads: int = 2,
    timeout_s: float = 60.0,
) -> Iterator[Analyst]:
    """Open the store for an analyst at the given snapshot, or at the newest one, which then stays the same for all queries.

    Raises StoreMissingError without a store, SnapshotMissingError without the snapshot, QueryError for unfit caps.
    """
    home = replace(home, root=home.root.resolve())
    lake = Lake(home)
    chosen = lake.catalog.newest() if snapshot_id is None else snapshot_id
    with lake.reader(chosen, is_locked_down=True) as connection:
        for made in sql.definitions():
            _run(connection, f"{made.kind} {made.name}", made.definition)
        path = f"{literal(f'{home.bags}/')} || shard"
        # for the macros' read_parquet, which takes no subquery: (key, value) of each map
        maps = {"bag_shards": ("slide_id", path), "shard_encoders": (path, "encoder"), "encoder_shards": ("encoder", path)}
        bags = "SELECT DISTINCT slide_id, encoder, shard FROM patch_bags"  # read once: it has a file per cohort
        _run(connection, "patch_bags", f"CREATE TEMP TABLE listed_bags AS {bags}")
        for name, (key, value) in maps.items():
            pairs = f"SELECT DISTINCT {key} AS one, {value} AS it FROM listed_bags"
            listed = f"SELECT one, list(it) AS several FROM ({pairs}) GROUP BY one"
            _run(connection, name, f"SET VARIABLE {name} = (SELECT map_from_entries(list((one, several))) FROM ({listed}))")
        _run(connection, "patch_bags", "DROP TABLE listed_bags")
        settings = {
            "memory_limit": literal(memory_limit),
            "threads": str(int(threads)),
            "parquet_metadata_cache": "true",  # a cohort's file each: their footers would be read with every query
            "temp_directory": "''",  # no spilling: a reader writes nothing at all
            "python_enable_replacements": "false",  # else `FROM home` would read our own variables
            "allowed_directories": f"[{literal(str(home.tables))}, {literal(str(home.bags))}]",
            "enable_external_access": "false",
            "lock_configuration": "true",
        }
        for name, value in settings.items():
            _run(connection, name, f"SET {name} = {value}")
        yield Analyst(connection, chosen, memory_limit, timeout_s)


def _run(connection: duckdb.DuckDBPyConnection, what: str, statements: str) -> None:
    try:
        connection.execute(statements)
    except duckdb.Error as error:
        raise QueryError(_message(f"setting up {what}", error, "")) from error


def _message(what: str, error: Exception, cap: str) -> str:
    """Return DuckDB's first line, its suggestion if it has one, and what to do."""
    lines = str(error).splitlines() or [type(error).__name__]
    suggestion = next((f" {line.strip()}" for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))), "")
    kind = lines[0].partition(" Error:")[0]
    hint = _HINTS.get(kind, "Correct the query")
    return f"{what}: {lines[0].rstrip('.!')}.{suggestion} {hint}{cap if kind == 'Out of Memory' else ''}."
