"""The training service's operations, each one call: plan, pre-train, fine-tune, evaluate, publish predictions.

What belongs here: putting the parts in order and where their results are kept. Dagster's assets and the CLI call these and add
nothing; what a step does is in protocol.py, workers.py, report.py.
"""

import json
import logging
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from feature_store.contract import Contract
from feature_store.errors import StudyError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import Published, Write, publish
from feature_store.tables import EVALUATIONS, PREDICTIONS
from feature_store.training_set import latest_snapshot, training_set_id
from mice_model.artifacts import code_hash, model_version, write_json
from mice_model.data import StudyData, open_study
from mice_model.evaluation import Evaluation, HeldOut, TrainingCurve
from mice_model.protocol import Run, check_study, score_held_out
from mice_model.report import write_report
from mice_model.study import Study
from mice_model.summary import summarise
from mice_model.text import ENCODER_NAME
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
        return Task(self.study, self.home.root, self.snapshot_id, self.cohorts, self.folder, self.num_workers)


def plan_training(study: Study, home: Home, contracts: Mapping[str, Contract], num_workers: int = 0) -> Plan:
    """Choose the newest snapshot of the study's cohorts; `contracts` maps cohort -> contract.

    Training that is done for an equal training set is found again by its content hash, whatever the snapshot's number.
    """
    cohorts = tuple(cohort for cohort, contract in contracts.items() if contract.name in study.contracts)
    if not cohorts:
        raise StudyError(f"study {study.name}: no cohort of contracts {study.contracts}. Check the names in cohorts/.")
    lake = Lake(home)
    snapshot = latest_snapshot(lake)
    set_id = training_set_id(lake, snapshot, cohorts, study.endpoint, study.split)
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
    """Check the study against its training set and count: cases, those with RNA, mutations, copy number and report, events."""
    with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        check_study(data)
        complete = data.training_set.rna.is_present & data.training_set.mutations.is_present
        complete &= data.training_set.copy_number.is_present & data.counted.is_present
        return {
            "cases": len(data.training_set),
            "events": int(data.training_set.event_observed.sum()),
            "cases_with_rna_mutations_copy_number_report": int(complete.sum()),
            "cases_with_slide": sum(bool(bags) for bags in data.training_set.bags),
        }


def pretrain_study(plan: Plan) -> list[TrainingCurve]:
    """Pre-train every fold and seed."""
    return _timed(plan, "pretrain")


def finetune_study(plan: Plan) -> list[TrainingCurve]:
    """Fine-tune every fold, seed and evaluated cancer type."""
    return _timed(plan, "finetune")


def evaluate_study(plan: Plan) -> dict[str, Any]:
    """Score the held-out cases with MICE and the baselines, write the report and the tables' rows; return the summary."""
    kept = plan.folder / "summary.json"
    if kept.is_file() and plan.report.is_file():
        summary: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return summary
    start = time.monotonic()
    with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        held_out, notes = score_held_out(Run(data, plan.folder))
        _keep_seconds(plan, "evaluate", time.monotonic() - start)
        evaluation = _evaluation(plan, data, held_out, notes)
    logger.info("bootstrapping %d cancer types", len(held_out))
    summary = summarise(evaluation)
    plan.report.parent.mkdir(parents=True, exist_ok=True)
    write_report(evaluation, plan.report, summary=summary)
    _prediction_rows(plan, evaluation).write_parquet(plan.folder / "predictions.parquet")
    _evaluation_rows(plan, evaluation, summary).write_parquet(plan.folder / "evaluations.parquet")
    write_json(kept, summary)
    return summary


def publish_predictions(plan: Plan) -> Published:
    """Write the held-out predictions and the evaluation's figures into the store, in one transaction."""
    writes = []
    for table in (PREDICTIONS, EVALUATIONS):
        path = plan.folder / f"{table.name}.parquet"
        if not path.is_file():
            raise StudyError(f"model {plan.model_version}: no {path.name}, expected the evaluation's. Run the evaluation first.")
        writes.append(Write(table, plan.model_version, pl.read_parquet(path)))
    return publish(Lake(plan.home), writes, f"publish predictions of {plan.model_version}")


def _timed(plan: Plan, stage: str) -> list[TrainingCurve]:
    start = time.monotonic()
    curves = run_stage(stage, plan.task)
    _keep_seconds(plan, stage, time.monotonic() - start)
    return curves


def _keep_seconds(plan: Plan, stage: str, seconds: float) -> None:
    """Remember how long a stage took the first time; a later call that found its work done says nothing about cost."""
    path = plan.folder / "seconds.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    if stage not in known:
        write_json(path, {**known, stage: round(seconds, 1)})


def _evaluation(plan: Plan, data: StudyData, held_out: list[HeldOut], notes: tuple[str, ...]) -> Evaluation:
    study = plan.study
    seconds = json.loads((plan.folder / "seconds.json").read_text())
    on_gpu = torch.cuda.is_available()
    curves = [curve for stage in STAGES for fold in study.folds for curve in saved_curves(stage, plan.task, fold) or []]
    settings = {
        "width": str(study.network.width),
        "modalities": ", ".join(study.features.modalities),
        "pre-training": f"{study.pretrain.epochs} epochs of batches of {study.pretrain.batch_size}",
        "fine-tuning": f"{study.finetune.epochs} epochs of batches of {study.finetune.batch_size}",
        "folds": ", ".join(map(str, study.folds)),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "backend": "torch",
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
        encoders=_encoders(data),
        seeds=study.seeds,
        settings=settings,
        wall_time_s=sum(seconds.values()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=_git_version(),
        held_out=tuple(held_out),
        curves=tuple(curves),
        coverage=tuple(data.coverage()),
        notes=notes,
    )


def _encoders(data: StudyData) -> dict[str, str]:
    encoders = {"report": ENCODER_NAME}
    slides = sorted({bag.encoder for bags in data.training_set.bags for bag in bags})
    if slides and "slide" in data.study.features.modalities:
        encoders["slide"] = slides[0]
    return encoders


def _git_version() -> str:
    """Return commit and dirtiness of the checkout, or the code's content hash where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return f"code {code_hash()}"
    return f"{done.stdout.strip()}, code {code_hash()}"


def _prediction_rows(plan: Plan, evaluation: Evaluation) -> pl.DataFrame:
    """Return a row per held-out case; what the case lacked comes from the snapshot's modality matrix."""
    with Lake(plan.home).reader(plan.snapshot_id) as connection:
        about = pl.DataFrame(
            connection.execute(
                "SELECT c.case_id, c.cohort, coalesce(string_agg(m.modality, ',' ORDER BY m.modality) "
                "FILTER (m.state <> 'present'), '') AS missing_modalities FROM cases c "
                "JOIN modality_matrix m USING (case_id) GROUP BY ALL"
            ).to_arrow_table()
        )
    frames = []
    for held in evaluation.held_out:
        edges = dict(zip(plan.study.folds, held.bin_edges_days, strict=True))
        frame = pl.DataFrame(
            {
                "case_id": held.case_id,
                "fold": held.fold,
                "risk_score": held.risk_score["mice"],
                "survival": held.survival_bins.tolist(),
                "bin_edges_days": [list(edges[int(fold)]) for fold in held.fold],
                "experts": held.routing.tolist(),
            }
        )
        frames.append(frame.with_columns(cancer_type=pl.lit(held.cancer_type)))
    rows = pl.concat(frames).join(about, on="case_id", how="left", maintain_order="left")
    rows = rows.with_columns(
        model_version=pl.lit(plan.model_version),
        study=pl.lit(plan.study.name),
        snapshot_id=pl.lit(plan.snapshot_id),
        endpoint=pl.lit(plan.study.endpoint),
        encoders=pl.lit(", ".join(f"{k}={v}" for k, v in evaluation.encoders.items())),
        protocol=pl.lit(evaluation.protocol),
    )
    return PREDICTIONS.conform(rows)


def _evaluation_rows(plan: Plan, evaluation: Evaluation, summary: dict[str, Any]) -> pl.DataFrame:
    rows = []
    for held in evaluation.held_out:
        for name, found in summary["c_index"][held.cancer_type].items():
            rows.append(
                {
                    "model_version": plan.model_version,
                    "study": plan.study.name,
                    "snapshot_id": plan.snapshot_id,
                    "training_set_id": plan.training_set_id,
                    "cancer_type": held.cancer_type,
                    "model": name,
                    "c_index": found["c_index"],
                    "c_index_low": found["low"],
                    "c_index_high": found["high"],
                    "num_cases": len(held.case_id),
                    "num_events": int(held.event_observed.sum()),
                    "protocol": evaluation.protocol,
                }
            )
    return EVALUATIONS.conform(pl.DataFrame(rows))
