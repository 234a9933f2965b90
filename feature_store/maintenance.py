"""Maintenance of a store: merges small files, expires snapshots when asked to, and removes what nobody needs any more.

What belongs here: what is kept and why. A snapshot is kept if it is the newest, pinned (by a name or by a model trained on it),
or being read; a file if a kept snapshot or a staged cohort names it. Erasing a case is another matter: erase/.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feature_store.bag_shards import published_shards, staged_shards, stored_shards
from feature_store.errors import StoreMissingError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.lake_maintenance import compact, expire, remove_unused
from feature_store.leftovers import leftovers
from feature_store.publish import DATA_MESSAGES
from feature_store.snapshots import pinned_by
from feature_store.vector_cache import collect_cache

logger = logging.getLogger(__name__)

GRACE_S = 24 * 3600.0
_WAIT_FOR_READERS_S = 1.0  # writers wait meanwhile


@dataclass(frozen=True)
class Maintained:
    """What was done: files merged, snapshots expired, and paths removed by kind.

    `is_deferred`: somebody was reading, so files that no snapshot needs are left for the next time.
    """

    num_merged_files: int
    expired: tuple[int, ...]
    removed_table_files: tuple[Path, ...]
    removed_shards: tuple[Path, ...]
    removed_leftovers: tuple[Path, ...]
    num_removed_cache_files: int
    is_deferred: bool


def maintain(home: Home, *, keep_days: float | None = None, grace_s: float = GRACE_S) -> Maintained:
    """Maintain a store while it is in use. Snapshots expire only where `keep_days` is given: those older than that.

    `grace_s`: what is younger is left alone, for writers whose work no commit names yet and readers that hold no lock. Raises
    StoreMissingError without a store, StoreBusyError if another writer does not end in time.
    """
    lake = Lake(home)
    if not lake.exists:
        raise StoreMissingError(f"feature store: nothing published at {home.root}, expected a store. Check MICE_HOME.")
    with lake.writing() as connection:
        num_merged = compact(connection)
        expired = expire(lake, connection, [] if keep_days is None else _older(lake, keep_days))
        removed = remove_unused(lake, grace_s, _WAIT_FOR_READERS_S)
        lake.record_objects(connection)
        shards = [] if removed is None else _remove_shards(lake, grace_s)
        live = connection.execute("SELECT DISTINCT content_sha256 FROM publications").fetchall()
    num_cached = collect_cache(home, {digest for (digest,) in live})
    done = Maintained(
        num_merged_files=num_merged,
        expired=tuple(expired),
        removed_table_files=tuple(removed or ()),
        removed_shards=tuple(shards),
        removed_leftovers=tuple(_remove_leftovers(home, grace_s)),
        num_removed_cache_files=num_cached,
        is_deferred=removed is None,
    )
    logger.info(
        "merged %d files, expired %d snapshots, removed %d table files, %d shards, %d leftovers and %d cache files%s",
        num_merged,
        len(expired),
        len(done.removed_table_files),
        len(shards),
        len(done.removed_leftovers),
        num_cached,
        "; unused files stay until nobody reads" if done.is_deferred else "",
    )
    return done


def _older(lake: Lake, keep_days: float) -> list[int]:
    """Return the snapshots that may expire: none younger than `keep_days`, none pinned, not the newest, nor the newest data."""
    before = (datetime.now(UTC) - timedelta(days=keep_days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    snapshots = [snapshot for snapshot in lake.snapshots() if snapshot.snapshot_id > 0]
    kept = {snapshots[-1].snapshot_id, *pinned_by(lake.home)}
    kept |= set([s.snapshot_id for s in snapshots if s.message.startswith(DATA_MESSAGES)][-1:])
    return [s.snapshot_id for s in snapshots if s.snapshot_id not in kept and s.committed_at <= before]


def _remove_shards(lake: Lake, grace_s: float) -> list[Path]:
    """Remove bag shards that neither a snapshot nor a staged cohort names. A reader's mapping of one stays valid."""
    unnamed = stored_shards(lake.home) - published_shards(lake) - staged_shards(lake.home)
    old = [path for path in (lake.home.bags / name for name in sorted(unnamed)) if _is_old(path, grace_s)]
    for path in old:
        path.unlink(missing_ok=True)
    lake.catalog.forget_objects(old)
    return old


def _remove_leftovers(home: Home, grace_s: float) -> list[Path]:
    old = [path for path in leftovers(home) if _is_old(path, grace_s)]
    for path in old:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return old


def _is_old(path: Path, grace_s: float) -> bool:
    try:
        return path.stat().st_mtime <= time.time() - grace_s
    except FileNotFoundError:
        return False
