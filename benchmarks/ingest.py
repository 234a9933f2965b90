"""What bringing data in costs: tables against a pandas script, TRIDENT's h5 to bags, downloads, and how memory grows.

Tables: cohorts/tcga.yaml on the real landing folder (all sources that the script reads; whole staging with its checks, quarantine
and provenance) against benchmarks/ingest_pandas.py. Bags: the synthetic cohort with slides of TRIDENT's layout (float32, a chunk
per patch) staged whole, against merely reading features and coordinates. Downloads: from the replay server of the fault suite,
over loopback, against a loop that streams each file to disk with its MD5. Memory: each at one size and at four times of it.

Every measurement is a process of its own; those that are compared take turns, and medians are printed. Needs an otherwise idle
machine for figures that last, 10 GB of disk, and MICE_DATA for the tables, which are skipped without it.
Run: python -m benchmarks.ingest [--quick] [--parts bags,…] (make bench NAME=ingest).
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl

from benchmarks.bags import synthetic_bags
from feature_store.synthetic import SyntheticConfig, write_landing

ROOT = Path(__file__).parents[1]
LARGE_BYTES, SMALL_BYTES, SMALL_PER_LARGE = 32 << 20, 100_000, 20
TIMES, NUM_SIZES = 4, 12
PARTS = ("tables", "bags", "downloads", "cohorts")
# part -> what we do, what it is held against, and the ratio's name
COMPARED = {
    "tables": ("tables", "tables_pandas", "vs_pandas"),
    "bags": ("bags", "h5_read", "vs_h5_read"),
    "downloads": ("downloads", "plain_downloads", "vs_plain_download"),
}
Answers = dict[str, dict[str, dict[str, Any]]]
Figures = dict[str, float]


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def child(what: str, source: str | Path, folder: Path) -> dict[str, Any]:
    """Do one thing in a process of its own, with what it writes removed afterwards."""
    target = folder / "target"
    command = [sys.executable, "-m", "benchmarks.ingest_child", what, str(source), str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-2000:]}")
    shutil.rmtree(target, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(names: tuple[str, ...], source: str | Path, folder: Path, num_rounds: int) -> dict[str, dict[str, Any]]:
    """Return each thing's answers, of its seconds the median, of its memory the most."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(num_rounds):
        for name in names if number % 2 else names[::-1]:
            answers[name].append(child(name, source, folder))
            say(f"{name}: {answers[name][-1]['seconds']:.2f} s, {answers[name][-1]['peak_rss_mb']:.0f} MB")
    return {
        name: {
            **found[0],
            "seconds": statistics.median(one["seconds"] for one in found),
            "peak_rss_mb": max(one["peak_rss_mb"] for one in found),
        }
        for name, found in answers.items()
    }


def slides_landing(folder: Path, num_slides: int) -> Path:
    """Write a synthetic landing folder whose slides are files as TRIDENT and CLAM write them, more of them being no larger."""
    sizes = SyntheticConfig(num_cases=max(40, 2 * num_slides), slide_dim=8, mean_patches=8, num_genes=20, has_dirt=False)
    landing = write_landing(folder / f"slides-{num_slides}", sizes)
    table = pl.read_csv(landing / "slides.csv", infer_schema=False)
    kept = table.head(num_slides)
    kept.write_csv(landing / "slides.csv")
    shutil.rmtree(landing / "slides")
    (landing / "slides").mkdir()
    for slide, bag in zip(kept.iter_rows(named=True), itertools.cycle(synthetic_bags(NUM_SIZES)), strict=False):
        with h5py.File(landing / "slides" / f"{slide['slide_id']}.h5", "w") as file:
            values = bag.embedding.astype(np.float32)
            file.create_dataset("features", data=values, chunks=(1, values.shape[1]), maxshape=(None, values.shape[1]))
            file.create_dataset("coords", data=bag.xy, chunks=(1, 2), maxshape=(None, 2))
    os.sync()
    return landing


@contextmanager
def replay(num_large: int) -> Iterator[str]:
    """Serve large and small files from a process of its own; yield the address."""
    sizes = [(num_large, LARGE_BYTES), (SMALL_PER_LARGE * num_large, SMALL_BYTES)]
    arguments = [text for num, size in sizes for text in ("--generate", str(num), str(size))]
    command = [sys.executable, "-m", "faults.gdc_server", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@dataclass(frozen=True)
class Run:
    """Where to measure, how large and how often."""

    folder: Path
    landing: Path | None
    num_rounds: int
    num_slides: int
    num_files: int
    num_cases: int

    def tables(self) -> Answers:
        """The real landing folder's tables, ours and the script's."""
        if self.landing is None:
            return {}
        return {"tables": in_turns(("tables", "tables_pandas"), self.landing, self.folder, self.num_rounds)}

    def bags(self) -> Answers:
        """Slides to bags, at two sizes."""
        found: Answers = {}
        for number in (self.num_slides, TIMES * self.num_slides):
            landing = slides_landing(self.folder, number)
            found[f"{number} slides"] = in_turns(("bags", "h5_read"), landing, self.folder, self.num_rounds)
            shutil.rmtree(landing)
        return found

    def downloads(self) -> Answers:
        """Files from the replay server, at two sizes."""
        found: Answers = {}
        for number in (self.num_files, TIMES * self.num_files):
            with replay(number) as address:
                done = in_turns(("downloads", "plain_downloads"), address, self.folder, self.num_rounds)
            found[f"{number} large files, {number * SMALL_PER_LARGE} small"] = done
        return found

    def cohorts(self) -> Answers:
        """A synthetic cohort with every modality, at two sizes."""
        found: Answers = {}
        for number in (self.num_cases, TIMES * self.num_cases):
            landing = write_landing(
                self.folder / f"cohort-{number}", SyntheticConfig(num_cases=number, mean_patches=64, slide_dim=32)
            )
            found[f"{number} cases"] = in_turns(("cohort",), landing, self.folder, 1)
            shutil.rmtree(landing)
        return found


def ratios(found: dict[str, Answers]) -> Figures:
    """Return what is promised of these answers: times the other's seconds, and memory at four times the size."""
    figures: Figures = {}
    for part, (ours, other, name) in COMPARED.items():
        if found.get(part):
            last = list(found[part].values())[-1]
            figures[name] = last[other]["seconds"] / last[ours]["seconds"]
    for part, ours in (("bags", "bags"), ("downloads", "downloads"), ("cohorts", "cohort")):
        if found.get(part):
            small, large = (answers[ours]["peak_rss_mb"] for answers in found[part].values())
            figures |= {f"{part}_peak_rss_mb": large, f"{part}_rss_at_{TIMES}x": large / small}
    if found.get("tables"):
        figures["tables_peak_rss_mb"] = found["tables"]["tables"]["tables"]["peak_rss_mb"]
    return figures


def print_table(found: dict[str, Answers]) -> None:
    """Print what was measured, a line each."""
    sys.stdout.write("| input | done | seconds | MB/s | peak memory, MB |\n|---|---|---|---|---|\n")
    for size, answers in ((size, answers) for sizes in found.values() for size, answers in sizes.items()):
        for name, answer in answers.items():
            speed = f"{answer['bytes'] / 1e6 / answer['seconds']:.0f}" if "bytes" in answer else ""
            cells = (size, name.replace("_", " "), f"{answer['seconds']:.2f}", speed, f"{answer['peak_rss_mb']:.0f}")
            sys.stdout.write(f"| {' | '.join(cells)} |\n")
    for name, answer in found.get("tables", {}).get("tables", {}).items():
        sys.stdout.write(f"rows of {name}: {json.dumps(answer['rows'])}\n")


def main() -> None:
    """Print the table, what was skipped and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the size, once")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"parts {unknown}, expected some of {list(PARTS)}")
    data = Path(os.environ.get("MICE_DATA") or ROOT.parent / "shared" / "data")
    landing = data if (data / "raw" / "tcga_cdr").is_dir() else None
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), landing, *((1, 4, 4, 400) if options.quick else (3, 12, 12, 2_000)))
        found = {part: getattr(run, part)() for part in parts}
    if landing is None and "tables" in parts:
        sys.stdout.write(f"skipped: tables (no TCGA files in {data}: set MICE_DATA to the landing folder)\n")
    print_table(found)
    sys.stdout.write(json.dumps({key: round(value, 2) for key, value in ratios(found).items()}) + "\n")


if __name__ == "__main__":
    main()
