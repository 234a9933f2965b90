"""The hash of what a training set holds, array by array: equal hashes mean that a network would see the same bytes."""

import dataclasses
import hashlib

import numpy as np
import polars as pl
from scipy import sparse

from feature_store.training_set import TrainingSet

# Where it was read from says nothing of what it holds; nor does where in which shard a bag's bytes lie.
_PLACES = {"training_set_id", "snapshot_id", "shard", "offset_bytes", "page_crc32", "source_sha256"}


def content_sha256(training_set: TrainingSet) -> str:
    """Return the hash of every array, table and text of a training set, its endpoint and split; of bags, their bytes' hashes."""
    digest = hashlib.sha256()
    _add(digest, training_set)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", value: object) -> None:
    digest.update(f"\0{type(value).__name__}\0".encode())
    match value:
        case np.ndarray():
            digest.update(f"{value.dtype.str} {value.shape}\0".encode())
            digest.update(np.ascontiguousarray(value).data)
        case pl.DataFrame():
            digest.update(repr((value.schema, value.rows())).encode())
        case None | str() | int():
            digest.update(repr(value).encode())
        case _:
            parts = _parts(value)
            digest.update(f"{len(parts)}\0".encode())
            for part in parts:
                _add(digest, part)


def _parts(value: object) -> tuple[object, ...]:
    if isinstance(value, tuple):
        return value
    if isinstance(value, sparse.csr_matrix):
        return (value.shape, value.indptr, value.indices, value.data)
    if dataclasses.is_dataclass(value):
        return tuple((name, part) for name, part in vars(value).items() if name not in _PLACES)
    raise TypeError(f"training set content: a {type(value).__name__}, expected arrays, tables, texts, or tuples of them")
