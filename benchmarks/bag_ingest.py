"""Ingest and listing for benchmarks/bags.py: TRIDENT h5 files to shards against only reading them, and 12,000 rows in SQL."""

import hashlib
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import polars as pl

from feature_store.bag_file import write_shards
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.home import Home
from feature_store.ingest.patch_file import read_patches
from feature_store.lake import Lake
from feature_store.publish import Write, publish
from feature_store.tables import PATCH_BAGS


def offered(files: Sequence[Path], dim: int, *, is_hashed: bool) -> Iterator[SlideBag]:
    """What ingest does for a file before it is written: its hash (unless the audit has just taken it), checks, values."""
    for path in files:
        source_sha256 = "0" * 64
        if is_hashed:
            with path.open("rb") as file:
                source_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        patches = read_patches(path, path.stem, dim)
        xy, embedding = patches.coords, patches.features
        yield SlideBag(path.stem, f"case-{path.stem}", xy, embedding, source_sha256, patches.size_px, 0.5, 20.0)


def ingest_seconds(folder: Path, files: Sequence[Path], dim: int, num_rounds: int) -> dict[str, float]:
    """Return medians of reading features and coords of every file, and of ingesting them to verified, synced shards."""
    seconds: dict[str, list[float]] = {"h5_read": [], "ingest": [], "ingest_with_file_hash": []}
    for number in range(num_rounds):
        start = time.perf_counter()
        for path in files:
            with h5py.File(path, "r") as file:
                file["features"][...], file["coords"][...]
        seconds["h5_read"].append(time.perf_counter() - start)
        for name in ("ingest", "ingest_with_file_hash"):
            target = folder / f"{name}-{number}"
            bags = offered(files, dim, is_hashed=name != "ingest")
            start = time.perf_counter()
            records = write_shards(target, bags, EncoderInfo("synthetic", "0" * 64, dim, "none"))
            seconds[name].append(time.perf_counter() - start)
            if len(records) != len(files):
                raise AssertionError(f"{len(records)} bags of {len(files)} files")
            shutil.rmtree(target)
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


def listing_seconds(folder: Path, num_bags: int) -> dict[str, float]:
    """Return the seconds to open a store of registered bags whose shards do not even exist, and to list them all."""
    rows = [
        {
            "slide_id": f"slide-{i:05}",
            "case_id": f"case-{i:05}",
            "cohort": "synthetic",
            "encoder": "synthetic",
            "encoder_sha256": "0" * 64,
            "dim": 1024,
            "num_patches": 7_800,
            "shard": f"{i // 64:032x}.parquet",
            "offset_bytes": 4 + i % 64 * 16_000_000,
            "page_crc32": i,
            "bag_sha256": f"{i:064x}",
            "source_sha256": f"{i:064x}",
        }
        for i in range(num_bags)
    ]
    lake = Lake(Home(folder / "home"))
    publish(lake, [Write(PATCH_BAGS, "synthetic", pl.DataFrame(rows, schema=PATCH_BAGS.schema))], "benchmark")
    opened, listed = [], []
    for _ in range(5):
        start = time.perf_counter()
        with lake.reader() as connection:
            opened.append(time.perf_counter() - start)
            found = connection.execute("SELECT slide_id, shard, offset_bytes, num_patches FROM patch_bags").fetchall()
            listed.append(time.perf_counter() - start - opened[-1])
        if len(found) != num_bags:
            raise AssertionError(f"{len(found)} of {num_bags} bags")
    return {"open_store_s": round(statistics.median(opened), 3), "list_12000_s": round(statistics.median(listed), 3)}
