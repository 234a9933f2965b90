"""Reading a whole HDF5 dataset past the library, where its rows lie in the file as they are.

TRIDENT and CLAM write a chunk per patch; HDF5 then spends several times as long on its own bookkeeping as on the values. What
belongs here: where the chunks are, and copying them. What may be read at all: h5_file.py.
"""

import os
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray


def read_all(dataset: h5py.Dataset, path: Path) -> NDArray:
    """Return a dataset's values: those of plain chunks of whole rows straight from the file, all else through HDF5.

    `path` is the dataset's own file. Raises OSError where the file is shorter than its chunks say.
    """
    offsets = _offsets(dataset)
    if offsets is None:
        return dataset[...]
    values = np.empty(dataset.shape, dataset.dtype)
    into = values.data.cast("B")
    num_bytes = dataset.dtype.itemsize * int(np.prod(dataset.chunks))
    # chunks that follow one another in the file are one read
    starts = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - num_bytes - 1) != num_bytes)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in zip(starts, [*starts[1:], len(offsets)], strict=True):
            _fill(descriptor, into[start * num_bytes : end * num_bytes], int(offsets[start]))
    finally:
        os.close(descriptor)
    return values


def _offsets(dataset: h5py.Dataset) -> NDArray[np.int64] | None:
    """Return where each chunk begins in the file, in order of rows; None where the bytes are not just the rows."""
    chunks, shape = dataset.chunks, dataset.shape
    is_plain = (
        chunks is not None
        and 0 not in shape
        and chunks[1:] == shape[1:]
        and dataset.id.get_create_plist().get_nfilters() == 0
        and dataset.file.userblock_size == 0
    )
    if not is_plain:
        return None
    num_chunks = -(-shape[0] // chunks[0])
    if dataset.id.get_num_chunks() != num_chunks:  # rows that were never written have no chunk
        return None
    offsets = np.full(num_chunks, -1, np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        offsets[chunk.chunk_offset[0] // chunks[0]] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return offsets if (offsets >= 0).all() else None


def _fill(descriptor: int, into: memoryview, offset: int) -> None:
    """Read so many bytes from a place in a file."""
    done = 0
    while done < len(into):
        num_read = os.preadv(descriptor, [into[done:]], offset + done)
        if num_read == 0:
            raise OSError(f"{len(into)} bytes at {offset} end after {done}")
        done += num_read
