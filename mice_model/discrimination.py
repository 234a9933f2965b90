"""How well every model ranks the held-out cases: tables of Harrell's and Uno's C with intervals, AUC(t).

What belongs here: points and resamples by cancer type, and what becomes of them as the mean over cancer types. The metrics
are in metrics.py and survival_metrics.py; which tables a summary has is in summary.py.

Risks of two folds have no common scale: every figure is a mean over folds of within-fold figures, and folds where it is
undefined are left out. Shapes: T times, S resamples.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mice_model.evaluation import HeldOut
from mice_model.metrics import fold_mean_concordance, percentile_interval, resampled_concordance
from mice_model.resampling import FloatArray, mean_of_defined
from mice_model.scored_folds import ScoredFold
from mice_model.survival_metrics import (
    CensoringCurve,
    EvaluationGrid,
    cumulative_dynamic_auc,
    resampled_uno_concordance,
    uno_concordance,
)

MEAN = "mean"


@dataclass(frozen=True)
class Concordance:
    """A C-index of every model on one cancer type: over its folds, and over S resamples that are the same for all models.

    `num_undefined` folds have no comparable pair, which is so for all models alike.
    """

    point: Mapping[str, float]
    samples: Mapping[str, FloatArray]
    num_undefined: int


@dataclass(frozen=True)
class MeanAuc:
    """The mean AUC(t) of every model on one cancer type, over its folds but those `num_undefined` without one."""

    mean: Mapping[str, float]
    num_undefined: int


def harrell(held_out: HeldOut, num_bootstrap: int, seed: int) -> Concordance:
    """Return Harrell's C of every model."""
    outcome = held_out.duration_days, held_out.event_observed
    found = {name: fold_mean_concordance(*outcome, risk, held_out.fold) for name, risk in held_out.risk_score.items()}
    samples = resampled_concordance(
        *outcome, held_out.risk_score, held_out.fold, num_samples=num_bootstrap, seed=_seed(held_out.cancer_type, seed)
    )
    num_undefined = max(each.num_undefined for each in found.values())
    return Concordance({name: each.mean for name, each in found.items()}, samples, num_undefined)


def uno(held_out: HeldOut, folds: Sequence[ScoredFold], num_bootstrap: int, seed: int) -> Concordance:
    """Return Uno's C of every model, each fold with tau and weights of its own training cases."""
    point, samples, num_undefined = {}, {}, 0
    for name, risk in held_out.risk_score.items():
        by_fold, sampled = [math.nan] * len(folds), [np.full(num_bootstrap, np.nan)] * len(folds)
        for k, each, grid, censoring in _with_grids(folds):
            case = grid, censoring, *each.outcome, risk[each.rows]
            by_fold[k] = uno_concordance(*case)
            draws = (*_seed(held_out.cancer_type, seed), each.fold)
            sampled[k] = resampled_uno_concordance(*case, num_samples=num_bootstrap, seed=draws)
        point[name], num_undefined = _fold_mean(by_fold)
        samples[name] = mean_of_defined(np.stack(sampled), axis=0)
    return Concordance(point, samples, num_undefined)


def mean_auc(held_out: HeldOut, folds: Sequence[ScoredFold]) -> MeanAuc:
    """Return every model's mean AUC(t), each fold at the times of its own training cases."""
    mean, num_undefined = {}, 0
    for name, risk in held_out.risk_score.items():
        by_fold = [math.nan] * len(folds)
        for k, each, grid, censoring in _with_grids(folds):
            by_fold[k] = cumulative_dynamic_auc(grid, censoring, *each.outcome, risk[each.rows])[1]
        mean[name], num_undefined = _fold_mean(by_fold)
    return MeanAuc(mean, num_undefined)


def auc_curves(
    held_out: HeldOut, folds: Sequence[ScoredFold], models: Iterable[str], num_times: int = 25
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Return times (T,) that lie within every fold's grid, and AUC(t) (T,) of each model there, averaged over folds.

    No times where the folds' grids do not overlap, or there are none.
    """
    found = list(_with_grids(folds))
    first = max((grid.times_days[0] for _, _, grid, _ in found), default=0.0)
    last = min((grid.times_days[-1] for _, _, grid, _ in found), default=0.0)
    if first >= last:
        return np.empty(0), {}
    times = np.linspace(first, last, num_times)
    curves = {}
    for name in models:
        risk = held_out.risk_score[name]
        by_fold = [
            cumulative_dynamic_auc(replace(grid, times_days=tuple(times.tolist())), censoring, *each.outcome, risk[each.rows])[0]
            for _, each, grid, censoring in found
        ]
        curves[name] = mean_of_defined(np.stack(by_fold), axis=0)
    return times, curves


def c_index_rows(models: Sequence[str], found: Mapping[str, Concordance]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {cancer type or `mean`: {model: {c_index, low, high}}}; the mean also says over how many cancer types it is."""
    rows = {
        cancer_type: {name: with_interval(c.point[name], c.samples[name]) for name in models if name in c.point}
        for cancer_type, c in found.items()
    }
    rows[MEAN] = {name: _mean_row(name, [found[c] for c in defined_in(name, found)]) for name in models}
    return rows


def auc_rows(models: Sequence[str], found: Mapping[str, MeanAuc]) -> dict[str, dict[str, float]]:
    """Return {cancer type or `mean`: {model: AUC}}, the mean over the cancer types where a model has one."""
    rows = {cancer_type: {name: auc.mean[name] for name in models if name in auc.mean} for cancer_type, auc in found.items()}
    values = {name: np.array([auc.mean.get(name, math.nan) for auc in found.values()]) for name in models}
    rows[MEAN] = {name: float(mean_of_defined(each, axis=0)) for name, each in values.items()}
    return rows


def defined_in(name: str, found: Mapping[str, Concordance]) -> list[str]:
    """Return the cancer types in which a model has a C-index."""
    return [cancer_type for cancer_type, c in found.items() if name in c.point and not math.isnan(c.point[name])]


def with_interval(point: float, samples: FloatArray) -> dict[str, Any]:
    """Return a C-index with its 95% interval."""
    return {"c_index": point, **asdict(percentile_interval(samples))}


def _mean_row(name: str, found: Sequence[Concordance]) -> dict[str, Any]:
    """Average over cancer types, all of one weight; resample s of the mean is the mean of their resamples s."""
    if not found:
        return {"c_index": math.nan, "low": math.nan, "high": math.nan, "num_cancer_types": 0}
    point = float(np.mean([c.point[name] for c in found]))
    return {**with_interval(point, np.mean([c.samples[name] for c in found], axis=0)), "num_cancer_types": len(found)}


def _with_grids(folds: Sequence[ScoredFold]) -> Iterable[tuple[int, ScoredFold, EvaluationGrid, CensoringCurve]]:
    found = ((k, each, each.grid, each.censoring) for k, each in enumerate(folds))
    return ((k, each, grid, g) for k, each, grid, g in found if grid is not None and g is not None)


def _fold_mean(by_fold: Sequence[float]) -> tuple[float, int]:
    """Return the mean over the folds that have a figure, and the number of those that have none."""
    values = np.array(by_fold)
    return float(mean_of_defined(values, axis=0)), int(np.isnan(values).sum())


def _seed(cancer_type: str, seed: int) -> tuple[int, int]:
    """Return the seed of a cancer type's draws: each has draws of its own, the same for every model."""
    return seed, zlib.crc32(cancer_type.encode())
