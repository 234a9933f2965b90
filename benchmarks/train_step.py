"""How fast one training step is, and what two cores are best used for: two threads in one process, or a process each.

Random inputs of the shipped `tcga` study's widths, no bags. Run: python -m benchmarks.train_step (make bench NAME=train_step).
"""

import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import torch

from mice_model.batch import Batch
from mice_model.losses import total_loss
from mice_model.model import MICE
from mice_model.study import load_study

STUDY = Path(__file__).parent.parent / "studies" / "tcga.yaml"
INPUT_DIMS = {"omics": 1901, "report": 64, "clinical": 8}
NUM_CANCER_TYPES = 30
STEPS, WARM_UP = 12, 3


def random_batch(size: int, generator: torch.Generator) -> Batch:
    """A batch of random cases, one in five without each modality."""
    present = {name: torch.rand(size, generator=generator) > 0.2 for name in INPUT_DIMS}
    return Batch(
        case_ids=[str(i) for i in range(size)],
        cancer_type_B=torch.randint(NUM_CANCER_TYPES, (size,), generator=generator),
        vectors={n: torch.randn(size, d, generator=generator) * present[n][:, None] for n, d in INPUT_DIMS.items()},
        present=present,
        patches_Pd=torch.empty(0, 1),
        cu_seqlens=torch.zeros(1, dtype=torch.int32),
        bag_case_S=torch.empty(0, dtype=torch.int64),
        duration_days_B=torch.rand(size, generator=generator) * 1000 + 1,
        event_observed_B=torch.rand(size, generator=generator) > 0.5,
        time_bin_B=torch.randint(5, (size,), generator=generator),
    )


def step_seconds(num_threads: int) -> float:
    """Median seconds of a forward, loss, backward and AdamW step."""
    torch.set_num_threads(num_threads)
    study = load_study(STUDY)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    types = tuple(f"type{i}" for i in range(NUM_CANCER_TYPES))
    model = MICE(study.model_config_for(types, INPUT_DIMS))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    times = []
    for _ in range(WARM_UP + STEPS):
        batch = random_batch(study.pretrain.batch_size, generator)
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        total_loss(model(batch), batch, study.pretrain.alpha).total.backward()
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
            seconds[label] = statistics.mean(pool.map(step_seconds, [threads] * processes, chunksize=1)) / processes
        sys.stdout.write(f"{label:<28}{seconds[label] * 1e3:>8.0f} ms a step of {batch_size} cases\n")
    one, threads, processes = seconds.values()
    figures = {
        "step_ms_one_thread": round(one * 1e3, 1),
        "step_ms_two_threads": round(threads * 1e3, 1),
        "step_ms_two_processes": round(processes * 1e3, 1),
        "processes_vs_threads": round(threads / processes, 2),
        "epoch_s_5000_cases": round(one * 5000 / batch_size, 1),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
