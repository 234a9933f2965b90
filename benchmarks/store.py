"""How fast a store of TCGA's size answers: opening, a commit, the modality matrix, a gene, training vectors, and its memory.

12,000 cases in 33 cohorts with a bag each and 20,245 genes, published through our own path, beside plain Parquet with pandas and
Feast's offline store. A gene is also asked with all cases in one cohort, and the slower counts. Values are random, which
compresses worst. `commit_s` is of the cohort of mean size, with clinical, endpoints, folds, modality_matrix, rna and
rna_by_feature changed; the largest cohort's is beside it. `open_s` counts from imported libraries to the first answer in a new
process. Feast's gene comes from a file of 200 genes, and all peers answer in a process that is already warm.
Needs 16 GB of memory and of disk, and an otherwise idle machine for figures that last.
Run: python -m benchmarks.store [--quick] [--feast-python <interpreter that has Feast>] (make bench NAME=store).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from benchmarks import store_own as own
from benchmarks import store_peers as peers
from benchmarks.store_build import Size
from feature_store.analyst import analyst_connection
from feature_store.home import Home
from feature_store.lake import Lake

SIZE, QUICK = Size(), Size(num_cases=1_200, num_genes=2_000, num_cohorts=6)
DISK_BYTES_PER_BYTE = 14  # rows per case and per gene, twice, the cache, two republished cohorts, the peers' files
TARGETS = {
    "open_s": "< 1",
    "commit_s": "< 2",
    "modality_matrix_ms": "< 100",
    "gene_across_cases_ms": "< 150",
    "case_vectors_gb_s": ">= 1",
    "peak_rss_mb": "within 10% of a quarter of the bags",
}
SMALL = ("clinical", "endpoints", "folds", "modality_matrix", "patch_bags")
Figures = dict[str, float]


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def one_cohort(home: Home, size: Size) -> Figures:
    """Return the figures of a store with all cases in one cohort."""
    snapshot_id = own.build_one_cohort(home, size)
    vectors, case_ids, made_s = own.opened_vectors(home, snapshot_id)
    own.say(f"one cohort of {size.num_cases} cases is published, its cache made in {made_s:.1f} s")
    return {
        "gene_one_cohort_ms": own.gene_ms(home, snapshot_id, size.genes, vectors, case_ids),
        "vectors_one_cohort_gb_s": own.vectors_gb_s(vectors, size.num_cases),
    }


def ours(folder: Path, size: Size) -> tuple[Figures, Home, int]:
    """Build the store in `folder` and measure it; return the figures, the store and its snapshot."""
    home = Home(folder / "home")
    snapshot_id = own.build(home, size)
    own.say(f"the store is built: {folder_mb(home.root):,.0f} MB")
    found: Figures = {"store_mb": folder_mb(home.root), **own.open_seconds(home, snapshot_id)}
    with analyst_connection(home, snapshot_id=snapshot_id) as analyst:
        found |= own.matrix_ms(analyst)
    vectors, case_ids, found["vectors_cache_made_s"] = own.opened_vectors(home, snapshot_id)
    found["vectors_cache_opened_s"] = own.opened_vectors(home, snapshot_id)[2]
    found["gene_cohorts_ms"] = own.gene_ms(home, snapshot_id, size.genes, vectors, case_ids)
    found["vectors_cohorts_gb_s"] = own.vectors_gb_s(vectors, size.num_cases)
    own.say("commits")
    found |= own.commit_seconds(home, size)
    fewer_id = own.with_fewer_bags(home, snapshot_id, size)
    for name, of in ("", snapshot_id), ("_3000", fewer_id):
        used = own.child("use", home, of)
        found |= {f"peak_rss_mb{name}": used["peak_rss_mb"], f"num_bags{name}": used["num_bags"]}
    own.say("one cohort")
    alone = Home(folder / "alone")
    found |= one_cohort(alone, size)
    shutil.rmtree(alone.root)
    worst = {
        "open_s": max(found["open_reader_s"], found["open_analyst_s"]),
        "commit_s": found["commit_mean_tables_and_vectors_s"],
        "modality_matrix_ms": max(found["matrix_rows_ms"], found["matrix_coverage_ms"]),
        "gene_across_cases_ms": max(found["gene_cohorts_ms"], found["gene_one_cohort_ms"]),
        "case_vectors_gb_s": min(found["vectors_cohorts_gb_s"], found["vectors_one_cohort_gb_s"]),
    }
    return {**worst, **found}, home, snapshot_id


def others(folder: Path, home: Home, snapshot_id: int, size: Size, feast_python: Path | None) -> dict[str, dict[str, object]]:
    """Return the peers' figures, from files that hold what the store holds."""
    vectors, case_ids, _ = own.opened_vectors(home, snapshot_id)
    values = vectors.rows(range(size.num_cases))
    with Lake(home).reader(snapshot_id) as connection:
        small = {name: _pandas(connection, name) for name in SMALL}
    found: dict[str, dict[str, object]] = {}
    (folder / "plain").mkdir()
    found["plain Parquet + pandas"] = dict(peers.plain(folder / "plain", values, size.genes, small, case_ids))
    shutil.rmtree(folder / "plain")
    if feast_python is not None:
        (folder / "feast").mkdir()
        found["Feast"] = peers.feast(feast_python, folder / "feast", values, size.genes, small["modality_matrix"], case_ids)
    return found


def _pandas(connection: duckdb.DuckDBPyConnection, table: str) -> pd.DataFrame:
    return connection.execute(f'FROM "{table}"').df()


def print_table(found: Figures, of_others: dict[str, dict[str, object]]) -> None:
    columns: dict[str, dict[str, Any]] = {"ours": {**found}, **of_others}
    sys.stdout.write(f"| figure | target | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}\n")
    for name, target in TARGETS.items():
        cells = [f"{by[name]:.3g}" if isinstance(by.get(name), float) else "" for by in columns.values()]
        sys.stdout.write(f"| {name} | {target} | {' | '.join(cells)} |\n")


def main() -> None:
    """Print the table, what was skipped and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.num_cases} cases of {QUICK.num_genes} genes")
    parser.add_argument("--feast-python", type=Path, help="interpreter of an environment with Feast (pip install feast)")
    options = parser.parse_args()
    size = QUICK if options.quick else SIZE
    if options.feast_python is not None and not options.feast_python.is_file():
        raise SystemExit(f"--feast-python {options.feast_python}: no such file, expected an interpreter. Correct the path.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stat, needed = os.statvfs(folder), size.value_bytes * DISK_BYTES_PER_BYTE
        if stat.f_bavail * stat.f_frsize < needed:
            raise SystemExit(
                f"{folder}: {stat.f_bavail * stat.f_frsize:,} bytes free, expected {needed:,}. Set TMPDIR, or use --quick."
            )
        found, home, snapshot_id = ours(folder, size)
        of_others = others(folder, home, snapshot_id, size, options.feast_python)
    skipped = [] if options.feast_python else ["Feast: not installed, name an interpreter that has it with --feast-python"]
    skipped += [f"{peer}: {by['error']}" for peer, by in of_others.items() if "error" in by]
    print_table(found, of_others)
    for line in skipped:
        sys.stdout.write(f"skipped: {line}\n")
    about = {"num_cases": size.num_cases, "num_genes": size.num_genes, "num_cohorts": size.num_cohorts, "skipped": skipped}
    rounded = {key: _rounded(value) for key, value in found.items()}
    of_peers = {peer: {key: _rounded(value) for key, value in by.items()} for peer, by in of_others.items()}
    sys.stdout.write(json.dumps({**rounded, **about, "peers": of_peers}) + "\n")


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
