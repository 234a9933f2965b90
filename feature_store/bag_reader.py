"""Reading bags for training: copies straight out of mapped shards, at offsets the records give.

Belongs here: the open mappings and every way of copying a bag's values out of them. Does not belong here: one mapping and
reading ahead in it (bag_mapping.py), finding offsets (bag_page.py), writing (bag_file.py), torch, batches and threads
(mice_model/); SQL reads the same files itself.

Every method returns a copy, never a view into a mapping, and may be called from several threads at once. Half of all
offsets are odd, so values are moved as bytes and viewed as float16 only where they have arrived, aligned.
"""

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from feature_store.bag_file import checksum_error, read_coordinates
from feature_store.bag_mapping import MappedShard, which_bag
from feature_store.bag_page import bag_file_error
from feature_store.bag_record import BagRecord
from feature_store.errors import BagInputError

Half = npt.NDArray[np.float16]
_DENSE_PICK = 1 / 8


class BagReader:
    """The bags of one folder, with up to `max_open_shards` mappings kept open; a context manager.

    A shard must never be truncated or rewritten while mapped (the process would be killed by SIGBUS): shards are
    immutable and replaced by rename. Methods raise BagFileError where a record and its shard disagree, BagInputError
    for a request outside the bag or a buffer that does not fit. `out`, where given, is a C-contiguous float16 array
    (at least the rows asked for, dim); the result is its first rows, so one buffer serves bags of every length.
    """

    def __init__(self, directory: Path, max_open_shards: int = 64) -> None:
        self._directory = directory
        self._max_open_shards = max(1, max_open_shards)
        self._shards: OrderedDict[str, MappedShard] = OrderedDict()
        self._lock = Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every mapping; one that another thread is copying from closes when that copy ends."""
        with self._lock:
            self._is_closed = True
            self._shards.clear()

    def read(self, record: BagRecord, out: Half | None = None, *, verify: bool = False) -> Half:
        """Return the whole bag, float16 (N, dim).

        With `verify`, the page's checksum is computed over the levels in the file and the copy itself, and compared
        with the page header's and the record's; BagChecksumError names slide and case where they differ.
        """
        bag = self.window(record, 0, record.num_patches, out)
        if verify:
            shard = self._shard(record)
            page = shard.page(record)
            levels = zlib.crc32(shard.data[page.body_offset_bytes : page.values_offset_bytes].data)
            if not page.crc32 == record.page_crc32 == zlib.crc32(bag.data, levels):
                raise checksum_error(which_bag(record))
        return bag

    def window(self, record: BagRecord, start: int, count: int, out: Half | None = None) -> Half:
        """Return patches `start` to `start + count` of the bag, float16 (count, dim)."""
        if start < 0 or count < 0 or start + count > record.num_patches:
            raise _request_error(record, f"window of {count} patches from {start}")
        shard = self._shard(record)
        source = shard.rows(record)
        target = _target(record, count, out)
        target_bytes = target.view(np.uint8)
        for first, last in shard.steps(record, start, start + count):
            np.copyto(target_bytes[first - start : last - start], source[first:last])
        return target

    def rows(self, record: BagRecord, indices: npt.NDArray[np.integer], out: Half | None = None) -> Half:
        """Return the patches at `indices` (P,), float16 (P, dim), **in ascending order of index**, repeats kept.

        Sorting makes the gather walk forward through the file; a caller that needs its own order, or the coordinates
        of the same patches, sorts its indices first. The order of patches means nothing to the model.
        """
        picked = np.sort(np.asarray(indices))
        if picked.ndim != 1 or (picked.size and picked.dtype.kind not in "iu"):
            raise _request_error(record, f"indices {picked.dtype} of shape {picked.shape}")
        if picked.size and (picked[0] < 0 or picked[-1] >= record.num_patches):
            raise _request_error(record, f"indices from {picked[0]} to {picked[-1]}")
        shard = self._shard(record)
        source = shard.rows(record)
        target = _target(record, picked.size, out)
        picked, target_bytes = picked.astype(np.intp), target.view(np.uint8)
        # A sparse pick is left to page faults: reading ahead would fetch mostly rows that nobody asked for.
        is_dense = picked.size > _DENSE_PICK * record.num_patches
        steps = shard.steps(record, 0, record.num_patches) if is_dense else [(0, record.num_patches)]
        for step in steps:
            begin, end = np.searchsorted(picked, step)
            # Bounds were checked above; numpy's own check ("raise") would gather into a buffer and copy once more.
            np.take(source, picked[begin:end], axis=0, out=target_bytes[begin:end], mode="clip")
        return target

    def coordinates(self, record: BagRecord) -> npt.NDArray[np.int32]:
        """Return the level-0 pixels of every patch's corner, int32 (N, 2), through pyarrow with checksums verified."""
        shard = self._shard(record)
        xy = read_coordinates(self._directory / record.shard, [shard.row_group(record)], shard.footer)
        if len(xy) != record.num_patches:
            raise bag_file_error(which_bag(record), f"{len(xy)} coordinates", f"{record.num_patches}")
        return xy

    def pack(
        self,
        records: Sequence[BagRecord],
        max_patches: int | Sequence[int] | None,
        rng: np.random.Generator | None,
        dtype: npt.DTypeLike = np.float32,
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int32]]:
        """Return (patches (P, dim) in `dtype`, cu_seqlens int32 (B + 1,)): bag b is cu_seqlens[b] to cu_seqlens[b + 1].

        A bag of more than `max_patches` (one number, or one for each bag) gives that many: a random subset without repeats
        drawn from `rng`, or every (N / max_patches)-th patch where `rng` is None. Patches keep the file's order within a bag.
        """
        whole = [record.num_patches for record in records]
        limits = whole if max_patches is None else [max_patches] * len(whole) if isinstance(max_patches, int) else [*max_patches]
        if not records or len({record.dim for record in records}) > 1 or len(limits) != len(whole) or min(limits) < 1:
            dims = sorted({record.dim for record in records})
            found = f"{len(records)} bags of dims {dims}, max_patches {max_patches}"
            raise BagInputError(f"Pack: {found}, expected bags of one dim and at least 1 patch of each. Check the batch.")
        counts = [min(pair) for pair in zip(whole, limits, strict=True)]
        ends = np.cumsum([0, *counts])
        if ends[-1] >= 2**31:
            raise BagInputError(f"Pack: {ends[-1]} patches, expected fewer than 2**31. Make the batch smaller.")
        patches = np.empty((int(ends[-1]), records[0].dim), dtype=dtype)
        is_half = patches.dtype == np.float16
        scratch = None if is_half else np.empty((max(counts), records[0].dim), dtype=np.float16)
        for record, begin, count in zip(records, ends[:-1], counts, strict=True):
            out = patches[begin : begin + count] if scratch is None else scratch
            if count == record.num_patches:
                bag = self.read(record, out)
            else:
                bag = self.rows(record, _subset(record.num_patches, count, rng), out)
            if scratch is not None:
                patches[begin : begin + count] = bag
        return patches, ends.astype(np.int32)

    def _shard(self, record: BagRecord) -> "MappedShard":
        """Return the record's shard, mapped, as the most recently used."""
        with self._lock:
            if self._is_closed:
                raise bag_file_error(which_bag(record), "the reader is closed", "an open BagReader")
            shard = self._shards.get(record.shard)
            if shard is None:
                if Path(record.shard).name != record.shard:
                    raise bag_file_error(which_bag(record), f"shard {record.shard!r}", "a file name in the bag folder")
                shard = self._shards[record.shard] = MappedShard(self._directory / record.shard)
                # Dropped, not closed: another thread may still be copying from it.
                if len(self._shards) > self._max_open_shards:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(record.shard)
            return shard


def even_rows(num_patches: int, count: int) -> npt.NDArray[np.int64]:
    """Return the rows, ascending, that `pack` takes of a bag without `rng`: all where it has no more than `count`."""
    taken = min(count, num_patches)
    return np.arange(taken, dtype=np.int64) * num_patches // taken


def _subset(num_patches: int, count: int, rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
    """Return `count` different indices below `num_patches`: drawn from `rng`, or evenly spaced and ascending."""
    if rng is None:
        return even_rows(num_patches, count)
    return rng.choice(num_patches, size=count, replace=False, shuffle=False)


def _target(record: BagRecord, count: int, out: Half | None) -> Half:
    """Return the (count, dim) rows to fill: new, or the first of `out`."""
    if out is None:
        return np.empty((count, record.dim), dtype=np.float16)
    is_sound = out.dtype == np.float16 and out.ndim == 2 and out.flags.c_contiguous and out.flags.writeable
    if not is_sound or out.shape[0] < count or out.shape[1] != record.dim:
        raise _request_error(record, f"out {out.dtype} of shape {out.shape} for {count} rows")
    return out[:count]


def _request_error(record: BagRecord, found: str) -> BagInputError:
    expected = f"a request and a writable C-contiguous float16 buffer for {record.num_patches} x {record.dim}"
    return BagInputError(f"{which_bag(record)}: {found}, expected {expected}. Check the caller.")
