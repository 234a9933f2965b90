"""Our side of benchmarks/store.py: publishing the store, and the same questions asked as a user asks them.

What belongs here: what is timed and how often. The rows are store_build.py's; files of other tools are store_peers.py's.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.store_build import Size, cohort_writes, one_cohort_writes
from feature_store import tables as t
from feature_store.analyst import Analyst, analyst_connection
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE, Write, publish
from feature_store.vectors import CaseVectors, open_vectors

ROOT = Path(__file__).parent.parent
BATCH, NUM_GENES_ASKED, NUM_BATCHES = 64, 11, 40
# What a correction of a cohort's follow-up and omics touches; with WITH_VECTORS nearly all of a cohort's bytes.
WITHOUT_VECTORS = (t.CLINICAL, t.ENDPOINTS, t.FOLDS, t.MODALITY_MATRIX)
WITH_VECTORS = (*WITHOUT_VECTORS, t.RNA, t.RNA_BY_FEATURE)


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def median_s(ask: Callable[[], object], times: int = 5) -> float:
    """Return the median seconds of asking, after once that does not count."""
    ask()
    return statistics.median(seconds(ask) for _ in range(times))


def seconds(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


def build(home: Home, size: Size) -> int:
    """Publish all cohorts, one by one; return the snapshot's id."""
    lake, snapshot_id = Lake(home), 0
    for number, (cohort, case_ids) in enumerate(size.cases(), start=1):
        writes = cohort_writes(home, size, cohort, case_ids)
        start = time.perf_counter()
        snapshot_id = publish(lake, writes, f"{COHORT_MESSAGE} {cohort}", "benchmark").snapshot_id or 0
        took = time.perf_counter() - start
        say(f"cohort {number} of {size.num_cohorts}: {len(case_ids)} cases, published in {took:.1f} s")
    return snapshot_id


def build_one_cohort(home: Home, size: Size) -> int:
    """Publish the tables behind a gene's query with all cases in one cohort; return the snapshot's id."""
    return publish(Lake(home), one_cohort_writes(size), f"{COHORT_MESSAGE} ALL", "benchmark").snapshot_id or 0


def commit_seconds(home: Home, size: Size) -> dict[str, float]:
    """Return the seconds to republish a cohort when some of its tables have changed, all of them being offered and hashed.

    Of the largest cohort, and of the one whose number of cases is nearest to the mean; with and without its vectors.
    """
    cohorts = dict(size.cases())
    largest = max(cohorts, key=lambda name: len(cohorts[name]))
    mean = min(cohorts, key=lambda name: abs(len(cohorts[name]) - size.num_cases / size.num_cohorts))
    found: dict[str, float] = {}
    for which, cohort in ("mean", mean), ("largest", largest):
        before = {write.table: write for write in cohort_writes(home, size, cohort, cohorts[cohort])}
        for tables, what in (WITHOUT_VECTORS, "tables"), (WITH_VECTORS, "tables_and_vectors"):
            taken, cpu = [], []
            for seed in (1, 2, 0):  # the last puts back what was there
                after = {write.table: write for write in cohort_writes(home, size, cohort, cohorts[cohort], seed)}
                offered = [*({**before, **{table: after[table] for table in tables}}).values()]
                start, start_cpu = time.perf_counter(), time.process_time()
                published = publish(Lake(home), offered, f"{COHORT_MESSAGE} {cohort}", "benchmark")
                taken.append(time.perf_counter() - start)
                cpu.append(time.process_time() - start_cpu)
                if set(published.changed) != {table.name for table in tables}:
                    raise AssertionError(f"{cohort}: {published.changed} changed, expected {[table.name for table in tables]}")
            found |= {
                f"commit_{which}_{what}_s": statistics.median(taken),
                f"commit_{which}_{what}_cpu_s": statistics.median(cpu),
            }
            say(f"{cohort}, {len(cohorts[cohort])} cases, {len(tables)} tables: {[round(one, 2) for one in taken]} s")
    return found


def child(what: str, home: Home, snapshot_id: int) -> dict[str, float]:
    """Return what a new process of store_child.py prints."""
    command = [sys.executable, "-m", "benchmarks.store_child", what, str(home.root), str(snapshot_id)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def open_seconds(home: Home, snapshot_id: int) -> dict[str, float]:
    """Return the median seconds to the first answer, each time in a new process that has imported its libraries."""
    taken = [child("reader", home, snapshot_id) | child("analyst", home, snapshot_id) for _ in range(7)]
    return {name: statistics.median(one[name] for one in taken) for name in taken[0]}


def matrix_ms(analyst: Analyst) -> dict[str, float]:
    """Return the milliseconds to have the modality matrix, all its rows and its summary."""
    whole = median_s(lambda: analyst.query("SELECT case_id, cohort, modality, state FROM modality_matrix"))
    return {"matrix_rows_ms": whole * 1e3, "matrix_coverage_ms": median_s(lambda: analyst.query("FROM modality_coverage")) * 1e3}


def gene_ms(home: Home, snapshot_id: int, genes: list[str], vectors: CaseVectors, case_ids: list[str]) -> float:
    """Return the median milliseconds of several genes across all cases; the first one's values are compared with the vectors."""
    rng = np.random.default_rng(2)
    first, *asked = rng.choice(len(genes), NUM_GENES_ASKED, replace=False)
    with analyst_connection(home, snapshot_id=snapshot_id) as analyst:

        def ask(gene: int) -> pl.DataFrame:
            return pl.DataFrame(analyst.query("FROM gene_expression($gene)", {"gene": genes[gene].lower()}))

        found = ask(first).sort("case_id")
        expected = vectors.rows(range(len(case_ids)))[:, first]
        if found["case_id"].to_list() != case_ids or not np.array_equal(found["value"].to_numpy(), expected):
            raise AssertionError(f"{genes[first]}: other values than the cases' vectors have")
        return statistics.median(seconds(lambda: ask(gene)) for gene in asked) * 1e3  # noqa: B023 - used within the turn


def opened_vectors(home: Home, snapshot_id: int) -> tuple[CaseVectors, list[str], float]:
    """Return the vectors of all cases, the cases in their order, and the seconds to make the cache and open it."""
    start = time.perf_counter()
    with Lake(home).reader(snapshot_id) as connection:
        cases = pl.DataFrame(connection.execute("SELECT cohort, case_id FROM cases ORDER BY case_id").to_arrow_table())
        vectors = open_vectors(home, connection, cases, "rna")
    return vectors, cases["case_id"].to_list(), time.perf_counter() - start


def vectors_gb_s(vectors: CaseVectors, num_cases: int) -> float:
    """Return the median GB/s of random batches of whole vectors, copied into an array that is used again."""
    rng = np.random.default_rng(3)
    out = np.empty((BATCH, len(vectors.features)), np.float32)
    vectors.rows(range(num_cases))  # every page is in memory
    taken = []
    for _ in range(NUM_BATCHES):
        batch = rng.integers(0, num_cases, BATCH)
        taken.append(seconds(lambda: vectors.rows(batch, out)))  # noqa: B023 - used within the turn
    return out.nbytes / 1e9 / statistics.median(taken)


def with_fewer_bags(home: Home, snapshot_id: int, size: Size) -> int:
    """Publish that only every fourth case has a bag; return the snapshot's id."""
    with Lake(home).reader(snapshot_id) as connection:
        bags = pl.DataFrame(connection.execute("FROM patch_bags ORDER BY slide_id").to_arrow_table()).gather_every(4)
    writes = [Write(t.PATCH_BAGS, cohort, bags.filter(pl.col("cohort") == cohort)) for cohort, _ in size.cases()]
    return publish(Lake(home), writes, f"{COHORT_MESSAGE} with fewer bags", "benchmark").snapshot_id or 0
