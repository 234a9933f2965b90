"""How good a risk score is: Harrell's C-index, bootstrap intervals, paired differences, risk groups, the log-rank test.

What belongs here: the one place where the sign of a risk is decided (higher = worse, always), where inputs to a
metric are checked, and where resamples become intervals and p-values. No fitting, no plotting, nothing that knows a
cohort.

Risks of different folds come from different models, so every pooled figure here is made of within-fold figures. The
bootstrap draws held-out cases while the fitted models stay fixed: its intervals do not hold the variance that
refitting would add.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index as lifelines_concordance_index
from numpy.typing import ArrayLike, NDArray

from mice_model.resampling import FloatArray, mean_of_defined, resampled_fold_means


@dataclass(frozen=True)
class Interval:
    """A 95% percentile bootstrap interval; both ends are nan when no resample was defined."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """C-index of a minus C-index of b on the same cases, with its 95% interval and two-sided bootstrap p-value."""

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class FoldMean:
    """The mean of the within-fold C-indices; folds without a comparable pair (nan) are left out, and counted."""

    mean: float
    by_fold: tuple[float, ...]  # ascending fold order
    num_undefined: int


def check_outcomes(
    duration_days: ArrayLike, event_observed: ArrayLike, **others: ArrayLike
) -> tuple[FloatArray, NDArray[np.bool_], dict[str, NDArray[np.generic]]]:
    """Return the inputs as arrays (n,), or raise ValueError naming the first that is unusable.

    Durations must be finite and > 0 (days), events 0/1 or bool, `others` finite and of the same length.
    """
    duration = np.asarray(duration_days, dtype=np.float64)
    if duration.ndim != 1 or len(duration) == 0:
        raise ValueError(f"duration_days: shape {duration.shape}, expected (n,) with n > 0")
    event = np.asarray(event_observed)
    columns = {name: np.asarray(values) for name, values in others.items()}
    for name, values in {"event_observed": event, **columns}.items():
        if values.shape != duration.shape:
            raise ValueError(f"{name}: shape {values.shape}, expected {duration.shape} as duration_days")
    _refuse("duration_days", ~(np.isfinite(duration) & (duration > 0)), "finite and > 0")
    _refuse("event_observed", ~np.isin(event, (0, 1)), "0 or 1")
    for name, values in columns.items():
        _refuse(name, ~np.isfinite(values.astype(np.float64)), "finite numbers")
    return duration, event.astype(np.bool_), columns


def _refuse(name: str, is_bad: NDArray[np.bool_], expected: str) -> None:
    if is_bad.any():
        raise ValueError(f"{name}: {is_bad.sum()} bad values, expected {expected}; first at row {is_bad.argmax()}")


def concordance_index(duration_days: ArrayLike, event_observed: ArrayLike, risk_score: ArrayLike) -> float:
    """Return Harrell's C of a risk (n,), higher = worse.

    It is the share of comparable pairs in which the case that died earlier had the higher risk. Equal risks count
    1/2. Two deaths on one day are not comparable; a case censored on the day of a death outlives it. Without any
    comparable pair the index is undefined: nan. Source: Harrell et al., JAMA 1982, as in lifelines (whose score has
    the other sign).
    """
    duration, event, columns = check_outcomes(duration_days, event_observed, risk_score=risk_score)
    try:
        return float(lifelines_concordance_index(duration, -columns["risk_score"].astype(np.float64), event))
    except ZeroDivisionError:  # lifelines' word for "no admissible pairs"
        return float("nan")


def fold_mean_concordance(
    duration_days: ArrayLike, event_observed: ArrayLike, risk_score: ArrayLike, fold: ArrayLike
) -> FoldMean:
    """Return the mean of the within-fold C-indices; `fold` (n,) int says which model scored a held-out case."""
    duration, event, columns = check_outcomes(duration_days, event_observed, risk_score=risk_score, fold=fold)
    folds = columns["fold"]
    inputs = (duration, event, columns["risk_score"])
    by_fold = np.array([concordance_index(*(values[folds == k] for values in inputs)) for k in np.unique(folds)])
    return FoldMean(float(mean_of_defined(by_fold, axis=0)), tuple(by_fold.tolist()), int(np.isnan(by_fold).sum()))


def resampled_concordance(
    duration_days: ArrayLike,
    event_observed: ArrayLike,
    risk_score: dict[str, NDArray[np.float64]],
    fold: ArrayLike,
    *,
    num_samples: int = 1000,
    seed: int | Sequence[int] = 0,
) -> dict[str, FloatArray]:
    """Return each model's fold-mean C-index (num_samples,) on the same patient resamples, drawn within folds."""
    if num_samples < 1 or not risk_score:
        raise ValueError(f"bootstrap: {num_samples} resamples of {len(risk_score)} models, expected some of each")
    duration, event, columns = check_outcomes(duration_days, event_observed, **{"fold": fold, **risk_score})
    risk_MN = np.stack([columns[name].astype(np.float64) for name in risk_score])
    means_SM = resampled_fold_means(
        duration, event, risk_MN, columns["fold"].astype(np.int64), num_samples=num_samples, seed=seed
    )
    return {name: means_SM[:, m] for m, name in enumerate(risk_score)}


def percentile_interval(samples: FloatArray) -> Interval:
    """Return the 2.5th and 97.5th percentile of the resamples that are not nan."""
    defined = samples[~np.isnan(samples)]
    if len(defined) == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(defined, (2.5, 97.5))
    return Interval(float(low), float(high))


def paired_difference(difference: float, sampled_differences: FloatArray) -> PairedDifference:
    """Return the difference with its interval and p-value from S resampled differences of the same two models.

    p = 2·min(#(d <= 0) + 1, #(d >= 0) + 1) / (S + 1), at most 1: about the level at which the percentile interval
    reaches 0. It cannot fall below 2/(S + 1).
    """
    defined = sampled_differences[~np.isnan(sampled_differences)]
    interval = percentile_interval(defined)
    if len(defined) == 0 or np.isnan(difference):
        return PairedDifference(difference, interval.low, interval.high, float("nan"))
    smaller_tail = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    p_value = min(1.0, 2 * (smaller_tail + 1) / (len(defined) + 1))
    return PairedDifference(difference, interval.low, interval.high, p_value)


def risk_groups(risk_score: ArrayLike, fold: ArrayLike) -> NDArray[np.bool_]:
    """Return (n,) True for the cases whose risk lies above the median of their fold's held-out cases.

    A risk equal to the median is low. The cut is the median of the held-out risks themselves, since scores of
    different folds have no common scale. It looks at no outcome, but it is not known when a single new patient is
    scored: the split describes how well a ranking separates a cohort, and is not a decision rule.
    """
    risk, folds = np.asarray(risk_score, dtype=np.float64), np.asarray(fold)
    if risk.shape != folds.shape or risk.ndim != 1 or not np.isfinite(risk).all():
        raise ValueError(f"risk_score: shape {risk.shape} with fold {folds.shape}, expected both (n,) and finite")
    cut = np.zeros(len(risk))
    for k in np.unique(folds):
        cut[folds == k] = np.median(risk[folds == k])
    return risk > cut


def log_rank_p(duration_days: ArrayLike, event_observed: ArrayLike, group: ArrayLike) -> float:
    """Return the log-rank p-value of equal survival in all groups (n,); nan with one group or without an event."""
    duration, event, columns = check_outcomes(duration_days, event_observed, group=group)
    if len(np.unique(columns["group"])) < 2 or not event.any():
        return float("nan")
    return float(multivariate_logrank_test(duration, columns["group"], event).p_value)
