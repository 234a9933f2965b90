"""Publishing: replacing what one scope (a cohort, a model version) holds in several tables, in one transaction.

A write's idempotency key is the hash of its contents, and the table `publications` remembers the last one of each scope and
table; so a repeated write does nothing, whether its first acknowledgement was lost or not.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import polars as pl

from feature_store.audit import audit
from feature_store.errors import AuditError
from feature_store.ingest.stage import Staged
from feature_store.lake import Lake
from feature_store.tables import COHORT_TABLES, PUBLICATIONS, QUARANTINE, Table

COHORT_MESSAGE = "publish cohort"


@dataclass(frozen=True)
class Write:
    """All rows that `table` is to hold for one value of its scope column."""

    table: Table
    scope: str
    rows: pl.DataFrame


@dataclass(frozen=True)
class Published:
    """What a publication did: `snapshot_id` is None when nothing had changed and nothing was written.

    `num_rows` and `content` (the rows' hash) are by table name.
    """

    snapshot_id: int | None
    changed: tuple[str, ...]
    num_rows: dict[str, int]
    content: dict[str, str]


def publish_cohort(lake: Lake, staged: Staged, cohort: str) -> Published:
    """Publish one staged cohort: all its tables, and its contract's unassigned rejections, in one transaction.

    Raises AuditError, and publishes nothing, if a check fails: the sources may have changed since they were last audited.
    """
    failed = [f"{check.name}: {check.found}" for check in audit(staged, cohort) if not check.is_passed]
    if failed:
        raise AuditError(f"cohort {cohort}: {'; '.join(failed)}. Nothing was published; correct the source or the contract.")
    writes = [Write(table, cohort, staged.table(table.name, [cohort])) for table in COHORT_TABLES]
    writes.append(Write(QUARANTINE, staged.unassigned, staged.table(QUARANTINE.name, [staged.unassigned])))
    return publish(lake, writes, f"{COHORT_MESSAGE} {cohort}")


def publish(lake: Lake, writes: Sequence[Write], message: str) -> Published:
    """Replace the scopes of `writes` that differ from what was last published; all of them, or none, become visible."""
    hashes = [content_sha256(write) for write in writes]
    num_rows = {write.table.name: write.rows.height for write in reversed(writes)}
    content = {write.table.name: digest for write, digest in reversed(list(zip(writes, hashes, strict=True)))}
    if lake.exists:
        with lake.reader() as connection:
            if not _changed(connection, writes, hashes):
                return Published(None, (), num_rows, content)
    key = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:32]
    with lake.transaction(message, key) as connection:
        changed = _changed(connection, writes, hashes)  # again: another writer may have been first
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for index in changed:
            write = writes[index]
            _replace(connection, write)
            row = (write.scope, write.table.name, hashes[index], write.rows.height, key, now)
            record = pl.DataFrame([row], schema=PUBLICATIONS.schema, orient="row")
            connection.execute("DELETE FROM publications WHERE scope = ? AND table_name = ?", row[:2])
            _insert(connection, PUBLICATIONS, record)
    if not changed:
        return Published(None, (), num_rows, content)
    snapshots = [snapshot.snapshot_id for snapshot in lake.snapshots() if snapshot.key == key]
    return Published(max(snapshots), tuple(writes[index].table.name for index in changed), num_rows, content)


def content_sha256(write: Write) -> str:
    """Return the hash of a write's scope, columns and rows in key order."""
    order = list(write.table.key) or write.rows.columns
    arrow = write.table.conform(write.rows).sort(order, maintain_order=True).rechunk().to_arrow()
    buffer = io.BytesIO()
    pl.DataFrame(arrow).write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    return hashlib.sha256(write.scope.encode() + b"\0" + buffer.getbuffer()).hexdigest()


def _changed(connection: duckdb.DuckDBPyConnection, writes: Sequence[Write], hashes: list[str]) -> list[int]:
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'publications'").fetchall():
        return list(range(len(writes)))
    rows = connection.execute("SELECT scope, table_name, content_sha256 FROM publications").fetchall()
    last = {(scope, name): digest for scope, name, digest in rows}
    return [
        index
        for index, (write, digest) in enumerate(zip(writes, hashes, strict=True))
        if last.get((write.scope, write.table.name)) != digest
    ]


def _replace(connection: duckdb.DuckDBPyConnection, write: Write) -> None:
    connection.execute(f'DELETE FROM "{write.table.name}" WHERE "{write.table.scope}" = ?', [write.scope])
    _insert(connection, write.table, write.rows)


def _insert(connection: duckdb.DuckDBPyConnection, table: Table, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        return
    connection.register("staged_rows", table.conform(rows).to_arrow())
    columns = ", ".join(f'"{name}"' for name in table.schema)
    connection.execute(f'INSERT INTO "{table.name}" ({columns}) SELECT {columns} FROM staged_rows')
    connection.unregister("staged_rows")
