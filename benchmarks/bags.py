"""How fast a slide's patches come out of every file layout, ours and others: the table of docs/bags.md, in one run.

Synthetic slides (log-normal patch counts), one thread. All readers take turns on one slide, in random order, before the
next, so that noise of the machine hits them alike; figures are medians over slides, in GB/s counted as float16. Cold means
that the file's pages were dropped from this machine's page cache. Needs an otherwise idle machine for figures that last.
Run: python -m benchmarks.bags [--quick] (make bench NAME=bags); Lance and zarr come with the extra `bench`.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.bag_batches import batches_per_second
from benchmarks.bag_formats import OTHERS, Array, Format
from benchmarks.bag_ingest import ingest_seconds, listing_seconds
from benchmarks.bag_own import DuckDB, MemoryCopy, Ours, Verified
from feature_store.bag_record import SlideBag

DIM, MEAN_PATCHES, SIGMA, PART = 1024, 7_800, 0.6, 4_096
NUM_SLIDES, NUM_QUICK = 96, 12
NUM_COLD, NUM_COLD_QUICK = 24, 4
DISK_BYTES_PER_BYTE = 16
COLUMNS = ("whole slide, warm", "4,096 random, warm", "window of 4,096, warm", "whole, cold")
Figures = dict[str, dict[str, float]]


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def synthetic_bags(num_slides: int) -> list[SlideBag]:
    """Slides of log-normal count; values cut from one pool of normal numbers, at an offset of their own."""
    rng = np.random.default_rng(0)
    counts = np.exp(rng.normal(np.log(MEAN_PATCHES) - SIGMA**2 / 2, SIGMA, num_slides)).astype(int).clip(500, 40_000)
    pool = rng.standard_normal(int(counts.max() + 4_096) * DIM, dtype=np.float32).astype(np.float16)
    bags = []
    for i, count in enumerate(counts):
        start = int(rng.integers(4_096 * DIM))
        values = pool[start : start + count * DIM].reshape(count, DIM).copy()
        xy = np.stack(np.divmod(np.arange(count), 200), axis=1) * 256
        bags.append(SlideBag(f"slide-{i:04}", f"case-{i:04}", xy, values, "0" * 64, 256, 0.5, 20.0))
    return bags


def write_all(folder: Path, bags: list[SlideBag]) -> list[Format]:
    ours = Ours(folder, bags)
    formats: list[Format] = [MemoryCopy(ours, bags), ours, Verified(ours)]
    for kind in OTHERS:
        if kind.is_available():
            say(f"writing {kind.name}")
            formats.append(kind(folder, bags))
        else:
            sys.stdout.write(f"skipped: {kind.name} (package {kind.package} is not installed)\n")
    os.sync()  # only clean pages can be dropped
    return [*formats, DuckDB(ours)]


def seconds_of(read: Callable[[], Array]) -> float:
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


def drop_pages(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def shuffled(formats: list[Format], rng: np.random.Generator) -> list[Format]:
    return [formats[i] for i in rng.permutation(len(formats))]


def measure(formats: list[Format], bags: list[SlideBag], num_cold: int) -> Figures:
    """Return GB/s by reader and column; every value read is first compared with what was written."""
    rng = np.random.default_rng(1)
    longest = max(len(bag.embedding) for bag in bags)
    buffers = {np.dtype(kind): np.ones((longest, DIM), kind) for kind in (np.float16, np.float32)}
    speeds: dict[str, dict[str, list[float]]] = {each.name: {column: [] for column in COLUMNS} for each in formats}
    for slide, bag in enumerate(bags):
        count = len(bag.embedding)
        part = min(PART, count)
        indices, start = np.sort(rng.choice(count, part, replace=False)), int(rng.integers(count - part + 1))
        cases = [
            (COLUMNS[0], bag.embedding, lambda each, out: each.whole(slide, out)),  # noqa: B023 - used within the turn
            (COLUMNS[1], bag.embedding[indices], lambda each, out: each.rows(slide, indices, out)),  # noqa: B023
            (COLUMNS[2], bag.embedding[start : start + part], lambda each, out: each.window(slide, start, part, out)),  # noqa: B023
        ]
        for column, expected, read in cases:
            taking_part = [each for each in shuffled(formats, rng) if column == COLUMNS[0] or each.has_parts]
            for each in taking_part:
                got = read(each, buffers[np.dtype(each.dtype)])
                if not np.array_equal(got, expected.astype(each.dtype, copy=False)):
                    raise AssertionError(f"{each.name}: other values in {column} of slide {slide}")
            for each in taking_part:
                out = buffers[np.dtype(each.dtype)]
                speeds[each.name][column].append(expected.nbytes / 1e9 / seconds_of(lambda: read(each, out)))  # noqa: B023
        if slide < num_cold:
            for each in shuffled(formats, rng):
                # Pages that another reader has mapped stay in the cache whatever is advised.
                for other in formats:
                    if isinstance(other, Ours):
                        other.reopen(slide)
                drop_pages(each.paths(slide))
                read_cold = each.cold if isinstance(each, MemoryCopy) else each.whole
                out = buffers[np.dtype(each.dtype)]
                speed = bag.embedding.nbytes / 1e9 / seconds_of(lambda: read_cold(slide, out))  # noqa: B023
                speeds[each.name][COLUMNS[3]].append(speed)
        say(f"slide {slide + 1} of {len(bags)}")
    return {name: {c: statistics.median(v) for c, v in by.items() if v} for name, by in speeds.items()}


def print_table(figures: Figures) -> None:
    sys.stdout.write(f"| reader, GB/s | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}\n")
    for name, by in figures.items():
        cells = [f"{by[column]:.2f}" if column in by else "" for column in COLUMNS]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
    sys.stdout.flush()


def versions() -> dict[str, str]:
    found = {}
    for name in ("numpy", "pyarrow", "torch", "h5py", "duckdb", "safetensors", "pylance", "zarr"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Print the table, the other figures and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{NUM_QUICK} slides instead of {NUM_SLIDES}")
    is_quick = parser.parse_args().quick
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    bags = synthetic_bags(NUM_QUICK if is_quick else NUM_SLIDES)
    num_bytes = sum(bag.embedding.nbytes for bag in bags)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stat = os.statvfs(folder)
        if stat.f_bavail * stat.f_frsize < num_bytes * DISK_BYTES_PER_BYTE:
            raise SystemExit(f"{folder}: less than {num_bytes * DISK_BYTES_PER_BYTE:,} bytes free. Set TMPDIR, or use --quick.")
        say(f"{len(bags)} slides, {num_bytes / 1e9:.2f} GB of float16")
        formats = write_all(folder, bags)
        by_name = {type(each).__name__: each for each in formats}
        figures = measure(formats, bags, NUM_COLD_QUICK if is_quick else NUM_COLD)
        print_table(figures)
        say("batches")
        batches = batches_per_second(by_name["Ours"], by_name["Pt16"], bags, PART, num_rounds=3)
        say("ingest")
        h5_files = by_name["ClamH5"].files[: len(bags) if is_quick else 32]
        ingest = ingest_seconds(folder, h5_files, DIM, num_rounds=3)
        say("listing")
        listing = listing_seconds(folder, 12_000)
    sys.stdout.write(f"\nbatches of (4, {PART:,}, {DIM}) a second: {json.dumps(batches)}\n")
    sys.stdout.write(f"ingest of {len(h5_files)} TRIDENT h5 files, seconds: {json.dumps(ingest)}\n")
    sys.stdout.write(f"12,000 registered bags, seconds: {json.dumps(listing)}\n")
    limit, own, clam = (figures[by_name[kind].name] for kind in ("MemoryCopy", "Ours", "ClamH5"))
    ratios = {
        "whole_vs_memcpy": own[COLUMNS[0]] / limit[COLUMNS[0]],
        "whole_vs_clam_h5": own[COLUMNS[0]] / clam[COLUMNS[0]],
        "random_vs_memcpy": own[COLUMNS[1]] / limit[COLUMNS[1]],
        "random_vs_clam_h5": own[COLUMNS[1]] / clam[COLUMNS[1]],
        "window_vs_memcpy": own[COLUMNS[2]] / limit[COLUMNS[2]],
        "cold_vs_disk": own[COLUMNS[3]] / limit[COLUMNS[3]],
        "batches_vs_pt": batches["ours_random"] / max(batches["pt_dataloader_mapped"], batches["pt_dataloader_whole"]),
        "ingest_vs_h5_read": ingest["h5_read"] / ingest["ingest"],
        "ingest_with_file_hash_vs_h5_read": ingest["h5_read"] / ingest["ingest_with_file_hash"],
    }
    rounded = {key: round(value, 2) for key, value in ratios.items()}
    about = {"num_slides": len(bags), "bytes": num_bytes, "versions": versions()}
    sys.stdout.write(json.dumps({**rounded, **listing, **about}) + "\n")


if __name__ == "__main__":
    main()
