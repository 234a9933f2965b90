"""Batches of random patches for benchmarks/bags.py: threads in the process over our file, and `.pt` in a torch DataLoader."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.bag_formats import Array, Pt16
from benchmarks.bag_own import Ours
from feature_store.bag_record import BagRecord, SlideBag

BATCH_SIZE, NUM_WORKERS, NUM_BATCHES, WARM_UP = 4, 2, 24, 4


class PtPatches(Dataset[torch.Tensor]):
    """A random pick of `count` patches from each `.pt` file, which is mapped for it or read whole."""

    def __init__(self, files: Sequence[str], sizes: Sequence[int], count: int, *, is_mapped: bool) -> None:
        self.files, self.sizes, self.count, self.is_mapped = files, sizes, count, is_mapped

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        picked = np.sort(np.random.default_rng(index).choice(self.sizes[index], self.count, replace=False))
        return torch.load(self.files[index], mmap=self.is_mapped)[torch.from_numpy(picked)]


def thread_batches(ours: Ours, slides: Sequence[int], count: int, *, is_window: bool) -> Iterator[torch.Tensor]:
    """Batches filled by threads into reused buffers; a batch is good until the next one is asked for."""
    records = [ours.records[slide] for slide in slides]
    buffers = [np.ones((BATCH_SIZE, count, records[0].dim), np.float16) for _ in range(NUM_WORKERS + 2)]
    rng = np.random.default_rng(0)

    def fill(record: BagRecord, out: Array, seed: int) -> None:
        own = np.random.default_rng(seed)
        if is_window:
            ours.reader.window(record, int(own.integers(record.num_patches - count + 1)), count, out)
        else:
            ours.reader.rows(record, own.choice(record.num_patches, count, replace=False), out)

    with ThreadPoolExecutor(NUM_WORKERS) as pool:

        def start(number: int) -> list[Future[None]]:
            batch = records[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
            seeds = rng.integers(2**32, size=BATCH_SIZE)
            buffer = buffers[number % len(buffers)]
            return [pool.submit(fill, *each) for each in zip(batch, buffer, seeds, strict=True)]

        num_batches = len(slides) // BATCH_SIZE
        ahead = deque(start(number) for number in range(min(NUM_WORKERS, num_batches)))
        for number in range(num_batches):
            if number + NUM_WORKERS < num_batches:
                ahead.append(start(number + NUM_WORKERS))
            for future in ahead.popleft():
                future.result()
            yield torch.from_numpy(buffers[number % len(buffers)])


def pt_batches(
    pt: Pt16, bags: Sequence[SlideBag], slides: Sequence[int], count: int, *, is_mapped: bool
) -> Iterator[torch.Tensor]:
    files = [str(pt.files[slide]) for slide in slides]
    dataset = PtPatches(files, [len(bags[slide].embedding) for slide in slides], count, is_mapped=is_mapped)
    return iter(DataLoader(dataset, BATCH_SIZE, num_workers=NUM_WORKERS, multiprocessing_context="spawn"))


def batches_per_second(ours: Ours, pt: Pt16, bags: Sequence[SlideBag], count: int, num_rounds: int) -> dict[str, float]:
    """Return medians over rounds in which all take turns; the workers' start and the first batches are not counted."""
    large = [slide for slide, bag in enumerate(bags) if len(bag.embedding) >= count]
    slides = list(np.random.default_rng(2).choice(large, BATCH_SIZE * NUM_BATCHES))
    ways: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "ours_random": lambda: thread_batches(ours, slides, count, is_window=False),
        "ours_window": lambda: thread_batches(ours, slides, count, is_window=True),
        "pt_dataloader_mapped": lambda: pt_batches(pt, bags, slides, count, is_mapped=True),
        "pt_dataloader_whole": lambda: pt_batches(pt, bags, slides, count, is_mapped=False),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, batches in ways.items():
            timed = 0
            for timed, batch in enumerate(batches()):
                if timed == WARM_UP:
                    start = time.perf_counter()
                del batch
            speeds[name].append((timed - WARM_UP) / (time.perf_counter() - start))
    return {name: round(statistics.median(values), 1) for name, values in speeds.items()}
