"""Where the chunks of an HDF5 dataset lie, from the B-tree in the file itself.

HDF5's own iteration calls back into Python for each chunk, which takes longer than reading it. What belongs here: the two
structures on the way, an object header of version 1 and a B-tree of version 1, which h5py writes unless it is told otherwise.
Of anything else nothing is said, and HDF5 is asked (h5_chunks.py).

Source: HDF5 File Format Specification, version 3: IV.A.1 (object headers), IV.A.2.i (data layout), III.A.1 (B-trees).
"""

import os
from collections.abc import Iterator

import h5py
import numpy as np
from numpy.typing import NDArray

_LAYOUT, _CONTINUATION = 8, 16
_CHUNKED = (3, 2)  # version of the layout message, class
_TREE_HEADER_BYTES = 24
_CHUNK_TREE = 1
_MOST_ENTRIES = 64  # of a node, unless a file was made with other parameters
_MOST_HEADER_BYTES, _MOST_BLOCKS = 1 << 16, 16


def chunk_offsets(dataset: h5py.Dataset, descriptor: int, num_chunks: int) -> NDArray[np.int64] | None:
    """Return where each chunk of whole rows begins in the file, in order of rows; None where the file is of another make.

    `descriptor` is of the dataset's own file, which has no user block. A chunk that is filtered, of another size, outside the
    file or missing makes it None too.
    """
    try:
        root = _tree(descriptor, h5py.h5o.get_info(dataset.id).addr)
        entries = None if root is None else _leaves(descriptor, root, dataset.ndim, num_chunks)
    except (IndexError, ValueError, OverflowError, OSError):  # what a damaged file makes of these structures
        return None
    if entries is None or len(entries) != num_chunks:
        return None
    num_bytes = dataset.dtype.itemsize * int(np.prod(dataset.chunks))
    rows = entries["at"][:, 0]
    is_plain = (entries["num_bytes"] == num_bytes).all() and not entries["mask"].any() and not entries["at"][:, 1:].any()
    is_inside = (entries["offset"] <= os.fstat(descriptor).st_size - num_bytes).all()
    if not is_plain or not is_inside or not np.array_equal(rows, np.arange(num_chunks, dtype=np.uint64) * dataset.chunks[0]):
        return None
    return entries["offset"].astype(np.int64)


def _tree(descriptor: int, address: int) -> int | None:
    """Return the address of the B-tree that the object header at an address names."""
    start = os.pread(descriptor, 16, address)
    if start[:2] != b"\x01\0":
        return None
    blocks = [(address + 16, int.from_bytes(start[8:12], "little"))]
    for at, num_bytes in blocks:
        if num_bytes > _MOST_HEADER_BYTES or len(blocks) > _MOST_BLOCKS:
            return None
        for kind, data in _messages(os.pread(descriptor, num_bytes, at)):
            if kind == _LAYOUT:
                return int.from_bytes(data[3:11], "little") if tuple(data[:2]) == _CHUNKED else None
            if kind == _CONTINUATION:  # the loop goes on with what is appended
                blocks.append((int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")))
    return None


def _messages(block: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(block):
        kind, num_bytes = int.from_bytes(block[at : at + 2], "little"), int.from_bytes(block[at + 2 : at + 4], "little")
        yield kind, block[at + 8 : at + 8 + num_bytes]
        at += 8 + num_bytes


def _leaves(descriptor: int, root: int, num_dimensions: int, num_chunks: int) -> np.ndarray | None:
    """Return the entries of a tree's leaves in their order, or None where it is no tree of at most so many chunks."""
    entry = np.dtype([("num_bytes", "<u4"), ("mask", "<u4"), ("at", "<u8", (num_dimensions + 1,)), ("offset", "<u8")])
    nodes, level = [root], None
    while True:
        found = [_node(descriptor, address, entry) for address in nodes]
        if any(node is None or node[0] != found[0][0] for node in found):  # type: ignore[index] # None is asked first
            return None
        below = found[0][0]  # type: ignore[index]
        entries = np.concatenate([node[1] for node in found])  # type: ignore[index]
        if len(entries) > num_chunks or (level is not None and below != level - 1):
            return None
        if below == 0:
            return entries
        nodes, level = entries["offset"].tolist(), below


def _node(descriptor: int, address: int, entry: np.dtype) -> tuple[int, np.ndarray] | None:
    """Return a node's level and entries."""
    data = os.pread(descriptor, _TREE_HEADER_BYTES + _MOST_ENTRIES * entry.itemsize, address)
    if data[:4] != b"TREE" or data[4] != _CHUNK_TREE:
        return None
    return data[5], np.frombuffer(data, entry, int.from_bytes(data[6:8], "little"), _TREE_HEADER_BYTES)
