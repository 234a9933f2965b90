"""Checks of files, whatever is in them: the bytes of table files and bag shards against what was recorded when they were new.

What belongs here: files of all snapshots. This finds a flipped bit anywhere, also where no reader looks (statistics, indexes);
what the bit was part of, the checks of tables and bags say.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from feature_store.lake import Lake
from feature_store.verify_finding import Finding, OnProgress

_REMEDY = "Restore the file from a backup, or ingest or train again and publish into a new home"


def check_objects(lake: Lake, checked: dict[str, int], *, is_quick: bool, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield files that are missing, or not the bytes that were recorded; `is_quick` compares sizes only."""
    recorded = lake.catalog.objects()
    files = {lake.home.root / name for name in recorded}
    named = {*lake.catalog.table_files(), *(path for path in files if path.parent == lake.home.bags)}
    checked |= {"objects": 0, "object_bytes": 0}
    for done, path in enumerate(sorted(named)):
        on_progress("files", done, len(named))
        checked["objects"] += 1
        name = str(path.relative_to(lake.home.root))
        if not path.is_file():
            yield Finding("object", f"file {name}", "missing", "the file as it was written", _REMEDY)
        elif name not in recorded:
            remedy = "The next commit, or mice maintain, records it"
            yield Finding("unrecorded", f"file {name}", "no checksum recorded", "one", remedy, is_problem=False)
        else:
            found = _found(path, recorded[name].num_bytes, recorded[name].sha256, is_quick=is_quick)
            checked["object_bytes"] += recorded[name].num_bytes
            if found:
                yield Finding("object", f"file {name}", found, "the file as it was written", _REMEDY)
    on_progress("files", len(named), len(named))


def _found(path: Path, num_bytes: int, sha256: str, *, is_quick: bool) -> str:
    """Return what is wrong with a file, or an empty text."""
    size = path.stat().st_size
    if size != num_bytes:
        return f"{size} bytes instead of {num_bytes}"
    if is_quick:
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == sha256 else f"sha256 {digest[:12]} instead of {sha256[:12]}"
