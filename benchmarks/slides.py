"""How fast a slide's patches are found, decoded and encoded, against reading them one by one: the table of docs/slides.md.

A synthetic slide of 40,960 x 40,960 pixels (JPEG tiles, levels of downsample 1, 4 and 16, 0.25 microns per pixel) is cut into
patches of 256 pixels at half a micron. Plain is a loop over OpenSlide's read_region, as extraction scripts have it. The
decoders take turns with it, and their pixels are compared with its. Needs an otherwise idle machine for figures that last.
Run: python -m benchmarks.slides [--quick] (make bench NAME=slides).
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from faults.pyramids import write_pyramid
from feature_store.contract.slide_sources import PatchGrid
from feature_store.slides.decoding import Decoders
from feature_store.slides.prepare import Prepared, prepare
from feature_store.slides.slide_file import open_slide, read_facts
from feature_store.slides.tissue import read_low, tissue_mask

SIDE_PX = 40_960
PATCHES = PatchGrid(mpp=0.5, size_px=256)
NUM_ROUNDS, NUM_QUICK_ROUNDS = 5, 2
PER_ROUND = 320


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def part_of(found: Prepared, number: int) -> Prepared:
    """The slide with PER_ROUND of its patches, others each round: nothing is found in a cache."""
    chosen = slice(number * PER_ROUND, (number + 1) * PER_ROUND)
    return replace(found, grid=replace(found.grid, xy=found.grid.xy[chosen], tissue=found.grid.tissue[chosen]))


def plain(path: Path, found: Prepared) -> Iterator[NDArray[np.uint8]]:
    """Patch after patch with OpenSlide: the region, without its alpha, brought to the patch's size."""
    size, factor = found.grid.level_size_px, found.grid.level_size_px // found.grid.size_px
    with closing(openslide.OpenSlide(path)) as slide:
        for x, y in found.grid.xy.tolist():
            yield np.asarray(slide.read_region((x, y), found.grid.level, (size, size)).convert("RGB").reduce(factor))


def ours(path: Path, found: Prepared, decoders: Decoders) -> None:
    for _ in decoders.patches(path, found.grid, found.facts.downsamples[found.grid.level]):
        pass


def check_equal(path: Path, found: Prepared, decoders: Decoders) -> None:
    expected = np.stack(list(plain(path, found)))
    for places, pixels in decoders.patches(path, found.grid, found.facts.downsamples[found.grid.level]):
        if not np.array_equal(pixels, expected[places]):
            raise AssertionError("other pixels than OpenSlide's")


def decoding_speeds(path: Path, found: Prepared, num_rounds: int) -> dict[str, float]:
    """Return patches a second (medians of rounds) read plainly, by one process, and by a process per core."""
    cores = os.cpu_count() or 1
    taken: dict[str, list[float]] = {"plain": [], "one_process": [], "processes": []}
    with Decoders(0) as one, Decoders(cores) as many:
        check_equal(path, part_of(found, 0), many)  # and every process is up, with the slide open
        check_equal(path, part_of(found, 0), one)
        for number in range(1, num_rounds + 1):
            part = part_of(found, number)
            taken["plain"].append(seconds_of(lambda: sum(1 for _ in plain(path, part))))  # noqa: B023 - used within the turn
            taken["one_process"].append(seconds_of(lambda: ours(path, part, one)))  # noqa: B023
            taken["processes"].append(seconds_of(lambda: ours(path, part, many)))  # noqa: B023
            say(f"decoding, round {number} of {num_rounds}")
    return {name: PER_ROUND / statistics.median(seconds) for name, seconds in taken.items()}


def encoding_speeds(patches: NDArray[np.uint8], num_rounds: int) -> tuple[float, float, str]:
    """Return patches a second of the classical encoder and of a network of UNI's size without its weights, and what it ran on."""
    # imported here, because decoding processes import this module too and are measured without torch
    import torch  # noqa: PLC0415

    from mice_model.slide_embedding.classical import ClassicalEncoder  # noqa: PLC0415
    from mice_model.slide_embedding.network import NetworkEncoder  # noqa: PLC0415
    from mice_model.slide_embedding.uni import IMAGENET, VisionTransformer  # noqa: PLC0415

    uni = NetworkEncoder("uni", VisionTransformer(), lambda run, x: run(x), 1024, "0" * 64, IMAGENET)
    speeds = []
    for encoder in (ClassicalEncoder(), uni):
        batch = patches[: encoder.batch_size]
        encoder.encode(batch)
        taken = statistics.median(seconds_of(lambda: encoder.encode(batch)) for _ in range(num_rounds))  # noqa: B023
        speeds.append(len(batch) / taken)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return speeds[0], speeds[1], device


def peak_rss_mb() -> float:
    """The most memory this process has held, with that of a decoding process for each core."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + child * (os.cpu_count() or 1)) / 1024


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{NUM_QUICK_ROUNDS} rounds instead of {NUM_ROUNDS}")
    num_rounds = NUM_QUICK_ROUNDS if parser.parse_args().quick else NUM_ROUNDS
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "slide.tiff"
        say("writing the slide")
        write_pyramid(path, SIDE_PX, SIDE_PX)
        with closing(open_slide(path)) as slide:
            facts = read_facts(slide)
            mask_s = seconds_of(lambda: tissue_mask(read_low(slide, facts, 0.25), 0.25))
        prepare_s = seconds_of(lambda: prepare(path, PATCHES, 0.25))
        found = prepare(path, PATCHES, 0.25)
        speeds = decoding_speeds(path, found, num_rounds)
        patching_mb = peak_rss_mb()  # before any network is loaded
        patches = np.stack(list(plain(path, part_of(found, 0))))
    say("encoding")
    classical, uni, device = encoding_speeds(patches, num_rounds)
    rows = [
        (f"tissue mask of {SIDE_PX:,} x {SIDE_PX:,} pixels", f"{mask_s:.2f} s"),
        (f"header, mask and grid of {len(found.grid.xy):,} patches", f"{prepare_s:.2f} s"),
        ("decoding, plain loop over read_region", f"{speeds['plain']:.0f} patches/s"),
        ("decoding, ours, in one process", f"{speeds['one_process']:.0f} patches/s"),
        (f"decoding, ours, {os.cpu_count()} processes", f"{speeds['processes']:.0f} patches/s"),
        ("most memory while patching, all processes", f"{patching_mb:.0f} MB"),
        ("encoding, classical, one thread", f"{classical:.0f} patches/s"),
        (f"encoding, a network of UNI's size ({device})", f"{uni:.1f} patches/s"),
    ]
    sys.stdout.write("| what | figure |\n|---|---|\n" + "".join(f"| {what} | {figure} |\n" for what, figure in rows))
    line = {
        "vs_plain": round(speeds["processes"] / speeds["plain"], 2),
        "one_process_vs_plain": round(speeds["one_process"] / speeds["plain"], 2),
        "patches_per_s": round(speeds["processes"], 1),
        "plain_patches_per_s": round(speeds["plain"], 1),
        "peak_rss_mb": round(patching_mb),
        "tissue_mask_s": round(mask_s, 3),
        "classical_patches_per_s": round(classical, 1),
        "uni_patches_per_s": round(uni, 2),
        "num_patches": len(found.grid.xy),
        "cores": os.cpu_count(),
        "openslide": openslide.__library_version__,
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
