"""The training service's operations, each one call: plan, pre-train, fine-tune, evaluate, publish predictions.

What belongs here: putting the parts in order and where their results are kept. Dagster's assets and the CLI call these and add
nothing; what a step does is in protocol.py, workers.py, report.py, predictions.py.
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from feature_store.contract import Contract
from feature_store.home import Home
from feature_store.publish import Published
from mice_model.artifacts import model_version, write_json
from mice_model.code_version import code_hash, code_version, evaluation_hash
from mice_model.data import StudyData, newest_training_set, open_study
from mice_model.evaluation import Evaluation, HeldOut, TrainingCurve
from mice_model.experiments.page import kept_comparisons
from mice_model.experiments.watch import watch
from mice_model.held_out_slides import held_out_slides
from mice_model.predictions import publish_rows, save_rows
from mice_model.protocol import Run, check_study
from mice_model.report import write_report
from mice_model.scoring import score_held_out
from mice_model.study import Study, cohorts_of
from mice_model.summary import summarise
from mice_model.workers import STAGES, Task, run_stage, saved_curves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A model version to make: a study on the training set of one snapshot."""

    study: Study
    home: Home
    snapshot_id: int
    cohorts: tuple[str, ...]
    training_set_id: str
    model_version: str
    num_workers: int = 0

    @property
    def folder(self) -> Path:
        """Return the model version's folder."""
        return self.home.models / self.model_version

    @property
    def report(self) -> Path:
        """Return where the HTML report is written."""
        return self.home.reports / f"{self.study.name}-{self.model_version}.html"

    @property
    def task(self) -> Task:
        """Return what a worker process needs."""
        return Task(self.study, self.home, self.snapshot_id, self.cohorts, self.folder, self.num_workers)


def plan_training(study: Study, home: Home, contracts: Mapping[str, Contract], num_workers: int = 0) -> Plan:
    """Choose the newest snapshot of the study's cohorts; `contracts` maps cohort -> contract.

    Training that is done for an equal training set is found again by its content hash, whatever the snapshot's number.
    """
    cohorts = cohorts_of(study, contracts)
    snapshot, set_id = newest_training_set(study, home, cohorts)
    plan = Plan(study, home, snapshot, cohorts, set_id, model_version(study, set_id), num_workers)
    kept = plan.folder / "plan.json"
    if kept.is_file():  # the snapshot that this version was first planned on holds the same rows
        return replace(plan, snapshot_id=json.loads(kept.read_text(encoding="utf-8"))["snapshot_id"])
    write_json(
        kept,
        {
            "snapshot_id": snapshot,
            "training_set_id": set_id,
            "study": study.model_dump(mode="json"),
            "code": code_hash(),
        },
    )
    return plan


def count_training_cases(plan: Plan) -> dict[str, int]:
    """Check the study against its training set and count its cases and events; the counts are kept."""
    kept = plan.folder / "counts.json"
    if not kept.is_file():
        with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
            check_study(data)
            write_json(kept, data.counts())
    counts: dict[str, int] = json.loads(kept.read_text(encoding="utf-8"))
    return counts


def pretrain_study(plan: Plan) -> list[TrainingCurve]:
    """Fit each fold's feature pipeline and skip, then pre-train every fold and seed."""
    with _timed(plan, "prepare"):
        run_stage("prepare", plan.task)
    with _timed(plan, "pretrain"):
        return run_stage("pretrain", plan.task)


def finetune_study(plan: Plan) -> list[TrainingCurve]:
    """Fine-tune every fold, seed and evaluated cancer type."""
    with _timed(plan, "finetune"):
        return run_stage("finetune", plan.task)


def evaluate_study(plan: Plan) -> dict[str, Any]:
    """Score the held-out cases with MICE and the baselines, write the report and the tables' rows; return the summary.

    What is there is returned, unless other code made it: then the networks are scored anew, and not trained.
    """
    kept = plan.folder / "summary.json"
    if kept.is_file() and plan.report.is_file():
        summary: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if summary.get("code") == evaluation_hash():
            return summary
    with _timed(plan, "evaluate"), open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        run = Run(data, plan.folder)
        held_out, notes = score_held_out(run)
        notes = (*notes, *watch(run))
    evaluation = _evaluation(plan, data, held_out, notes)
    logger.info("bootstrapping %d cancer types", len(held_out))
    summary = {**summarise(evaluation), "code": evaluation_hash()}
    slides, comparisons = held_out_slides(data, held_out, plan.home), kept_comparisons(plan.home, plan.model_version)
    write_report(evaluation, summary, plan.report, slides, comparisons)
    save_rows(plan.folder, evaluation, summary, data.training_set)
    write_json(kept, summary)
    return summary


def publish_predictions(plan: Plan) -> Published:
    """Write the held-out predictions and the evaluation's figures into the store, in one transaction."""
    return publish_rows(plan.home, plan.folder, plan.model_version)


@contextmanager
def _timed(plan: Plan, stage: str) -> Iterator[None]:
    """Add the time inside to what the stage has taken so far, also if it fails there; only a killed process leaves none."""
    start = time.monotonic()
    try:
        yield
    finally:
        path = plan.folder / "seconds.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_json(path, {**known, stage: round(known.get(stage, 0.0) + time.monotonic() - start, 3)})


def _evaluation(plan: Plan, data: StudyData, held_out: list[HeldOut], notes: tuple[str, ...]) -> Evaluation:
    study = plan.study
    seconds = json.loads((plan.folder / "seconds.json").read_text(encoding="utf-8"))
    on_gpu = torch.cuda.is_available()
    parts = [(stage, fold, seed) for stage in STAGES for fold in study.folds for seed in study.seeds]
    curves = [curve for stage, fold, seed in parts for curve in saved_curves(stage, plan.task, fold, seed) or []]
    settings = {
        "width": str(study.network.width),
        "modalities": ", ".join(study.features.modalities),
        "pre-training": f"{study.pretrain.epochs} epochs of batches of {study.pretrain.batch_size}",
        "fine-tuning": f"{study.finetune.epochs} epochs of batches of {study.finetune.batch_size}",
        "folds": ", ".join(map(str, study.folds)),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "backend": ", ".join(sorted({name for curve in curves for name in curve.kernels})),
        "seconds": ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()),
        "torch": torch.__version__,
    }
    return Evaluation(
        study=study.name,
        model_version=plan.model_version,
        training_set_id=plan.training_set_id,
        snapshot_id=plan.snapshot_id,
        endpoint=study.endpoint,
        protocol=study.protocol,
        encoders=data.encoders,
        seeds=study.seeds,
        settings=settings,
        wall_time_s=sum(seconds.values()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=code_version(),
        held_out=tuple(held_out),
        curves=tuple(curves),
        coverage=tuple(data.coverage()),
        notes=(*data.notes, *notes, *_unchosen_epochs(study, curves)),
    )


def _unchosen_epochs(study: Study, curves: Sequence[TrainingCurve]) -> list[str]:
    """Return a note for every kind of fit whose epoch could not be chosen as the study says."""
    unchosen: dict[str, list[str]] = {}
    for curve in curves:
        config = study.pretrain if curve.stage == "pretrain" else study.finetune
        if config.epoch_selection == "inner_validation" and curve.inner_c_index and all(map(math.isnan, curve.inner_c_index)):
            which = f"{curve.stage} of {curve.cancer_type or 'all cancer types'}"
            unchosen.setdefault(which, []).append(f"fold {curve.fold} seed {curve.seed}")
    return [
        f"epoch not chosen for {which} ({', '.join(fits)}): too few inner events; the last was kept."
        for which, fits in unchosen.items()
    ]
