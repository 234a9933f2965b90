"""DuckLake's own housekeeping, made safe for readers: merging small files, expiring snapshots, removing what nobody needs.

What belongs here: calls of DuckLake's maintenance functions, under our locks. What is kept and why: maintenance.py.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from feature_store.errors import StoreBusyError
from feature_store.lake import Lake
from feature_store.locks import READERS, of_snapshot
from feature_store.tables import ALL_TABLES

logger = logging.getLogger(__name__)

# A larger file is read as quickly alone, and stays one cohort's: replacing that cohort then drops it as a whole.
_SMALL_FILE_BYTES = 8 << 20
_REWRITTEN_FROM = 0.5  # share of a file's rows that are deleted


def compact(connection: duckdb.DuckDBPyConnection) -> int:
    """Merge small neighbouring files and rewrite those that are mostly deleted rows; return how many files were merged.

    Every snapshot reads the same rows as before. The old files stay until `remove_unused`.
    """
    merged = []
    connection.execute("BEGIN")
    for table in ALL_TABLES:
        if table.row_group_rows is None:  # else their order and small row groups would be lost
            merge = "CALL ducklake_merge_adjacent_files('lake', $table, max_file_size => $size)"
            found = connection.execute(merge, {"table": table.name, "size": _SMALL_FILE_BYTES})
            merged += found.fetchall()  # all, else it is not committed
    rewrite = "CALL ducklake_rewrite_data_files('lake', delete_threshold => $share)"
    connection.execute(rewrite, {"share": _REWRITTEN_FROM}).fetchall()
    connection.execute("CALL lake.set_commit_message('mice', 'merge small files', extra_info => '')")
    connection.execute("COMMIT")
    return sum(int(num_files) for _schema, _table, num_files, _made in merged)


def expire(lake: Lake, connection: duckdb.DuckDBPyConnection, snapshot_ids: Sequence[int]) -> list[int]:
    """Expire those of the snapshots that nobody reads just now; return their ids."""
    with ExitStack() as held:
        free = []
        for snapshot_id in snapshot_ids:
            with suppress(StoreBusyError):
                held.enter_context(lake.catalog.locks.held([of_snapshot(snapshot_id)], 0.0))
                free.append(snapshot_id)
        if free:
            connection.execute("CALL ducklake_expire_snapshots('lake', versions => $ids)", {"ids": free})
        return free


def remove_unused(lake: Lake, grace_s: float, wait_s: float) -> list[Path] | None:
    """Remove table files that no snapshot needs since `grace_s` or that no commit ever named; None while somebody reads.

    The caller holds the writers' lock. The grace is for readers that may not write a lock (a read-only mount). DuckLake's own
    functions for this take what still has its grace: one its time zone aside, the other as orphans.
    """
    catalog = lake.catalog
    before = datetime.now(UTC) - timedelta(seconds=grace_s)
    try:
        with catalog.locks.held([READERS], wait_s):
            scheduled = catalog.scheduled_files()
            unused = [path for path, since in scheduled.items() if since <= before]
            orphans = set(lake.home.tables.rglob("*.parquet")) - scheduled.keys() - catalog.table_files().keys()
            for path in (*unused, *orphans):
                path.unlink(missing_ok=True)
    except StoreBusyError:
        logger.info("unused files stay for now: the store is being read")
        return None
    catalog.unschedule(unused)
    catalog.forget_objects([*unused, *orphans])
    return sorted([*unused, *orphans])
