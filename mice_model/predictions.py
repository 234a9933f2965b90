"""An evaluation as rows of the store: per held-out case, per cancer type and model. The one module of the model that publishes.

What belongs here: the rows, their files in the model's folder, and their publication. Where figures come from is summary.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from feature_store.errors import StudyError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import Published, Write, publish
from feature_store.tables import EVALUATIONS, PREDICTIONS, Table
from feature_store.training_set import TrainingSet
from mice_model.evaluation import Evaluation
from mice_model.summary import MICE

_TABLES = (PREDICTIONS, EVALUATIONS)


def save_rows(folder: Path, evaluation: Evaluation, summary: Mapping[str, Any], training_set: TrainingSet) -> None:
    """Keep the rows in `folder`, to be published."""
    prediction_rows(evaluation, training_set).write_parquet(_path(folder, PREDICTIONS))
    evaluation_rows(evaluation, summary).write_parquet(_path(folder, EVALUATIONS))


def publish_rows(home: Home, folder: Path, model_version: str) -> Published:
    """Publish the rows saved in `folder`, in one transaction. Raises StudyError where there are none."""
    missing = [path.name for path in (_path(folder, table) for table in _TABLES) if not path.is_file()]
    if missing:
        raise StudyError(f"model {model_version}: no {missing[0]}, expected the evaluation's. Run the evaluation first.")
    writes = [Write(table, model_version, pl.read_parquet(_path(folder, table))) for table in _TABLES]
    return publish(Lake(home), writes, f"publish predictions of {model_version}")


def prediction_rows(evaluation: Evaluation, training_set: TrainingSet) -> pl.DataFrame:
    """Return a row per held-out case, with what the case lacked."""
    about = training_set.cases.select("case_id", "cohort").with_columns(
        missing_modalities=pl.Series(training_set.missing_modalities, dtype=pl.String)
    )
    frames = [
        pl.DataFrame(
            {
                "case_id": held.case_id,
                "fold": held.fold,
                "risk_score": held.risk_score[MICE],
                "survival": held.survival_bins.tolist(),
                "bin_edges_days": [held.bin_edges_days[fold] for fold in held.fold.tolist()],
                "experts": held.routing.tolist(),
            }
        ).with_columns(cancer_type=pl.lit(held.cancer_type))
        for held in evaluation.held_out
    ]
    rows = pl.concat(frames).join(about, on="case_id", how="left", maintain_order="left")
    return PREDICTIONS.conform(
        rows.with_columns(
            model_version=pl.lit(evaluation.model_version),
            study=pl.lit(evaluation.study),
            snapshot_id=pl.lit(evaluation.snapshot_id),
            endpoint=pl.lit(evaluation.endpoint),
            encoders=pl.lit(", ".join(f"{modality}={name}" for modality, name in evaluation.encoders.items())),
            protocol=pl.lit(evaluation.protocol),
        )
    )


def evaluation_rows(evaluation: Evaluation, summary: Mapping[str, Any]) -> pl.DataFrame:
    """Return a row per cancer type and model: its C-index with the interval."""
    rows = [
        {
            "model_version": evaluation.model_version,
            "study": evaluation.study,
            "snapshot_id": evaluation.snapshot_id,
            "training_set_id": evaluation.training_set_id,
            "cancer_type": held.cancer_type,
            "model": name,
            "c_index": found["c_index"],
            "c_index_low": found["low"],
            "c_index_high": found["high"],
            "num_cases": len(held.case_id),
            "num_events": int(held.event_observed.sum()),
            "protocol": evaluation.protocol,
        }
        for held in evaluation.held_out
        for name, found in summary["c_index"][held.cancer_type].items()
    ]
    return EVALUATIONS.conform(pl.DataFrame(rows))


def _path(folder: Path, table: Table) -> Path:
    return folder / f"{table.name}.parquet"
