"""How many patches a second the SQL macro `similar_patches` compares: the figure of docs/sql.md.

Slides of 2,000 patches of 1024 random numbers, all in the page cache, an analyst's default caps. Needs an otherwise idle machine.
Run: python -m benchmarks.similar_patches [--slides N] (make bench NAME=similar_patches).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from feature_store.analyst import analyst_connection
from feature_store.bag_file import write_shards
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import Write, publish
from feature_store.tables import CASES, PATCH_BAGS

DIM, NUM_PATCHES, NUM_ROUNDS = 1024, 2_000, 7


def synthetic_bags(num_slides: int) -> Iterator[SlideBag]:
    rng = np.random.default_rng(0)
    xy = np.stack([np.arange(NUM_PATCHES) * 256, np.zeros(NUM_PATCHES, int)], axis=1)
    for number in range(num_slides):
        values = rng.standard_normal((NUM_PATCHES, DIM), dtype=np.float32).astype(np.float16)
        yield SlideBag(f"slide-{number}", f"case-{number}", xy, values, "0" * 64, 256, None, None)


def publish_bags(home: Home, num_slides: int) -> None:
    encoder = EncoderInfo("synthetic", "0" * 64, DIM, "none")
    own = {"cohort": "c", "encoder_sha256": encoder.weight_sha256}
    bags = [{**vars(record), **own} for record in write_shards(home.bags, synthetic_bags(num_slides), encoder)]
    common = {"cohort": "c", "project_id": "p", "cancer_type": "a", "site": None, "source_sha256": ""}
    cases = [{"case_id": f"case-{number}", **common} for number in range(num_slides)]
    writes = [Write(table, "c", pl.DataFrame(rows, schema=table.schema)) for table, rows in ((CASES, cases), (PATCH_BAGS, bags))]
    publish(Lake(home), writes, "publish cohort c")


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=100)
    num_slides = parser.parse_args().slides
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        home = Home(Path(name))
        publish_bags(home, num_slides)
        with analyst_connection(home) as analyst:
            for _ in range(1 + NUM_ROUNDS):
                start = time.perf_counter()
                found = analyst.query("FROM similar_patches('slide-0', 0, 0, 10)")
                seconds.append(time.perf_counter() - start)
                if found.num_rows != 10:
                    raise AssertionError(f"{found.num_rows} patches found, expected 10")
    warm = statistics.median(seconds[1:])
    figures = {
        "num_patches": num_slides * NUM_PATCHES,
        "dim": DIM,
        "first_s": round(seconds[0], 3),
        "median_s": round(warm, 3),
        "patches_per_s": round(num_slides * NUM_PATCHES / warm),
        "slowest_patches_per_s": round(num_slides * NUM_PATCHES / max(seconds[1:])),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
