"""A process of its own for benchmarks/store.py: how long opening a store takes, and how much memory using one.

Run by store_own.py: python -m benchmarks.store_child <reader, analyst or use> <home> <snapshot id>. Prints one JSON object.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd  # noqa: F401 - which DuckDB imports when it first binds a parameter
import polars as pl

from feature_store.analyst import analyst_connection
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.vectors import open_vectors

NUM_BAGS_READ, NUM_VECTORS_READ = 64, 256


def reading(home: Home, _snapshot_id: int) -> dict[str, float]:
    """Return the seconds, of the clock and of this process's CPU time, to the first answer of a reader of the newest snapshot."""
    start, cpu = time.perf_counter(), time.process_time()
    with Lake(home).reader() as connection:
        connection.execute("SELECT count(*) FROM patch_bags").fetchall()
        return {"open_reader_s": time.perf_counter() - start, "open_reader_cpu_s": time.process_time() - cpu}


def analysing(home: Home, _snapshot_id: int) -> dict[str, float]:
    """Return the seconds, of the clock and of this process's CPU time, to the first answer of an analyst's connection."""
    start, cpu = time.perf_counter(), time.process_time()
    with analyst_connection(home) as analyst:
        analyst.query("SELECT count(*) FROM patch_bags")
        return {"open_analyst_s": time.perf_counter() - start, "open_analyst_cpu_s": time.process_time() - cpu}


def using(home: Home, snapshot_id: int) -> dict[str, float]:
    """List every bag in SQL, read some and some vectors; return this process's peak of resident memory in MB."""
    rng = np.random.default_rng(0)
    lake = Lake(home)
    with lake.reader(snapshot_id) as connection, BagReader(home.bags) as reader:
        bags = pl.DataFrame(connection.execute("FROM patch_bags ORDER BY slide_id").to_arrow_table())
        fields = BagRecord.__dataclass_fields__
        for row in bags.head(NUM_BAGS_READ).iter_rows(named=True):
            reader.read(BagRecord(**{name: row[name] for name in fields}))
        cases = pl.DataFrame(connection.execute("SELECT cohort, case_id FROM cases ORDER BY case_id").to_arrow_table())
        vectors = open_vectors(home, connection, cases, "rna")
        vectors.rows(rng.choice(cases.height, min(NUM_VECTORS_READ, cases.height), replace=False))
    return {"num_bags": bags.height, "peak_rss_mb": _peak_rss_mb()}


def _peak_rss_mb() -> float:
    # not getrusage: its peak is handed down from the process that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6


if __name__ == "__main__":
    _, what, folder, snapshot = sys.argv
    sys.stdout.write(
        json.dumps({"reader": reading, "analyst": analysing, "use": using}[what](Home(Path(folder)), int(snapshot))) + "\n"
    )
