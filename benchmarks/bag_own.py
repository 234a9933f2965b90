"""Our side of benchmarks/bags.py: the limit (a copy from memory, a plain read of our file), BagReader, and SQL over our file."""

# ruff: noqa: ARG002 - not every reader needs the slide, or fills a buffer

import os
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.bag_formats import Array, Format
from feature_store.bag_file import write_shards
from feature_store.bag_reader import BagReader
from feature_store.bag_record import EncoderInfo, SlideBag


class MemoryCopy(Format):
    name = "limit: memory copy / plain pread"

    def __init__(self, ours: "Ours", bags: Sequence[SlideBag]) -> None:
        self.ours, self.bags = ours, bags

    def whole(self, slide: int, out: Array) -> Array:
        values = self.bags[slide].embedding
        np.copyto(out[: len(values)], values)
        return out[: len(values)]

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return np.take(self.bags[slide].embedding, indices, axis=0, out=out[: len(indices)], mode="clip")

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        np.copyto(out[:count], self.bags[slide].embedding[start : start + count])
        return out[:count]

    def paths(self, slide: int) -> list[Path]:
        return self.ours.paths(slide)

    def cold(self, slide: int, out: Array) -> Array:
        """Return the values that our file holds, read plainly."""
        record = self.ours.records[slide]
        target = out[: record.num_patches]
        view, done = memoryview(target).cast("B"), 0
        descriptor = os.open(self.paths(slide)[0], os.O_RDONLY)
        try:
            while done < len(view):
                done += os.preadv(descriptor, [view[done:]], record.offset_bytes + done)
        finally:
            os.close(descriptor)
        return target


class Ours(Format):
    name = "this file, mapped once, known offsets"

    def __init__(self, folder: Path, bags: Sequence[SlideBag]) -> None:
        self.folder = folder / "bags"
        dim = bags[0].embedding.shape[1]
        self.records = write_shards(self.folder, bags, EncoderInfo("synthetic", "0" * 64, dim, "none"))
        self.reader = BagReader(self.folder)

    def whole(self, slide: int, out: Array) -> Array:
        return self.reader.read(self.records[slide], out)

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return self.reader.rows(self.records[slide], indices, out)

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        return self.reader.window(self.records[slide], start, count, out)

    def paths(self, slide: int) -> list[Path]:
        return [self.folder / self.records[slide].shard]

    def reopen(self, slide: int) -> None:
        self.reader.close()
        self.reader = BagReader(self.folder)
        self.reader.window(self.records[slide], 0, 0)  # maps the shard


class Verified(Ours):
    name, has_parts = "this file, page checksum verified", False

    def __init__(self, ours: Ours) -> None:
        self.folder, self.records, self.reader = ours.folder, ours.records, BagReader(ours.folder)

    def whole(self, slide: int, out: Array) -> Array:
        return self.reader.read(self.records[slide], out, verify=True)


class DuckDB(Ours):
    name, dtype = "this file through DuckDB to Arrow", np.float32

    def __init__(self, ours: Ours) -> None:
        self.folder, self.records = ours.folder, ours.records
        self.connection = duckdb.connect(config={"threads": 1})

    def whole(self, slide: int, out: Array) -> Array:
        return self.window(slide, 0, self.records[slide].num_patches, out)

    def rows(self, slide: int, indices: Array, out: Array) -> Array:
        return np.take(self.whole(slide, out), indices, axis=0)

    def window(self, slide: int, start: int, count: int, out: Array) -> Array:
        query = f"SELECT embedding FROM read_parquet(?) WHERE slide_id = ? LIMIT {count} OFFSET {start}"
        found = self.connection.execute(query, [str(self.paths(slide)[0]), self.records[slide].slide_id]).to_arrow_table()
        return found["embedding"].combine_chunks().flatten().to_numpy().reshape(count, -1)

    def reopen(self, slide: int) -> None:
        self.connection.close()
        DuckDB.__init__(self, self)
