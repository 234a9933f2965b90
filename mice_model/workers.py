"""Folds are independent, so on a CPU each core trains its own: one process per core, one thread each. No science in here.

A process per core beats two threads in one: the network's operations are too small for threads to share (docs/decisions.md).
"""

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from feature_store.child_processes import end_with_parent, ended_on_error
from feature_store.home import Home
from feature_store.progress import log_to_stderr
from mice_model.artifacts import load_curve, network_path
from mice_model.data import open_study
from mice_model.evaluation import TrainingCurve
from mice_model.protocol import Run, finetune, pretrain
from mice_model.study import Study

STAGES: dict[str, Callable[[Run, int], list[TrainingCurve]]] = {"pretrain": pretrain, "finetune": finetune}


@dataclass(frozen=True)
class Task:
    """What a worker needs to open the same study: all of it plain data that can be sent to a process."""

    study: Study
    home: Home
    snapshot_id: int
    cohorts: tuple[str, ...]
    folder: Path
    num_workers: int = 0  # 0: one per core, or one in all where there is a GPU


def saved_curves(stage: str, task: Task, fold: int) -> list[TrainingCurve] | None:
    """Return a fold's curves if all its networks are there already, else None."""
    names = ("",) if stage == "pretrain" else task.study.evaluate
    found = [load_curve(network_path(task.folder, fold, name, seed)) for seed in task.study.seeds for name in names]
    return None if any(curve is None for curve in found) else [curve for curve in found if curve is not None]


def run_stage(stage: str, task: Task) -> list[TrainingCurve]:
    """Run a stage for every fold of the study that lacks a network and return all curves, folds in order."""
    saved = {fold: saved_curves(stage, task, fold) for fold in task.study.folds}
    done = [curve for curves in saved.values() for curve in curves or []]
    folds = [fold for fold, curves in saved.items() if curves is None]
    wanted = task.num_workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    workers = min(wanted, len(folds))
    if workers <= 1:
        return sorted(done + (_run_folds(stage, task, folds) if folds else []), key=_order)
    shares = [folds[index::workers] for index in range(workers)]
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    level = logging.getLogger("mice_model").getEffectiveLevel()
    with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(level,)) as pool, ended_on_error():
        found = [curve for part in pool.map(_run_folds, [stage] * workers, [task] * workers, shares) for curve in part]
    return sorted(done + found, key=_order)


def _order(curve: TrainingCurve) -> tuple[int, int, str]:
    return curve.fold, curve.seed, curve.cancer_type


def _prepare(level: int) -> None:
    end_with_parent()
    log_to_stderr(level)
    torch.set_num_threads(1)


def _run_folds(stage: str, task: Task, folds: list[int]) -> list[TrainingCurve]:
    with open_study(task.study, task.home, task.snapshot_id, task.cohorts) as data:
        run = Run(data, task.folder)
        return [curve for fold in folds for curve in STAGES[stage](run, fold)]
