"""One mapped bag shard: where a record's values lie in it, and reading ahead of a copy when they are not in memory.

Belongs here: the mapping, its bounds, the order in which to touch it. Does not belong here: which shards are open and the
copies themselves (bag_reader.py), page headers (bag_page.py).
"""

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from feature_store.bag_page import (
    FLOAT16_BYTES,
    EmbeddingPage,
    bag_file_error,
    embedding_column,
    map_shard,
    read_footer,
    walk_embedding_page,
)
from feature_store.bag_record import BagRecord

# Faulting a bag in from disk reached 0.6 of a plain read's speed; announcing steps of 2 MiB, two ahead, all of it.
_STEP_BYTES = 2**21
_STEPS_AHEAD = 2
_CAN_LOOK_AHEAD = hasattr(os, "RWF_NOWAIT") and hasattr(os, "posix_fadvise")


class MappedShard:
    """One mapped shard; the mapping closes with the last reference to `data`, its bytes as uint8."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mapping = map_shard(path)
        self.data = np.frombuffer(self._mapping, dtype=np.uint8)
        # For advice on the page cache only: should the path meanwhile be another file, that costs speed and nothing else.
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise bag_file_error(str(path), f"cannot be opened ({error.strerror})", "a readable bag shard") from error
        weakref.finalize(self, os.close, self._descriptor)

    @cached_property
    def footer(self) -> pq.FileMetaData:
        """The shard's Parquet footer, read when it is first asked for."""
        return read_footer(self._path)

    @cached_property
    def _chunk_offsets(self) -> list[int]:
        index, _ = embedding_column(self.footer, self._path.name)
        groups = range(self.footer.num_row_groups)
        return [self.footer.row_group(group).column(index).data_page_offset for group in groups]

    def rows(self, record: BagRecord) -> npt.NDArray[np.uint8]:
        """Return a view of the bag's values as bytes, uint8 (N, dim * 2); BagFileError where it leaves the file."""
        # Python integers: a record from a table may carry int32, whose product overflows.
        begin, row_bytes = int(record.offset_bytes), int(record.dim) * FLOAT16_BYTES
        end = begin + int(record.num_patches) * row_bytes
        if begin < 4 or record.num_patches < 1 or record.dim < 1 or end > len(self.data):
            found = f"{record.num_patches} x {record.dim} float16 at byte {begin}"
            raise bag_file_error(which_bag(record), found, f"a bag within the file's {len(self.data)} bytes")
        return self.data[begin:end].reshape(record.num_patches, row_bytes)

    def steps(self, record: BagRecord, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of row ranges that cover the bag's rows `start` to `stop`, in which to copy them.

        That is one range where the rows are in memory already; else the kernel is told of each range before it is due.
        """
        row_bytes = int(record.dim) * FLOAT16_BYTES
        begin, size_bytes = int(record.offset_bytes) + start * row_bytes, (stop - start) * row_bytes
        if size_bytes <= _STEP_BYTES or self._is_in_memory(begin, size_bytes):
            yield start, stop
            return
        step = max(1, _STEP_BYTES // row_bytes)
        self._announce(begin, _STEPS_AHEAD * step * row_bytes)
        for first in range(start, stop, step):
            ahead = first + _STEPS_AHEAD * step
            if ahead < stop:
                self._announce(int(record.offset_bytes) + ahead * row_bytes, step * row_bytes)
            yield first, min(first + step, stop)

    def row_group(self, record: BagRecord) -> int:
        """Return the number of the row group whose embedding page holds the record's values."""
        return bisect_right(self._chunk_offsets, record.offset_bytes) - 1

    def page(self, record: BagRecord) -> EmbeddingPage:
        """Return the page the file's own headers describe; BagFileError unless the record says the same."""
        page = walk_embedding_page(self._mapping, self.footer, self.row_group(record), which_bag(record))
        found = (page.values_offset_bytes, page.num_values // page.dim, page.dim)
        recorded = (record.offset_bytes, record.num_patches, record.dim)
        if found != recorded:
            raise bag_file_error(which_bag(record), f"offset, patches, dim {found} in the file", f"the record's {recorded}")
        return page

    def _is_in_memory(self, begin: int, size_bytes: int) -> bool:
        """Say whether the page cache holds the first, the middle and the last byte: a guess, good enough for advice."""
        if not _CAN_LOOK_AHEAD:
            return True
        one = bytearray(1)
        try:
            for offset in (begin, begin + size_bytes // 2, begin + size_bytes - 1):
                os.preadv(self._descriptor, [one], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a file system without such reads
            return True
        return True

    def _announce(self, begin: int, size_bytes: int) -> None:
        os.posix_fadvise(self._descriptor, begin, size_bytes, os.POSIX_FADV_WILLNEED)


def which_bag(record: BagRecord) -> str:
    """Return how messages name the bag."""
    return f"Bag of slide {record.slide_id} (case {record.case_id}) in {record.shard}"
