"""Timing shared by the kernel benchmarks: best of several calls on a CPU, medians by events on a GPU."""

import statistics
import time
from collections.abc import Callable

import torch


def best_seconds(call: Callable[[], object], rounds: int) -> float:
    """Shortest of `rounds` calls, after one that warms up where there are several."""
    if rounds > 1:
        call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def median_ms(call: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Median milliseconds of a call: CUDA events around each on a GPU, the clock elsewhere."""
    for _ in range(min(3, rounds)):
        call()
    if device.type != "cuda":
        return statistics.median(best_seconds(call, 1) for _ in range(rounds)) * 1e3
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
