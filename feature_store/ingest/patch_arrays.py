"""An array of a patch file as the file declares it, before a value of it is read, and what a declaration may claim.

What belongs here: what the readers of all kinds of files share (h5_file.py, array_files.py). What is asked of a slide's arrays
together: patch_file.py.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.bag_record import INT32_MAX
from feature_store.errors import BagInputError

# gzip of float features reaches 2:1 at best; a claim beyond this ratio to the file's size is not honest data.
_MAX_EXPANSION = 64
# A bag is one page of float16 (docs/bags.md); a source of float64 is four times as large.
_MAX_BYTES = 4 * INT32_MAX


@dataclass(frozen=True)
class Declared:
    """An array not yet read: `shape` and `dtype` as the file says, `read` for its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], NDArray]


@dataclass(frozen=True)
class Opened:
    """The arrays of a file that were asked for and are there, and what it says of itself, by the writer's own names."""

    arrays: Mapping[str, Declared]
    attributes: Mapping[str, object]


# Of a file: which arrays, and which attributes.
Reader = Callable[[Path, tuple[str, ...], tuple[str, ...]], AbstractContextManager[Opened]]


def declared(name: str, shape: tuple[int, ...], dtype: np.dtype, stored_bytes: int, read: Callable[[], NDArray]) -> Declared:
    """Return an array's declaration. Raises BagInputError for objects and for a claim that what is stored cannot hold."""
    if dtype.hasobject or dtype.kind not in "fiu":
        raise BagInputError(f"{name} holds {dtype}, expected plain numbers. Refused.")
    refuse_claim(name, dtype.itemsize * math.prod(shape), stored_bytes)  # in Python's integers: a claim may pass 2**63
    return Declared(shape, dtype, read)


def refuse_claim(name: str, claimed_bytes: int, stored_bytes: int) -> None:
    """Raise BagInputError where so many bytes cannot be what was packed into those stored, or would be no bag anyway."""
    if claimed_bytes > min(_MAX_EXPANSION * stored_bytes, _MAX_BYTES):
        raise BagInputError(f"{name} claims {claimed_bytes:,} bytes where {stored_bytes:,} are stored. Refused.")
