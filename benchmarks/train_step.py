"""How fast training is: the batched step against a loop over cases, an epoch, and what two cores are best used for.

Random inputs of the widths that the preset `default` gives on TCGA, and of the paper's; no bags. Run: python -m
benchmarks.train_step (make bench NAME=train_step).
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mice_model.batch import Batch
from mice_model.losses import contrastive_loss, survival_nll, total_loss
from mice_model.model import MICE, MiceOutput
from mice_model.study import Study, load_study, with_preset

STUDY = Path(__file__).parent.parent / "studies" / "tcga.yaml"
INPUT_DIMS = {"omics": 403, "report": 192, "clinical": 19}
PAPER_DIMS = {"omics": 20_245, "report": 768}
NUM_CANCER_TYPES = 30
STEPS, WARM_UP = 12, 3
LOOP_ROUNDS = 3
EPOCH_CASES = 5000
PAPER_BATCH = 256  # of the paper's width: its own batch of 4 cases would take 1,250 steps an epoch


def random_batch(size: int, generator: torch.Generator, dims: Mapping[str, int] = INPUT_DIMS) -> Batch:
    """A batch of random cases, one in five without each modality."""
    present = {name: torch.rand(size, generator=generator) > 0.2 for name in dims}
    return Batch(
        case_ids=[str(i) for i in range(size)],
        cancer_type_B=torch.randint(NUM_CANCER_TYPES, (size,), generator=generator),
        vectors={n: torch.randn(size, d, generator=generator) * present[n][:, None] for n, d in dims.items()},
        present=present,
        patches_Pd=torch.empty(0, 1),
        cu_seqlens=torch.zeros(1, dtype=torch.int32),
        bag_case_S=torch.empty(0, dtype=torch.int64),
        duration_days_B=torch.rand(size, generator=generator) * 1000 + 1,
        event_observed_B=torch.rand(size, generator=generator) > 0.5,
        time_bin_B=torch.randint(5, (size,), generator=generator),
        offset_B=torch.zeros(size),
    )


def one_case(batch: Batch, row: int) -> Batch:
    """The batch of one of its cases."""
    pick = slice(row, row + 1)
    return Batch(
        case_ids=batch.case_ids[pick],
        cancer_type_B=batch.cancer_type_B[pick],
        vectors={name: values[pick] for name, values in batch.vectors.items()},
        present={name: there[pick] for name, there in batch.present.items()},
        patches_Pd=batch.patches_Pd,
        cu_seqlens=batch.cu_seqlens,
        bag_case_S=batch.bag_case_S,
        duration_days_B=batch.duration_days_B[pick],
        event_observed_B=batch.event_observed_B[pick],
        time_bin_B=batch.time_bin_B[pick],
        offset_B=None if batch.offset_B is None else batch.offset_B[pick],
    )


def batched_loss(model: MICE, batch: Batch) -> Tensor:
    """Survival and contrastive loss of the batch at once."""
    return total_loss(model(batch), batch, 2.0).total


def looped_loss(model: MICE, batch: Batch) -> Tensor:
    """The same loss by a loop over cases, as the release computes it: the network sees one case at a time."""
    outputs: list[MiceOutput] = [model(one_case(batch, row)) for row in range(len(batch))]
    hazards, survival = (torch.cat([getattr(one, name) for one in outputs]) for name in ("hazards_BK", "survival_BK"))
    features = {name: torch.cat([one.modality_features[name] for one in outputs]) for name in batch.vectors}
    by_case = survival_nll(hazards, survival, batch.time_bin_B, batch.event_observed_B)
    return by_case + 2.0 * contrastive_loss(features, {name: batch.present[name] for name in features})


def loop_ratio(size: int) -> tuple[float, float]:
    """Return seconds of a step at a batch size, batched and looped, without an optimiser, in turns on one thread; medians."""
    torch.set_num_threads(1)
    model, batch = new_model(load_study(STUDY), INPUT_DIMS), random_batch(size, torch.Generator().manual_seed(0))
    seconds: dict[Callable[[MICE, Batch], Tensor], list[float]] = {batched_loss: [], looped_loss: []}
    for _ in range(LOOP_ROUNDS + 1):
        for loss, times in seconds.items():
            start = time.perf_counter()
            model.zero_grad(set_to_none=True)
            loss(model, batch).backward()
            times.append(time.perf_counter() - start)
    batched, looped = (statistics.median(times[1:]) for times in seconds.values())
    return batched, looped


def new_model(study: Study, dims: Mapping[str, int]) -> MICE:
    """A network of the study's size with random weights."""
    torch.manual_seed(0)
    return MICE(study.model_config_for(tuple(f"type{i}" for i in range(NUM_CANCER_TYPES)), dict(dims)))


def paper_epoch_seconds() -> float:
    """Seconds of an epoch over 5,000 cases at the paper's sizes on two threads, by the median step."""
    plain = {"name": "paper", "description": "", "contracts": ["x"], "split": "x", "evaluate": ["x"], "folds": [0]}
    study = Study.model_validate(with_preset({**plain, "preset": "paper"}))
    return step_seconds(2, study, PAPER_DIMS, PAPER_BATCH, 5) * EPOCH_CASES / PAPER_BATCH


def default_step_seconds(num_threads: int) -> float:
    """Median seconds of a step of the shipped study."""
    study = load_study(STUDY)
    return step_seconds(num_threads, study, INPUT_DIMS, study.pretrain.batch_size, STEPS)


def step_seconds(num_threads: int, study: Study, dims: Mapping[str, int], size: int, steps: int) -> float:
    """Median seconds of a forward, loss, backward and AdamW step."""
    torch.set_num_threads(num_threads)
    generator = torch.Generator().manual_seed(0)
    model = new_model(study, dims)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    times = []
    for _ in range(WARM_UP + steps):
        batch = random_batch(size, generator, dims)
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        batched_loss(model, batch).backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def main() -> None:
    """Print the table and the JSON line."""
    context = multiprocessing.get_context("spawn")
    batch_size = load_study(STUDY).pretrain.batch_size
    seconds = {}
    for label, processes, threads in (
        ("1 process, 1 thread", 1, 1),
        ("1 process, 2 threads", 1, 2),
        ("2 processes, 1 thread each", 2, 1),
    ):
        with context.Pool(processes) as pool:
            seconds[label] = statistics.mean(pool.map(default_step_seconds, [threads] * processes, chunksize=1)) / processes
        sys.stdout.write(f"{label:<28}{seconds[label] * 1e3:>8.0f} ms a step of {batch_size} cases\n")
    one, threads, processes = seconds.values()
    with context.Pool(1) as pool:
        loops = {size: pool.apply(loop_ratio, (size,)) for size in (4, 64)}
    for size, (batched, looped) in loops.items():
        sys.stdout.write(f"batch of {size:<3} batched {batched * 1e3:>6.0f} ms, a loop over cases {looped * 1e3:>6.0f} ms\n")
    with context.Pool(1) as pool:
        paper = pool.apply(paper_epoch_seconds)
    sys.stdout.write(
        f"an epoch of {EPOCH_CASES} cases: default {threads * EPOCH_CASES / batch_size:.1f} s, paper {paper:.1f} s\n"
    )
    figures = {
        "step_ms_one_thread": round(one * 1e3, 1),
        "step_ms_two_threads": round(threads * 1e3, 1),
        "step_ms_two_processes": round(processes * 1e3, 1),
        "processes_vs_threads": round(threads / processes, 2),
        "vs_loop_at_4": round(loops[4][1] / loops[4][0], 2),
        "vs_loop": round(loops[64][1] / loops[64][0], 2),
        "epoch_s_5000_cases": round(threads * EPOCH_CASES / batch_size, 1),
        "epoch_s_5000_cases_one_thread": round(one * EPOCH_CASES / batch_size, 1),
        "epoch_s_5000_cases_paper": round(paper, 1),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
