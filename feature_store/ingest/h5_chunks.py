"""Reading a whole HDF5 dataset past the library, where its rows lie in the file as they are.

TRIDENT and CLAM write a chunk per patch; HDF5 then spends several times as long on its own bookkeeping as on the values. What
belongs here: where the chunks are, and copying them. What may be read at all: h5_file.py.
"""

import os
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from feature_store.ingest.h5_index import chunk_offsets


def read_all(dataset: h5py.Dataset, path: Path) -> NDArray:
    """Return a dataset's values: those of plain chunks of whole rows straight from the file, all else through HDF5.

    `path` is the dataset's own file. Raises OSError where the file is shorter than its chunks say.
    """
    if not _is_plain(dataset):
        return dataset[...]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        offsets = _offsets(dataset, descriptor)
        if offsets is None:
            return dataset[...]
        values = np.empty(dataset.shape, dataset.dtype)
        into = values.data.cast("B")
        num_bytes = dataset.dtype.itemsize * int(np.prod(dataset.chunks))
        # chunks that follow one another in the file are one read
        starts = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - num_bytes - 1) != num_bytes)
        for start, end in zip(starts, [*starts[1:], len(offsets)], strict=True):
            _fill(descriptor, into[start * num_bytes : end * num_bytes], int(offsets[start]))
    finally:
        os.close(descriptor)
    return values


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Say whether the chunks are rows as they are."""
    chunks, shape = dataset.chunks, dataset.shape
    return (
        chunks is not None
        and 0 not in shape
        and chunks[1:] == shape[1:]
        and dataset.id.get_create_plist().get_nfilters() == 0
        and dataset.file.userblock_size == 0
    )


def _offsets(dataset: h5py.Dataset, descriptor: int) -> NDArray[np.int64] | None:
    """Return where each chunk begins in the file, in order of rows; None where some were never written."""
    num_chunks = -(-dataset.shape[0] // dataset.chunks[0])
    offsets = chunk_offsets(dataset, descriptor, num_chunks)
    if offsets is not None:
        return offsets
    if dataset.id.get_num_chunks() != num_chunks:
        return None
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    offsets = np.full(num_chunks, -1, np.int64)
    offsets[[chunk.chunk_offset[0] // dataset.chunks[0] for chunk in found]] = [chunk.byte_offset for chunk in found]
    return offsets if (offsets >= 0).all() else None


def _fill(descriptor: int, into: memoryview, offset: int) -> None:
    """Read so many bytes from a place in a file."""
    done = 0
    while done < len(into):
        num_read = os.preadv(descriptor, [into[done:]], offset + done)
        if num_read == 0:
            raise OSError(f"{len(into)} bytes at {offset} end after {done}")
        done += num_read
