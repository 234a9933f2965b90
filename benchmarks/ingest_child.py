"""A process of its own for benchmarks/ingest.py: one thing done once, its seconds and the memory it took.

Run: python -m benchmarks.ingest_child <what> <source> <target>. Prints one JSON object. Each function gets what it imports before
the clock starts.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import requests

from benchmarks.ingest_pandas import ingest as ingest_with_pandas
from feature_store.contract import load_contract
from feature_store.gdc.api import Gdc
from feature_store.gdc.download import download
from feature_store.gdc.filters import one_of
from feature_store.gdc.http import Http
from feature_store.home import Home
from feature_store.ingest.stage import stage

COHORTS = Path(__file__).parents[1] / "cohorts"
CHUNK_BYTES = 1 << 20
# The sources that the pandas script reads; the contract has since got others.
NOT_OF_THE_SCRIPT = {"protein": ()}
Done = dict[str, object]


def contract_tables(landing: str, target: Path) -> Done:
    """Stage the shipped contract of the landing folder, as far as the pandas script goes."""
    contract = load_contract(COHORTS / "tcga.yaml").model_copy(update=NOT_OF_THE_SCRIPT)
    start = time.perf_counter()
    staged = stage(contract, Path(landing), Home(target))
    seconds = time.perf_counter() - start
    tables = ("cases", "clinical", "endpoints", "rna", "copy_number", "mutations", "reports", "slides")
    return {"seconds": seconds, "rows": {name: staged.table(name).height for name in tables}}


def pandas_tables(landing: str, target: Path) -> Done:
    """Run the pandas script."""
    start = time.perf_counter()
    rows = ingest_with_pandas(Path(landing), target)
    return {"seconds": time.perf_counter() - start, "rows": rows}


def read_h5(folder: str, _target: Path) -> Done:
    """Merely read features and coordinates of every file."""
    start = time.perf_counter()
    for path in sorted(Path(folder, "slides").glob("*.h5")):
        with h5py.File(path, "r") as file:
            file["features"][...], file["coords"][...]
    return {"seconds": time.perf_counter() - start}


def bags(folder: str, target: Path) -> Done:
    """Stage the synthetic cohort as it lies there: fingerprints, checks, float16, verified and synced shards, all tables."""
    contract = load_contract(COHORTS / "synthetic.yaml")
    start = time.perf_counter()
    staged = stage(contract, Path(folder), Home(target))
    seconds = time.perf_counter() - start
    num_files, num_bags = len(list(Path(folder, "slides").glob("*.h5"))), staged.table("patch_bags").height
    if num_bags != num_files:
        raise AssertionError(f"{num_bags} bags of {num_files} files")
    return {"seconds": seconds, "bags": num_bags}


def plain_downloads(address: str, target: Path) -> Done:
    """Stream every file to disk one after the other, with its MD5, and nothing else."""
    files = Gdc(Http(address)).manifest(one_of("state", ["released"]))
    target.mkdir()
    start = time.perf_counter()
    with requests.Session() as session:
        for file in files:
            digest = hashlib.md5(usedforsecurity=False)
            with session.get(f"{address}/data/{file.file_id}", stream=True) as answer, (target / file.file_id).open("wb") as out:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != file.md5:
                raise AssertionError(f"{file.path}: another checksum")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "files": len(files), "bytes": sum(file.num_bytes for file in files)}


def downloads(address: str, target: Path) -> Done:
    """Download every file as `mice gdc download` does."""
    files = Gdc(Http(address)).manifest(one_of("state", ["released"]))
    start = time.perf_counter()
    done = download(Http(address), files, target)
    seconds = time.perf_counter() - start
    if done.failed or len(done.fetched) != len(files):
        raise AssertionError(f"{len(done.fetched)} of {len(files)} files, {done.failed[:2]}")
    return {"seconds": seconds, "files": len(files), "bytes": sum(file.num_bytes for file in files)}


def whole_cohort(landing: str, target: Path) -> Done:
    """Stage a synthetic landing folder: every table, all modalities."""
    shipped = load_contract(COHORTS / "synthetic.yaml")
    slides = shipped.slides[0]
    encoder = slides.encoder.model_copy(update={"name": "synthetic-32", "dim": 32})
    contract = shipped.model_copy(update={"slides": (slides.model_copy(update={"encoder": encoder}),)})
    start = time.perf_counter()
    staged = stage(contract, Path(landing), Home(target))
    return {"seconds": time.perf_counter() - start, "cases": staged.table("cases").height}


def peak_rss_mb() -> float:
    """Return the most resident memory that this process had; getrusage's is handed down from the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6


TASKS: dict[str, Callable[[str, Path], Done]] = {
    "tables": contract_tables,
    "tables_pandas": pandas_tables,
    "h5_read": read_h5,
    "bags": bags,
    "plain_downloads": plain_downloads,
    "downloads": downloads,
    "cohort": whole_cohort,
}

if __name__ == "__main__":
    _, what, source, to = sys.argv
    done = TASKS[what](source, Path(to))
    sys.stdout.write(json.dumps({**done, "peak_rss_mb": peak_rss_mb()}) + "\n")
