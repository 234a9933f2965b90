"""Checks of patch bags: every row of patch_bags against its shard, and shards that no row names.

What belongs here: bags only. How a bag is read and what its checksums cover is bag_reader.py and bag_file.py.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from feature_store.bag_file import read_shard_index
from feature_store.bag_page import FLOAT16_BYTES
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.bag_shards import published_shards, staged_shards, stored_shards
from feature_store.errors import BagFileError
from feature_store.lake import Lake
from feature_store.verify_finding import Finding, OnProgress

_FIELDS = tuple(BagRecord.__dataclass_fields__)
_REMEDY = "Restore the shard from a backup, or delete it and ingest the cohort again"


def check_bags(lake: Lake, checked: dict[str, int], *, is_quick: bool, on_progress: OnProgress) -> Iterator[Finding]:
    """Yield every row whose bag is not there or not what was written, naming slide and case, then shards that no row names."""
    columns = ", ".join(f'"{name}"' for name in _FIELDS)
    with lake.reader() as connection:
        rows = connection.execute(f"SELECT {columns} FROM patch_bags ORDER BY shard, offset_bytes").fetchall()
    records = [BagRecord(**dict(zip(_FIELDS, row, strict=True))) for row in rows]
    named = {record.shard for record in records}
    checked |= {"bags": 0, "bag_bytes": 0, "shards": len(named)}
    with BagReader(lake.home.bags, max_open_shards=1) as reader:
        for done, record in enumerate(records):
            on_progress("bags", done, len(records))
            checked["bags"] += 1
            found = _bounds(record, lake.home.bags / record.shard)
            if not found and not is_quick:
                found = _values(record, reader)
                checked["bag_bytes"] += record.num_patches * record.dim * FLOAT16_BYTES
            if found:
                which = f"bag of slide {record.slide_id} (case {record.case_id}) in {record.shard}"
                yield Finding("bag", which, found, "the bag as it was written", _REMEDY, record.slide_id, record.case_id)
    on_progress("bags", len(records), len(records))
    if not is_quick:
        yield from _indexes(lake.home.bags, records)
    yield from _orphans(lake, named)


def _bounds(record: BagRecord, path: Path) -> str:
    """Return what is wrong with a record's place, or an empty text."""
    if Path(record.shard).name != record.shard or not path.is_file():
        return "no such shard"
    size, end = path.stat().st_size, record.offset_bytes + record.num_patches * record.dim * FLOAT16_BYTES
    if record.num_patches < 1 or record.dim < 1 or record.offset_bytes < 4 or end > size:
        return f"bytes {record.offset_bytes} to {end} of a shard of {size}"
    return ""


def _values(record: BagRecord, reader: BagReader) -> str:
    """Read a bag and its coordinates with every checksum there is; return what is wrong, or an empty text."""
    try:
        bag = reader.read(record, verify=True)
        reader.coordinates(record)
    except BagFileError as error:
        return f"fails its verified read ({str(error).removesuffix('.')})"
    digest = hashlib.sha256(bag.data).hexdigest()
    return "" if digest == record.bag_sha256 else f"values of sha256 {digest[:12]} instead of {record.bag_sha256[:12]}"


def _indexes(bags: Path, records: list[BagRecord]) -> Iterator[Finding]:
    """Hold each readable shard's own index (its hashed metadata and page headers) against the rows of the table."""
    by_shard: dict[str, list[BagRecord]] = {}
    for record in records:
        by_shard.setdefault(record.shard, []).append(record)
    for shard, wanted in by_shard.items():
        if not (bags / shard).is_file():
            continue  # each of its rows says so already
        try:
            index = {record.slide_id: record for record in read_shard_index(bags / shard)}
        except BagFileError as error:
            yield Finding("shard", f"shard {shard}", f"damaged ({str(error).removesuffix('.')})", "a sound index", _REMEDY)
            continue
        for record in wanted:
            if index.get(record.slide_id) != record:
                which = f"bag of slide {record.slide_id} (case {record.case_id}) in {shard}"
                found = "a shard's index that says otherwise"
                yield Finding("bag", which, found, "the table's record", _REMEDY, record.slide_id, record.case_id)


def _orphans(lake: Lake, named: set[str]) -> Iterator[Finding]:
    """Yield shards that the newest snapshot does not name: kept for an older one, or named by none."""
    others = stored_shards(lake.home) - named
    published = published_shards(lake) if others else set()
    staged = staged_shards(lake.home) if others else set()
    for shard in sorted(others):
        if shard in published:
            found, remedy = "named by an older snapshot only", "Keep it as long as that snapshot"
        elif shard in staged:
            found, remedy = "named by a staged cohort only", "Publish the cohort"
        else:
            found, remedy = "named by no snapshot", "mice maintain removes it, once it is a day old"
        yield Finding("orphan_shard", f"shard {shard}", found, "a row in patch_bags", remedy, is_problem=False)
