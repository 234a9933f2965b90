"""The numbers of an evaluation: computed once, printed by the CLI as JSON and set in the report.

What belongs here: which C-indices, intervals and paired differences are reported, per cancer type and as their mean.
The arithmetic is in metrics.py, the words and figures in report.py. Everything returned is plain JSON (nan becomes
None).
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from mice_model.evaluation import Evaluation, HeldOut
from mice_model.metrics import (
    fold_mean_concordance,
    log_rank_p,
    paired_difference,
    percentile_interval,
    resampled_concordance,
    risk_groups,
)
from mice_model.resampling import FloatArray

MICE = "mice"
MEAN = "mean"
# The order in which models are shown; any other name follows, sorted.
MODEL_ORDER = (MICE, "cox_clinical", "cox_rna", "cox_clinical_rna", "rsf")


def model_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the names of all scored models, MICE first."""
    found = {name for held_out in evaluation.held_out for name in held_out.risk_score}
    return (*(name for name in MODEL_ORDER if name in found), *sorted(found.difference(MODEL_ORDER)))


def summarise(evaluation: Evaluation, num_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return the figures of an evaluation, keyed by cancer type and `mean`.

    `c_index`: {cancer type or "mean": {model: {c_index, low, high}}}; the mean row also has `num_cancer_types`, over
    how many a model has a figure. `paired`: {cancer type or "mean": {baseline: {difference, low, high, p_value}}},
    MICE minus the baseline on the same resamples; the mean row compares over the cancer types both models have.
    `cohorts`: cases, events, folds and folds without a comparable pair. `log_rank_p`: high against low risk.
    C-indices are means over folds; intervals are 95% patient bootstraps within folds with fitted models held fixed.
    ValueError without any cancer type, or where `mice` was not scored.
    """
    if not evaluation.held_out:
        raise ValueError("evaluation: 0 cancer types with held-out cases, expected at least one")
    points, samples = {}, {}
    for held_out in evaluation.held_out:
        if MICE not in held_out.risk_score:
            raise ValueError(f"{held_out.cancer_type}: scored {sorted(held_out.risk_score)}, expected {MICE!r} among them")
        points[held_out.cancer_type] = _points(held_out)
        samples[held_out.cancer_type] = resampled_concordance(
            held_out.duration_days,
            held_out.event_observed,
            held_out.risk_score,
            held_out.fold,
            num_samples=num_bootstrap,
            seed=(seed, zlib.crc32(held_out.cancer_type.encode())),  # each cancer type has draws of its own
        )
    models = model_names(evaluation)
    c_index = {
        cancer_type: {name: _with_interval(row[name], samples[cancer_type][name]) for name in models if name in row}
        for cancer_type, row in points.items()
    }
    paired = {
        cancer_type: {name: _paired([cancer_type], name, points, samples) for name in row if name != MICE}
        for cancer_type, row in c_index.items()
    }
    defined = {name: [c for c, row in points.items() if name in row and not math.isnan(row[name])] for name in models}
    c_index[MEAN] = {name: _mean_with_interval(defined[name], name, points, samples) for name in models}
    paired[MEAN] = {
        name: _paired([c for c in defined[name] if c in defined[MICE]], name, points, samples) for name in models if name != MICE
    }
    plain: dict[str, Any] = _plain(
        {
            "model_version": evaluation.model_version,
            "training_set_id": evaluation.training_set_id,
            "snapshot_id": evaluation.snapshot_id,
            "endpoint": evaluation.endpoint,
            "num_bootstrap": num_bootstrap,
            "bootstrap_seed": seed,
            "models": list(models),
            "cohorts": {held_out.cancer_type: _cohort(held_out) for held_out in evaluation.held_out},
            "c_index": c_index,
            "paired": paired,
            "log_rank_p": {held_out.cancer_type: _log_rank(held_out) for held_out in evaluation.held_out},
        }
    )
    return plain


def _points(held_out: HeldOut) -> dict[str, float]:
    return {
        name: fold_mean_concordance(held_out.duration_days, held_out.event_observed, risk, held_out.fold).mean
        for name, risk in held_out.risk_score.items()
    }


def _cohort(held_out: HeldOut) -> dict[str, int]:
    risk = held_out.risk_score[MICE]
    folds = fold_mean_concordance(held_out.duration_days, held_out.event_observed, risk, held_out.fold)
    return {
        "num_cases": len(held_out.duration_days),
        "num_events": int(held_out.event_observed.sum()),
        "num_folds": len(folds.by_fold),
        "num_undefined_folds": folds.num_undefined,
    }


def _log_rank(held_out: HeldOut) -> float:
    is_high = risk_groups(held_out.risk_score[MICE], held_out.fold)
    return log_rank_p(held_out.duration_days, held_out.event_observed, is_high)


def _with_interval(point: float, samples: FloatArray) -> dict[str, Any]:
    return {"c_index": point, **asdict(percentile_interval(samples))}


def _mean_with_interval(
    cancer_types: list[str], name: str, points: Mapping[str, Any], samples: Mapping[str, Any]
) -> dict[str, Any]:
    """Average over cancer types, all of one weight; resample s of the mean is the mean of their resamples s."""
    if not cancer_types:
        return {"c_index": math.nan, "low": math.nan, "high": math.nan, "num_cancer_types": 0}
    point = float(np.mean([points[c][name] for c in cancer_types]))
    mean_samples = np.mean([samples[c][name] for c in cancer_types], axis=0)
    return {**_with_interval(point, mean_samples), "num_cancer_types": len(cancer_types)}


def _paired(cancer_types: list[str], name: str, points: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    """Return MICE minus `name`, averaged over cancer types."""
    if not cancer_types:
        return {"difference": math.nan, "low": math.nan, "high": math.nan, "p_value": math.nan, "num_cancer_types": 0}
    difference = float(np.mean([points[c][MICE] - points[c][name] for c in cancer_types]))
    sampled = np.mean([samples[c][MICE] - samples[c][name] for c in cancer_types], axis=0)
    return {**asdict(paired_difference(difference, sampled)), "num_cancer_types": len(cancer_types)}


def _plain(value: Any) -> Any:
    """Return `value` with nan as None, since JSON has no nan."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
