"""The numbers of an evaluation: computed once, printed by the CLI as JSON and set in the report.

What belongs here: which figures are reported, and their keys. C-indices and AUC(t) come from discrimination.py, Brier scores
and calibration from predicted_survival.py, the words and figures are in report.py. Everything returned is plain JSON (nan
becomes None).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from mice_model.discrimination import MEAN, Concordance, auc_rows, c_index_rows, defined_in, harrell, mean_auc, uno
from mice_model.evaluation import Evaluation, HeldOut
from mice_model.metrics import log_rank_p, paired_difference, risk_groups
from mice_model.predicted_survival import brier, brier_rows, calibration_rows, calibrations
from mice_model.scored_folds import ScoredFold, left_out, scored_folds

MICE = "mice"
# The order in which models are shown; any other name follows, sorted.
MODEL_ORDER = (
    MICE,
    "cox_clinical",
    "cox_rna",
    "cox_clinical_rna",
    "cox_all",
    "rsf",
    "mlp_clinical",
    "mlp_omics",
    "mlp_report",
    "abmil",
    "concatenation",
    "top_k_moe",
    "skip",
)
__all__ = ["MEAN", "MICE", "model_names", "summarise"]


def model_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the names of all scored models, MICE first."""
    found = {name for held_out in evaluation.held_out for name in held_out.risk_score}
    return (*(name for name in MODEL_ORDER if name in found), *sorted(found.difference(MODEL_ORDER)))


def summarise(evaluation: Evaluation, num_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return the figures of an evaluation, keyed by cancer type and `mean`.

    `c_index`: {cancer type or "mean": {model: {c_index, low, high}}}, Harrell's; the mean row also has `num_cancer_types`,
    over how many a model has a figure. `paired`: {cancer type or "mean": {baseline: {difference, low, high, p_value}}},
    MICE minus the baseline on the same resamples; the mean row compares over the cancer types both models have.
    `cohorts`: cases, events, folds and folds without a comparable pair. `log_rank_p`: high against low risk.
    C-indices are means over folds; intervals are 95% patient bootstraps within folds with fitted models held fixed.

    Empty where no training outcomes were kept: `uno`, as `c_index`; `auc`: {cancer type or "mean": {model: mean AUC(t)}};
    `brier`: {cancer type or "mean": {mice, kaplan_meier}}, integrated; `calibration`: {cancer type: {"1", "3", "5" years:
    groups and mean_absolute_error}}; `undefined_folds`: {cancer type: {uno, auc, brier}}; `left_out`: why, in words.
    ValueError without any cancer type, or where `mice` was not scored.
    """
    if not evaluation.held_out:
        raise ValueError("evaluation: 0 cancer types with held-out cases, expected at least one")
    for held_out in evaluation.held_out:
        if MICE not in held_out.risk_score:
            raise ValueError(f"{held_out.cancer_type}: scored {sorted(held_out.risk_score)}, expected {MICE!r} among them")
    models = model_names(evaluation)
    ranked = {held_out.cancer_type: harrell(held_out, num_bootstrap, seed) for held_out in evaluation.held_out}
    plain: dict[str, Any] = _plain(
        {
            "model_version": evaluation.model_version,
            "training_set_id": evaluation.training_set_id,
            "snapshot_id": evaluation.snapshot_id,
            "endpoint": evaluation.endpoint,
            "num_bootstrap": num_bootstrap,
            "bootstrap_seed": seed,
            "models": list(models),
            "cohorts": {each.cancer_type: _cohort(each, ranked[each.cancer_type]) for each in evaluation.held_out},
            "c_index": c_index_rows(models, ranked),
            "paired": _paired_rows(models, ranked),
            "log_rank_p": {held_out.cancer_type: _log_rank(held_out) for held_out in evaluation.held_out},
            **_over_time(evaluation, models, num_bootstrap, seed),
        }
    )
    return plain


def _over_time(evaluation: Evaluation, models: tuple[str, ...], num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Return what training outcomes are needed for, by key of the summary; empty for cancer types that have none."""
    folds: dict[str, list[ScoredFold]] = {held.cancer_type: scored_folds(held) for held in evaluation.held_out}
    known = [held_out for held_out in evaluation.held_out if folds[held_out.cancer_type]]
    if not known:
        return {"uno": {}, "auc": {}, "brier": {}, "calibration": {}, "undefined_folds": {}, "left_out": []}
    unos = {held.cancer_type: uno(held, folds[held.cancer_type], num_bootstrap, seed) for held in known}
    aucs = {held.cancer_type: mean_auc(held, folds[held.cancer_type]) for held in known}
    briers = {held.cancer_type: brier(folds[held.cancer_type]) for held in known}
    return {
        "uno": c_index_rows(models, unos),
        "auc": auc_rows(models, aucs),
        "brier": brier_rows(briers, MEAN),
        "calibration": calibration_rows({held.cancer_type: calibrations(folds[held.cancer_type]) for held in known}, MEAN),
        "undefined_folds": {
            name: {"uno": unos[name].num_undefined, "auc": aucs[name].num_undefined, "brier": briers[name].num_undefined}
            for name in unos
        },
        "left_out": [note for each in folds.values() for note in left_out(each)],
    }


def _cohort(held_out: HeldOut, ranked: Concordance) -> dict[str, int]:
    return {
        "num_cases": len(held_out.duration_days),
        "num_events": int(held_out.event_observed.sum()),
        "num_folds": len(np.unique(held_out.fold)),
        "num_undefined_folds": ranked.num_undefined,
    }


def _log_rank(held_out: HeldOut) -> float:
    is_high = risk_groups(held_out.risk_score[MICE], held_out.fold)
    return log_rank_p(held_out.duration_days, held_out.event_observed, is_high)


def _paired_rows(models: tuple[str, ...], found: Mapping[str, Concordance]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return MICE minus every other model, by cancer type and as the mean over those where both have a C-index."""
    others = [name for name in models if name != MICE]
    rows = {
        cancer_type: {name: _paired([cancer_type], name, found) for name in others if name in c.point}
        for cancer_type, c in found.items()
    }
    ours = defined_in(MICE, found)
    rows[MEAN] = {name: _paired([c for c in defined_in(name, found) if c in ours], name, found) for name in others}
    return rows


def _paired(cancer_types: list[str], name: str, found: Mapping[str, Concordance]) -> dict[str, Any]:
    """Return MICE minus `name`, averaged over cancer types."""
    if not cancer_types:
        return {"difference": math.nan, "low": math.nan, "high": math.nan, "p_value": math.nan, "num_cancer_types": 0}
    difference = float(np.mean([found[c].point[MICE] - found[c].point[name] for c in cancer_types]))
    sampled = np.mean([found[c].samples[MICE] - found[c].samples[name] for c in cancer_types], axis=0)
    return {**asdict(paired_difference(difference, sampled)), "num_cancer_types": len(cancer_types)}


def _plain(value: Any) -> Any:
    """Return `value` with nan as None, since JSON has no nan, and tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
