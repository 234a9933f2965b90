"""Folds and seeds are independent, so on a CPU each core trains its own: a process per core, a thread each. No science here.

A process per core beats two threads in one: the network's operations are too small for threads to share (docs/decisions.md).
"""

import atexit
import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from threadpoolctl import threadpool_limits

from feature_store.child_processes import end_with_parent, ended_on_error
from feature_store.home import Home
from feature_store.progress import log_to_stderr, tracked
from mice_model.artifacts import load_curve, network_path
from mice_model.data import open_study
from mice_model.evaluation import TrainingCurve
from mice_model.protocol import Run, finetune, network_kinds_of, prepare, pretrain
from mice_model.study import Study

Stage = Callable[[Run, int, int], list[TrainingCurve]]
STAGES: dict[str, Stage] = {"prepare": prepare, "pretrain": pretrain, "finetune": finetune}


@dataclass(frozen=True)
class Task:
    """What a worker needs to open the same study: all of it plain data that can be sent to a process."""

    study: Study
    home: Home
    snapshot_id: int
    cohorts: tuple[str, ...]
    folder: Path
    num_workers: int = 0  # 0: one per core, or one in all where there is a GPU


def saved_curves(stage: str, task: Task, fold: int, seed: int) -> list[TrainingCurve] | None:
    """Return the curves of a fold and seed if all its networks are there already, else None."""
    if stage == "prepare":
        wanted = ["pipeline"] if task.study.cox_skip is None else ["pipeline", "skip"]
        return [] if all((task.folder / f"fold-{fold}" / f"{name}.json").is_file() for name in wanted) else None
    names = ("",) if stage == "pretrain" else task.study.evaluate
    kinds = network_kinds_of(task.study, seed)
    found = [load_curve(network_path(task.folder, fold, name, seed, kind)) for name in names for kind in kinds]
    return None if any(curve is None for curve in found) else [curve for curve in found if curve is not None]


def run_stage(stage: str, task: Task) -> list[TrainingCurve]:
    """Run a stage for every fold and seed of the study that lacks a network and return all curves, folds in order."""
    seeds = task.study.seeds[:1] if stage == "prepare" else task.study.seeds
    parts = [(fold, seed) for fold in task.study.folds for seed in seeds]
    missing = [part for part in parts if saved_curves(stage, task, *part) is None]
    wanted = task.num_workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    workers, what = min(wanted, len(missing)), f"{stage} of {task.study.name}"
    if workers <= 1:
        with _Open(task) as run:
            for part in tracked(missing, what, len(missing)):
                STAGES[stage](run.run, *part)
    else:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
        level = logging.getLogger("mice_model").getEffectiveLevel()
        with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(level, task)) as pool, ended_on_error():
            parts_done = as_completed([pool.submit(_run_part, stage, *part) for part in missing])
            for done in tracked(parts_done, what, len(missing)):
                done.result()
    curves = [saved_curves(stage, task, *part) for part in parts]
    return sorted([curve for found in curves for curve in found or []], key=_order)


def _order(curve: TrainingCurve) -> tuple[int, int, str]:
    return curve.fold, curve.seed, curve.cancer_type


class _Open:
    """A study that is opened when it is first needed, and once."""

    def __init__(self, task: Task) -> None:
        self.task, self.stack = task, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @cached_property
    def run(self) -> Run:
        """The study's data and the model version's folder."""
        task = self.task
        data = self.stack.enter_context(open_study(task.study, task.home, task.snapshot_id, task.cohorts))
        return Run(data, task.folder)


_of_worker: _Open | None = None


def _prepare(level: int, task: Task) -> None:
    global _of_worker  # noqa: PLW0603 - a worker process opens the study once for all the parts that it is given
    end_with_parent()
    log_to_stderr(level)
    torch.set_num_threads(1)
    threadpool_limits(1)
    _of_worker = _Open(task)
    atexit.register(_of_worker.stack.close)


def _run_part(stage: str, fold: int, seed: int) -> None:
    if _of_worker is None:
        raise RuntimeError("worker: not prepared, expected the initializer to have run")
    STAGES[stage](_of_worker.run, fold, seed)
