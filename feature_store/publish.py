"""Publishing: replacing what one scope (a cohort, a model version) holds in several tables, in one transaction.

A write's idempotency key is the hash of its contents, and the table `publications` remembers the last one of each scope and
table; so a repeated write does nothing, whether its first acknowledgement was lost or not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import numpy as np
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
    key = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:32]
    with lake.transaction(message, key) as transaction:
        connection = transaction.connection
        changed = _changed(connection, writes, hashes)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for index in changed:
            write = writes[index]
            _replace(connection, write)
            row = (write.scope, write.table.name, hashes[index], write.rows.height, key, now)
            record = pl.DataFrame([row], schema=PUBLICATIONS.schema, orient="row")
            connection.execute("DELETE FROM publications WHERE scope = ? AND table_name = ?", row[:2])
            _insert(connection, PUBLICATIONS, record)
    return Published(transaction.snapshot_id, tuple(writes[index].table.name for index in changed), num_rows, content)


def content_sha256(write: Write) -> str:
    """Return the hash of a write's scope, columns and rows in key order.

    Over the values and not over Arrow's buffers, which differ for equal rows (a mask of nulls where nothing is null).
    """
    digest = hashlib.sha256(write.scope.encode())
    rows = write.table.conform(write.rows).sort(list(write.table.key) or write.rows.columns, maintain_order=True)
    for column in write.table.columns:
        digest.update(f"\0{column.name} {column.sql_type} {rows.height}\0".encode())
        _add_values(digest, rows[column.name])
    return digest.hexdigest()


def _add_values(digest: "hashlib._Hash", values: pl.Series) -> None:
    digest.update(np.packbits(values.is_null().to_numpy()).tobytes())
    values = values.drop_nulls()
    if values.dtype == pl.String:
        digest.update(values.str.len_bytes().to_numpy().tobytes())
        digest.update("".join(values).encode())
    elif values.dtype == pl.List:
        lengths = values.list.len()
        digest.update(lengths.to_numpy().tobytes())
        _add_values(digest, values.filter(lengths > 0).explode())
    elif values.dtype.is_float():
        digest.update((values.to_numpy() + 0).tobytes())  # the store returns -0.0 as 0.0
    else:
        digest.update(values.to_numpy().tobytes())


def _changed(connection: duckdb.DuckDBPyConnection, writes: Sequence[Write], hashes: list[str]) -> list[int]:
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
