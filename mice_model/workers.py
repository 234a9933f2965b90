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

from feature_store.home import Home
from mice_model.data import open_study
from mice_model.evaluation import TrainingCurve
from mice_model.protocol import Run, finetune, pretrain
from mice_model.study import Study

STAGES: dict[str, Callable[[Run, int], list[TrainingCurve]]] = {"pretrain": pretrain, "finetune": finetune}


@dataclass(frozen=True)
class Task:
    """What a worker needs to open the same study: all of it plain data that can be sent to a process."""

    study: Study
    home: Path
    snapshot_id: int
    cohorts: tuple[str, ...]
    folder: Path


def run_stage(stage: str, task: Task, num_workers: int | None = None) -> list[TrainingCurve]:
    """Run a stage for every fold of the study and return all curves, folds in order."""
    folds = list(task.study.folds)
    workers = num_workers or (1 if torch.cuda.is_available() else min(len(folds), os.cpu_count() or 1))
    if workers == 1:
        return _run_folds(stage, task, folds)
    shares = [folds[index::workers] for index in range(workers)]
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    level = logging.getLogger().getEffectiveLevel()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, initargs=(level,)) as pool:
        found = [curve for part in pool.map(_run_folds, [stage] * workers, [task] * workers, shares) for curve in part]
    return sorted(found, key=lambda curve: (curve.fold, curve.seed, curve.cancer_type))


def _prepare(level: int) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)


def _run_folds(stage: str, task: Task, folds: list[int]) -> list[TrainingCurve]:
    with open_study(task.study, Home(task.home), task.snapshot_id, task.cohorts) as data:
        run = Run(data, task.folder)
        return [curve for fold in folds for curve in STAGES[stage](run, fold)]
