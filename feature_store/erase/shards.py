"""Bag shards without the erased person's slides: new shards with the other bags as they were, value for value.

What belongs here: which shards hold the person, and their successors. The rows that point to them change with all (rows.py).
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.bag_file import checksum_error, read_shard_index, write_shards
from feature_store.bag_mapping import which_bag
from feature_store.bag_page import read_footer
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord, EncoderInfo, SlideBag
from feature_store.erase.identity import Identity
from feature_store.errors import BagFileError

logger = logging.getLogger(__name__)

_UNLIMITED = 2**62


@dataclass(frozen=True)
class ShardHits:
    """A shard in which the person has `num_bags` of `num_all` bags."""

    path: Path
    num_bags: int
    num_all: int
    num_bytes: int


def shards_of(folder: Path, identity: Identity) -> list[ShardHits]:
    """Return the shards that hold bags of the person, by the list of slides that each has; unreadable ones are the proof's."""
    found = []
    for path in sorted(folder.glob("[!.]*.parquet")):
        try:
            slides = _slides(path)
        except (BagFileError, KeyError, ValueError) as error:
            logger.warning("%s: its list of slides cannot be read (%r)", path.name, error)
            continue
        num_bags = sum(_is_erased(slide, identity) for slide in slides)
        if num_bags:
            found.append(ShardHits(path, num_bags, len(slides), path.stat().st_size))
    return found


def write_without(path: Path, identity: Identity) -> dict[tuple[str, str], BagRecord]:
    """Write a shard's successor and return (slide_id, old shard) -> its bag's new place, for every bag that stays.

    Raises BagFileError where a bag does not read back as it was written: nothing is taken over unchecked.
    """
    kept = [
        (row_group, slide, record)
        for row_group, (slide, record) in enumerate(zip(_slides(path), read_shard_index(path), strict=True))
        if not _is_erased(slide, identity)
    ]
    if not kept:
        return {}
    encoder = EncoderInfo(**json.loads((read_footer(path).metadata or {})[b"mice.encoder"]))
    # opened once, the coordinates too: a shard of small bags has thousands
    with closing(BagReader(path.parent, max_open_shards=1)) as reader, pq.ParquetFile(path) as file:

        def bags() -> Iterator[SlideBag]:
            for row_group, slide, record in kept:
                embedding = reader.read(record)
                try:
                    table = file.read_row_group(row_group, columns=["x", "y"])
                except (OSError, pa.ArrowException) as error:
                    raise checksum_error(f"{which_bag(record)} in {path.name}") from error
                xy = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
                hashes = [hashlib.sha256(array.data).hexdigest() for array in (embedding, xy)]
                if hashes != [record.bag_sha256, slide["xy_sha256"]]:
                    raise checksum_error(f"{which_bag(record)} in {path.name}")
                yield SlideBag(
                    record.slide_id,
                    record.case_id,
                    xy,
                    embedding,
                    record.source_sha256,
                    slide["patch_size_px"],
                    slide["mpp"],
                    slide["magnification"],
                )

        records = write_shards(path.parent, bags(), encoder, max_shard_bytes=_UNLIMITED)
    return {(record.slide_id, path.name): record for record in records}


def _slides(path: Path) -> list[dict]:
    found: list[dict] = json.loads((read_footer(path).metadata or {})[b"mice.slides"])
    return found


def _is_erased(slide: dict, identity: Identity) -> bool:
    return identity.is_it(slide["case_id"]) or identity.is_named_in(slide["slide_id"])
