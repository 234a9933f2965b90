"""HDF5 files as TRIDENT and CLAM write them: an array per dataset, the rest as attributes.

Refuses, before reading a value, what can make an h5 file read other files or fill the memory: links, external and virtual
datasets, object types, a size the file cannot hold.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from feature_store.errors import BagInputError
from feature_store.ingest.h5_chunks import read_all
from feature_store.ingest.patch_arrays import Declared, Opened, declared

# Attributes that say something are numbers, short texts, or pairs (CLAM); larger ones are passed over unread.
_MAX_ATTRIBUTE_ITEMS = 4
_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}


@contextmanager
def open_h5(path: Path, names: tuple[str, ...], attributes: tuple[str, ...]) -> Iterator[Opened]:
    """Yield the datasets of `names` at the top of a file, and the attributes of the file and of those datasets."""
    num_bytes = path.stat().st_size
    with h5py.File(path, "r") as file:
        # asked of the link itself: `name in file` would follow it into another file
        datasets = {name: _dataset(file, name) for name in names if file.id.links.exists(name.encode())}
        owners = (file, *reversed(datasets.values()))  # the last word is the first dataset's, for what several say
        said = {name: value for owner in owners for name, value in _attributes(owner, attributes)}
        yield Opened({name: _declared(name, dataset, path, num_bytes) for name, dataset in datasets.items()}, said)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    kind = file.id.links.get_info(name.encode()).type
    if kind != h5py.h5l.TYPE_HARD:
        raise BagInputError(f"{name} is {_LINKS.get(kind, 'a link')}, expected a dataset in the file itself. Refused.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual or dataset.dtype.kind == "O":
        raise BagInputError(f"{name} is not plain data in the file itself. Refused.")
    return dataset


def _declared(name: str, dataset: h5py.Dataset, path: Path, num_bytes: int) -> Declared:
    return declared(name, dataset.shape or (0,), dataset.dtype, num_bytes, lambda: read_all(dataset, path))


def _attributes(owner: h5py.File | h5py.Dataset, wanted: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    for name in wanted:
        if name not in owner.attrs:
            continue
        about = owner.attrs.get_id(name)
        is_text = h5py.check_string_dtype(about.dtype) is not None
        if math.prod(about.shape) > _MAX_ATTRIBUTE_ITEMS or not (is_text or about.dtype.kind in "iuf"):
            continue
        values = np.asarray(owner.attrs[name]).reshape(-1)
        if len(values):
            yield name, values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]
