"""Erasing a case: tombstone, bag shards, the tables' history, staged cohorts, the cache, all other files, then the proof.

What belongs here: the order, and the locks that hold while it lasts. Killed between any two steps, the store reads as it was or
as it is to be, and the same call finishes the rest: nothing is removed before what replaces it is named.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from feature_store.bag_record import BagRecord
from feature_store.durable import sync_file, sync_folder
from feature_store.erase.databases import columns_naming, compact_postgres, compact_sqlite
from feature_store.erase.files import (
    cached,
    embedded,
    explained,
    forget_slides,
    others_with,
    redact_file,
    remove,
    staged_with,
)
from feature_store.erase.history import replace_files
from feature_store.erase.identity import Identity
from feature_store.erase.note import Note, remove_notes, write_note
from feature_store.erase.plan import OnProgress, Plan, plan_erasure
from feature_store.erase.scan import SQLITE, Hit, Proof, files_below, scan
from feature_store.erase.shards import shards_of, write_without
from feature_store.erase.slide_marks import slides_of
from feature_store.erase.tables import write_without_rows
from feature_store.erase.tombstones import bury, erasure_key, mark
from feature_store.errors import StoreBusyError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.locks import COMMIT, READERS

logger = logging.getLogger(__name__)

ERASED_NAME = "erased.json"
_LOCK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Erased:
    """What was done: the plan that was followed, the proof that nothing names the case any more, and how long it took."""

    plan: Plan
    proof: Proof
    seconds: float


def erase_case(home: Home, case_id: str, plan: Plan | None = None, on_progress: OnProgress | None = None) -> Erased:
    """Erase a case, or finish a killed erasure of it; look at `proof` for whether anything still names it.

    `plan`: what `plan_erasure` has just returned, to be spared a second look. Raises CaseMissingError, StoreMissingError,
    StoreBusyError where ingests, writers or readers do not end in time, ErasureError for what cannot be rewritten.
    """
    start = time.perf_counter()
    say = on_progress or (lambda _what, _done, _total: None)
    plan = plan or plan_erasure(home, case_id, say)
    lake, identity = Lake(home, _LOCK_TIMEOUT_S), Identity(plan.names)
    say("note", 0, 1)
    write_note(home, Note(plan.names, plan.models, plan.sources))
    say("tombstone", 0, 1)
    # first: what an ingest reads from now on is without the case, and what one read before is refused when it is published
    erased_at = bury(lake, identity)
    forget_slides(home, [*plan.embedded, *embedded(home, slides_of(home, plan.names))])  # while rows and marks still tell
    with _no_ingest(home):
        _rewrite_store(lake, identity, say)
        say("staging and cache", 0, 1)
        for folder in staged_with(home, identity):
            remove(folder)
        for path in cached(home):
            path.unlink(missing_ok=True)
    say("catalog", 0, 1)
    _compact(lake)
    _redact_others(home, identity, say)
    say("models", 0, 1)
    for version in plan.models:
        _mark_model(home.models / version, mark(erasure_key(home), plan.names[0]), erased_at)
    say("note", 1, 1)
    remove_notes(home, case_id)
    proof = _prove(lake, identity, say)
    logger.info("a case was erased: %d hits are left, %d files could not be read", len(proof.hits), len(proof.unreadable))
    return Erased(plan, proof, time.perf_counter() - start)


@contextmanager
def _no_ingest(home: Home) -> Iterator[None]:
    """Wait for all ingests under way and keep out others. One of a contract that is new sees the tombstone."""
    with ExitStack() as held:
        for path in sorted(home.staging.glob("*.lock")):
            try:
                held.enter_context(FileLock(path, timeout=_LOCK_TIMEOUT_S))
            except Timeout as error:
                raise StoreBusyError(
                    f"{path}: held by another process for over {_LOCK_TIMEOUT_S:g} s, expected no ingest. Wait for it, then "
                    "erase again: what was done so far stays done."
                ) from error
        yield


def _rewrite_store(lake: Lake, identity: Identity, say: OnProgress) -> None:
    """Put bag shards and table files without the person in the place of those with, and remove these."""
    home, catalog = lake.home, lake.catalog
    with lake.exclusive() as connection:
        old_shards = [hits.path for hits in shards_of(home.bags, identity)]
        bags: dict[tuple[str, str], BagRecord] = {}
        for done, path in enumerate(old_shards):
            say("bags", done, len(old_shards))
            bags |= write_without(path, identity)
        edit = write_without_rows(connection, lake, identity, bags, say)
        say("history", 0, 1)
        replace_files(catalog, edit, identity)
        say("checksums", 0, 1)
        # whatever no snapshot names: the files just replaced, what maintenance keeps for a while, what killed writers left
        named = catalog.table_files()
        scheduled = catalog.scheduled_files()
        unnamed = {*home.tables.rglob("*.parquet"), *scheduled} - named.keys()
        new_shards = {home.bags / record.shard for record in bags.values()}
        gone = [*unnamed, *(set(old_shards) - new_shards), *home.bags.glob(".*.parquet.tmp")]
        # the records first: a run after a kill finds what is to be removed by the files that are there
        catalog.unschedule(scheduled)
        catalog.forget_objects(gone)
        catalog.record_objects([*named, *new_shards])
        say("old files", 0, 1)
        for path in gone:
            path.unlink(missing_ok=True)


def _compact(lake: Lake) -> None:
    """Rebuild the catalog's database, so that no free page holds what was deleted from it."""
    with _alone(lake):
        if lake.catalog.is_postgres:
            compact_postgres(lake.home.catalog_url)
        else:
            compact_sqlite(lake.home.catalog)


def _redact_others(home: Home, identity: Identity, say: OnProgress) -> None:
    """Remove the pages about the person, and redact every other file; databases first, for that puts their journals away."""
    for path in explained(home, identity):
        path.unlink(missing_ok=True)
    paths = sorted(others_with(home, identity), key=lambda path: not _is_sqlite(path))
    for done, path in enumerate(paths):
        say("files", done, len(paths))
        if path.is_file() and not redact_file(home.root, path, identity):
            logger.warning("a file of an unknown kind names the case and was left: the proof names it")


def _prove(lake: Lake, identity: Identity, say: OnProgress) -> Proof:
    """Look for the person in every file, and in a catalog that is not a file. SQLite's are opened while nobody uses them."""
    home, catalog = lake.home, lake.home.catalog

    def guard(path: Path) -> AbstractContextManager[object]:
        return _alone(lake) if path.parent == catalog.parent and path.name.startswith(catalog.name) else nullcontext()

    proof = scan(home.root, files_below(home), identity, lambda done, total: say("proof", done, total), guard)
    if lake.catalog.is_postgres:
        with _alone(lake), lake.catalog.sole_use() as connection:
            named = tuple(Hit(Path(lake.catalog.place), place) for place in columns_naming(connection, identity))
        proof = replace(proof, hits=(*proof.hits, *named))
    return proof


def _alone(lake: Lake) -> AbstractContextManager[None]:
    return lake.catalog.locks.held([COMMIT, READERS], _LOCK_TIMEOUT_S)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def _mark_model(folder: Path, tombstone: str, erased_at: datetime) -> None:
    """Say in a model's folder that a case it saw was erased: how many, and when; once however often this runs."""
    if not folder.is_dir():
        return
    path = folder / ERASED_NAME
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.is_file() else []
    if tombstone in {case["tombstone"] for case in cases}:
        return
    cases.append({"tombstone": tombstone, "erased_at": erased_at.astimezone(UTC).isoformat(timespec="seconds")})
    unfinished = folder / f".{ERASED_NAME}.partial"
    unfinished.write_text(json.dumps({"num_cases": len(cases), "cases": cases}, indent=1), encoding="utf-8")
    sync_file(unfinished)
    unfinished.replace(path)
    sync_folder(folder)
