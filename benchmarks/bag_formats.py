"""The file layouts that benchmarks/bags.py compares: how each writes a slide, and its best way to read one back.

A reader keeps open what its library lets it keep open, fills a reused buffer where it can, and gives rows in the dtype that
it stores. Files are written slide by slide and synced; `paths` names what a cold read must find outside the page cache.
"""

# ruff: noqa: ARG002, PLC0415 - not every library fills a buffer; lance and zarr are imported where they are installed

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import safetensors
import safetensors.numpy
import torch

from feature_store.bag_record import SlideBag

Array = np.ndarray
os.environ |= {"LANCE_CPU_THREADS": "1", "LANCE_IO_THREADS": "1"}


class Format:
    """One layout: a file per slide in `folder`, opened for every read; `out` has at least the rows asked for."""

    name, suffix, dtype, package = "", "", np.float16, "numpy"
    has_parts = True

    def __init__(self, folder: Path, bags: Sequence[SlideBag]) -> None:
        self.files = [folder / f"{type(self).__name__}-{i}{self.suffix}" for i in range(len(bags))]
        for path, bag in zip(self.files, bags, strict=True):
            self.write(path, bag.embedding.astype(self.dtype, copy=False))

    @classmethod
    def is_available(cls) -> bool:
        return importlib.util.find_spec(cls.package) is not None

    def write(self, path: Path, values: Array) -> None:
        raise NotImplementedError

    def whole(self, slide: int, out: Array) -> Array:
        raise NotImplementedError

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return np.take(self.whole(slide, out), indices, axis=0)

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        return self.whole(slide, out)[start : start + count]

    def paths(self, slide: int) -> list[Path]:
        path = self.files[slide]
        return [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]

    def reopen(self, slide: int) -> None:
        """Let go of mapped pages of the slide, which the kernel would not drop, before a cold read."""


class ClamH5(Format):
    name, suffix, dtype = "HDF5 as CLAM and TRIDENT write it (float32, chunks of one row)", ".h5", np.float32

    def write(self, path: Path, values: Array) -> None:
        count, dim = values.shape
        coords = np.stack(np.divmod(np.arange(count), 200), axis=1) * 256
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=values, chunks=(1, dim), maxshape=(None, dim))
            file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))

    def whole(self, slide: int, out: Array) -> Array:
        with h5py.File(self.files[slide], "r") as file:
            target = out[: len(file["features"])]
            file["features"].read_direct(target)
        return target

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        with h5py.File(self.files[slide], "r") as file:
            file["features"].read_direct(out[:count], np.s_[start : start + count])
        return out[:count]


class PlainH5(ClamH5):
    name, dtype = "HDF5 contiguous float16", np.float16

    def write(self, path: Path, values: Array) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=values)


class Npy(Format):
    name, suffix = "npy (np.load, mapped for parts)", ".npy"

    def write(self, path: Path, values: Array) -> None:
        np.save(path, values)

    def whole(self, slide: int, out: Array) -> Array:
        return np.load(self.files[slide])

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        mapped = np.load(self.files[slide], mmap_mode="r")
        return np.take(mapped, indices, axis=0, out=out[: len(indices)], mode="clip")

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        np.copyto(out[:count], np.load(self.files[slide], mmap_mode="r")[start : start + count])
        return out[:count]


class Pt16(Format):
    name, suffix = "torch .pt float16 (mapped for parts)", ".pt"

    def write(self, path: Path, values: Array) -> None:
        torch.save(torch.from_numpy(values), path)

    def whole(self, slide: int, out: Array) -> Array:
        return torch.load(self.files[slide]).numpy()

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return torch.load(self.files[slide], mmap=True)[torch.from_numpy(indices)].numpy()

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        return torch.load(self.files[slide], mmap=True)[start : start + count].clone().numpy()


class Pt32(Pt16):
    name, dtype = "torch .pt float32 (mapped for parts)", np.float32


class Safetensors(Format):
    name, suffix = "safetensors float16", ".safetensors"

    def write(self, path: Path, values: Array) -> None:
        safetensors.numpy.save_file({"features": values}, path)

    def whole(self, slide: int, out: Array) -> Array:
        with safetensors.safe_open(self.files[slide], "numpy") as file:
            return file.get_tensor("features")

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        with safetensors.safe_open(self.files[slide], "numpy") as file:
            return file.get_slice("features")[start : start + count]


class Lance(Format):
    name, suffix, package = "Lance", ".lance", "lance"

    def __init__(self, folder: Path, bags: Sequence[SlideBag]) -> None:
        super().__init__(folder, bags)
        import lance

        self.sets = [lance.dataset(path) for path in self.files]

    def write(self, path: Path, values: Array) -> None:
        import lance

        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        lance.write_dataset(pa.table({"embedding": lists}), path)

    @staticmethod
    def _values(table: pa.Table) -> Array:
        return table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)

    def whole(self, slide: int, out: Array) -> Array:
        return self._values(self.sets[slide].to_table())

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return self._values(self.sets[slide].take(indices))

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        return self._values(self.sets[slide].to_table(offset=start, limit=count))


class Zarr(Format):
    name, suffix, package = "zarr, uncompressed chunks of 1,024 rows", ".zarr", "zarr"

    def __init__(self, folder: Path, bags: Sequence[SlideBag]) -> None:
        import zarr

        zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
        super().__init__(folder, bags)
        self.arrays = [zarr.open_array(path, mode="r") for path in self.files]

    def write(self, path: Path, values: Array) -> None:
        import zarr

        zarr.create_array(path, data=values, chunks=(1024, values.shape[1]), compressors=None)

    def whole(self, slide: int, out: Array) -> Array:
        return self.arrays[slide][:]

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return self.arrays[slide].oindex[indices]

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        return self.arrays[slide][start : start + count]


OTHERS: list[type[Format]] = [ClamH5, PlainH5, Npy, Pt16, Pt32, Safetensors, Lance, Zarr]
