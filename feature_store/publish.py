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
import pyarrow as pa

from feature_store.audit import audit
from feature_store.drift import drift
from feature_store.erase.tombstones import Tombstones, read_tombstones
from feature_store.errors import AuditError, ErasureError
from feature_store.ingest.stage import Staged
from feature_store.lake import Lake
from feature_store.report_embeddings import still_of, with_new_ones
from feature_store.tables import COHORT_TABLES, PUBLICATIONS, QUARANTINE, REPORT_EMBEDDINGS, REPORTS, Table

COHORT_MESSAGE, REPORTS_MESSAGE = "publish cohort", "embed reports of cohort"
DATA_MESSAGES = (COHORT_MESSAGE, REPORTS_MESSAGE)  # of snapshots that bring something to train on
_ROW_GROUP_BYTES = 1 << 19  # measured: less costs more in footers than it saves of values (benchmarks/store.py)


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


def publish_cohort(lake: Lake, staged: Staged, cohort: str, *, accepts_drift: bool = False) -> Published:
    """Publish one staged cohort: all its tables, and its contract's unassigned rejections, in one transaction.

    Embeddings of reports that are gone or changed go with them.

    Raises AuditError, and publishes nothing, if a check fails (the sources may have changed since they were last audited), or
    if the cohort lacks what it had when it was last published and the caller does not accept that.
    """
    failed = [f"{check.name}: {check.found}" for check in audit(staged, cohort) if not check.is_passed]
    if failed:
        raise AuditError(f"cohort {cohort}: {'; '.join(failed)}. Nothing was published; correct the source or the contract.")
    gone = [] if accepts_drift else drift(lake, staged, cohort)
    if gone:
        raise AuditError(
            f"cohort {cohort}: {'; '.join(gone)}, expected what was last published. Nothing was published; correct the source or "
            "the contract, or accept the loss (mice run --accept-drift; in Dagster the platform resource's accepts_drift)."
        )
    writes = [Write(table, cohort, staged.table(table.name, [cohort])) for table in COHORT_TABLES]
    writes.append(Write(QUARANTINE, staged.unassigned, staged.table(QUARANTINE.name, [staged.unassigned])))
    embedded = still_of(lake, cohort, staged.table(REPORTS.name, [cohort]))
    writes += [] if embedded is None else [Write(REPORT_EMBEDDINGS, cohort, embedded)]
    return publish(lake, writes, f"{COHORT_MESSAGE} {cohort}", staged.code_version)


def publish_report_embeddings(lake: Lake, cohort: str, rows: pl.DataFrame) -> Published:
    """Publish rows of report_embeddings beside those of other kinds, and of other reports, that the cohort has."""
    write = Write(REPORT_EMBEDDINGS, cohort, with_new_ones(lake, cohort, rows))
    return publish(lake, [write], f"{REPORTS_MESSAGE} {cohort}")


def publish(lake: Lake, writes: Sequence[Write], message: str, code_version: str | None = None) -> Published:
    """Replace the scopes of `writes` that differ from what was last published; all of them, or none, become visible.

    `code_version` says what made the rows. Rows that another version made anew, and equal, are not written again. Raises
    ErasureError, and writes nothing, where a row is of a case that was erased.
    """
    hashes = [content_sha256(write) for write in writes]
    num_rows = {write.table.name: write.rows.height for write in reversed(writes)}
    content = {write.table.name: digest for write, digest in reversed(list(zip(writes, hashes, strict=True)))}
    key = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:32]
    with lake.transaction(message, key) as transaction:
        connection = transaction.connection
        _refuse_erased(read_tombstones(connection, lake.home), writes)
        changed = _changed(connection, writes, hashes)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for index in changed:
            _replace(connection, writes[index])
        records = [
            (writes[index].scope, writes[index].table.name, hashes[index], writes[index].rows.height, key, now, code_version)
            for index in changed
        ]
        _record(connection, pl.DataFrame(records, schema=PUBLICATIONS.schema, orient="row"))
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
        with np.errstate(invalid="ignore"):  # of a damaged NaN
            digest.update((values.to_numpy() + 0).tobytes())  # the store returns -0.0 as 0.0
    else:
        digest.update(values.to_numpy().tobytes())


def _refuse_erased(tombstones: Tombstones, writes: Sequence[Write]) -> None:
    for write in writes:
        for name in {"case_id", "alias"} & set(write.rows.columns) if tombstones else ():
            num_erased = len(tombstones.erased(write.rows[name].unique()))
            if num_erased:
                raise ErasureError(
                    f"table {write.table.name} of {write.scope}: {num_erased} erased cases among the rows, expected none. "
                    "Nothing was published; stage the cohort again, or train again, from what the store holds now."
                )


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


def _record(connection: duckdb.DuckDBPyConnection, records: pl.DataFrame) -> None:
    """Replace the records of these scopes and tables, all at once: a file per table would make reading them slow."""
    connection.register("written", records.select("scope", "table_name").to_arrow())
    connection.execute("DELETE FROM publications WHERE (scope, table_name) IN (SELECT scope, table_name FROM written)")
    connection.unregister("written")
    _insert(connection, PUBLICATIONS, records)


def _batched(table: Table, rows: pa.Table) -> pa.Table:
    """Return the rows in batches that become row groups: DuckDB ends one with a batch, once it has the table's least rows."""
    if table.row_group_rows is None:
        return rows
    num_rows = max(table.row_group_rows, _ROW_GROUP_BYTES * rows.num_rows // max(rows.nbytes, 1))
    return pa.Table.from_batches(rows.combine_chunks().to_batches(max_chunksize=num_rows))


def _insert(connection: duckdb.DuckDBPyConnection, table: Table, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        return
    connection.register("staged_rows", _batched(table, table.conform(rows).to_arrow()))
    columns = ", ".join(f'"{name}"' for name in table.schema)
    connection.execute(f'INSERT INTO "{table.name}" ({columns}) SELECT {columns} FROM staged_rows')
    connection.unregister("staged_rows")
