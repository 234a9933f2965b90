"""How good predicted risks and survival curves are over time: Uno's C, AUC(t), Brier scores.

What belongs here: metrics that weigh by the censoring distribution, as numbers. Harrell's C, intervals and the log-rank
test are in metrics.py, calibration in calibration.py, figures in survival_figures.py. Nothing is fitted on held-out
cases: tau, the times and the censoring curve come from training outcomes. Of two things on one day the event comes
first, so an event at t was seen if censoring came at t or later, which has probability G(t-). scikit-survival takes G(t)
there: the two differ where a training case is censored on the day of a held-out event.

Risks are higher = worse and of one model, and a grid is of one fold's training: call once per fold.
Shapes: n cases, T times, S resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lifelines import KaplanMeierFitter
from numpy.typing import ArrayLike, NDArray

from mice_model.calibration import probabilities
from mice_model.metrics import check_outcomes
from mice_model.resampling import FloatArray, FoldPairs, comparable_pairs, pair_scores

TAU_QUANTILE = 0.9  # G(tau) >= share of cases followed beyond tau = 0.1, so no weight 1/G is above about 10
TIMES_QUANTILES = (0.1, 0.9)  # of the event times: outside, a time has few cases or few controls


class NoGridError(ValueError):
    """The training cases leave no room for a grid: no event, or all of them on about one day."""


@dataclass(frozen=True)
class EvaluationGrid:
    """Where to truncate (Uno's C) and at which times (T,) to look, in days: 0 < times, ascending, < tau."""

    tau_days: float
    times_days: tuple[float, ...]

    def __post_init__(self) -> None:
        days = (0.0, *self.times_days, self.tau_days)
        if len(days) < 4 or not (np.isfinite(days).all() and (np.diff(days) > 0).all()):
            raise ValueError(f"evaluation grid: 0, times, tau are {days}, expected ascending, with at least two times")

    @classmethod
    def fit(cls, duration_days: ArrayLike, event_observed: ArrayLike, num_times: int = 50) -> "EvaluationGrid":
        """Return tau and evenly spaced times from the outcomes (n,) of training cases.

        tau is the 90th percentile of all training durations, and below the longest. The times run from the 10th to the
        90th percentile of the event times, to tau at most. NoGridError if there is no room between the two.
        """
        duration, event, _ = check_outcomes(duration_days, event_observed)
        if not event.any():
            raise NoGridError(f"evaluation grid: no event among {len(duration)} training cases, expected some")
        tau = min(np.quantile(duration, TAU_QUANTILE), np.nextafter(duration.max(), 0))
        first, last = np.quantile(duration[event], TIMES_QUANTILES)
        last = min(last, np.nextafter(tau, 0))
        times = np.linspace(first, last, num_times)
        if num_times < 2 or not (np.diff(times) > 0).all():
            found = f"{num_times} times from day {first:g} to {last:g}, of {event.sum()} training events"
            raise NoGridError(f"evaluation grid: {found}, expected at least two and a later end. Use more training cases.")
        return cls(float(tau), tuple(times.tolist()))


@dataclass(frozen=True)
class CensoringCurve:
    """G(t), the Kaplan-Meier probability that a training case is not censored by day t; steps (J,) up to tau.

    Beyond tau, and so beyond the training follow-up, it stays at G(tau) > 0: a later case would weigh as one at tau.
    No metric here looks there, since cases and times count before tau only.
    """

    step_days: FloatArray
    survival: FloatArray

    @classmethod
    def fit(cls, grid: EvaluationGrid, duration_days: ArrayLike, event_observed: ArrayLike) -> "CensoringCurve":
        """Fit on outcomes (n,) of training cases; ValueError if they are not followed beyond tau, where G may be 0."""
        duration, event, _ = check_outcomes(duration_days, event_observed)
        if duration.max() <= grid.tau_days:
            raise ValueError(f"censoring curve: follow-up of {duration.max():g} days, expected beyond tau, {grid.tau_days:g}")
        # Who has the event on a day is no longer at risk of being censored on it; lifelines alone would count them.
        curve = KaplanMeierFitter().fit(np.where(event, np.nextafter(duration, 0), duration), ~event).survival_function_
        is_kept = curve.index.to_numpy() <= grid.tau_days
        return cls(curve.index.to_numpy()[is_kept], curve.to_numpy()[is_kept, 0])

    def at(self, days: ArrayLike) -> FloatArray:
        """Return G(t) at the days, in their shape."""
        return np.asarray(self.survival[np.searchsorted(self.step_days, days, side="right") - 1])

    def left(self, days: ArrayLike) -> FloatArray:
        """Return G(t-), the probability of not being censored before t, at the days, in their shape."""
        step = np.searchsorted(self.step_days, days, side="left") - 1
        return np.asarray(self.survival[np.maximum(step, 0)])  # nothing is before day 0, the first step


def uno_concordance(
    grid: EvaluationGrid, censoring: CensoringCurve, duration_days: ArrayLike, event_observed: ArrayLike, risk_score: ArrayLike
) -> float:
    """Return Uno's C of a risk (n,): Harrell's, each pair weighted by 1/G(t-)² of its event, events before tau only.

    Equal risks count 1/2; nan without a comparable pair. Source: Uno et al., Statistics in Medicine 2011.
    """
    duration, event, columns = check_outcomes(duration_days, event_observed, risk_score=risk_score)
    return float(_uno(grid, censoring, duration, event, columns["risk_score"], np.ones((1, len(duration))))[0])


def resampled_uno_concordance(
    grid: EvaluationGrid,
    censoring: CensoringCurve,
    duration_days: ArrayLike,
    event_observed: ArrayLike,
    risk_score: ArrayLike,
    *,
    num_samples: int = 1000,
    seed: int | Sequence[int] = 0,
) -> FloatArray:
    """Return Uno's C (S,) of bootstrap resamples of the cases; the same seed draws the same cases for every model."""
    duration, event, columns = check_outcomes(duration_days, event_observed, risk_score=risk_score)
    n = len(duration)
    weight_SN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=num_samples).astype(np.float64)
    return _uno(grid, censoring, duration, event, columns["risk_score"], weight_SN)


def _uno(
    grid: EvaluationGrid,
    censoring: CensoringCurve,
    duration: FloatArray,
    event: NDArray[np.bool_],
    risk: NDArray[np.generic],
    weight_SN: FloatArray,
) -> FloatArray:
    pairs = comparable_pairs(duration, event & (duration < grid.tau_days))
    event_weight = weight_SN[:, pairs.event_rows] / censoring.left(duration[pairs.event_rows]) ** 2
    scores = pair_scores(pairs, risk.astype(np.float64))
    total, concordant = (((event_weight @ matrix) * weight_SN).sum(axis=1) for matrix in (pairs.is_comparable, scores))
    return np.asarray(np.divide(concordant, total, out=np.full_like(total, np.nan), where=total > 0))


def cumulative_dynamic_auc(
    grid: EvaluationGrid, censoring: CensoringCurve, duration_days: ArrayLike, event_observed: ArrayLike, risk_score: ArrayLike
) -> tuple[FloatArray, float]:
    """Return AUC(t) (T,) of a risk (n,), and its mean.

    AUC(t) is the probability that a case with its event by t has a higher risk than one that outlives t, cases weighted
    by 1/G; equal risks count 1/2; nan at times without both. The mean weights each time by the drop of the cases'
    Kaplan-Meier curve since the time before it, over the times that are not nan (nan if all are). Sources: Uno et al.,
    JASA 2007; Hung and Chiang, Canadian Journal of Statistics 2010; the mean: Lambert and Chevret, 2014.
    """
    duration, event, columns = check_outcomes(duration_days, event_observed, risk_score=risk_score)
    times, rows = np.array(grid.times_days), np.flatnonzero(event)
    every_pair = FoldPairs(rows, np.ones((len(rows), len(duration))))
    scores = pair_scores(every_pair, columns["risk_score"].astype(np.float64))
    case_weight = (duration[rows] <= times[:, None]) / censoring.left(duration[rows])
    is_control = duration > times[:, None]
    concordant = ((case_weight @ scores) * is_control).sum(axis=1)
    total = case_weight.sum(axis=1) * is_control.sum(axis=1)
    auc = np.divide(concordant, total, out=np.full_like(total, np.nan), where=total > 0)
    drop = -np.diff(kaplan_meier(duration, event, times), prepend=1.0)
    is_defined = ~np.isnan(auc)
    mean = np.average(auc[is_defined], weights=drop[is_defined]) if is_defined.any() else np.nan
    return auc, float(mean)


def brier_scores(
    grid: EvaluationGrid, censoring: CensoringCurve, duration_days: ArrayLike, event_observed: ArrayLike, survival_nT: ArrayLike
) -> FloatArray:
    """Return the Brier score (T,) of predicted survival (n, T) at the grid's times; 0 is perfect, 1/4 is S = 1/2.

    It is the mean of S(t)²/G(Y-) of cases with an event at Y <= t, and of (1 - S(t))²/G(t) of those that outlive t.
    Source: Graf et al., Statistics in Medicine 1999.
    """
    duration, event, _ = check_outcomes(duration_days, event_observed)
    times = np.array(grid.times_days)
    survival = probabilities("survival_nT", survival_nT, (len(duration), len(times)))
    died = (event & (duration <= times[:, None])) / censoring.left(duration)
    lived = (duration > times[:, None]) / censoring.at(times)[:, None]
    return np.asarray((survival.T**2 * died + (1 - survival.T) ** 2 * lived).mean(axis=1))


def integrated_brier_score(
    grid: EvaluationGrid, censoring: CensoringCurve, duration_days: ArrayLike, event_observed: ArrayLike, survival_nT: ArrayLike
) -> float:
    """Return the mean Brier score over the grid's span: the trapezoid rule over its times, divided by the span."""
    scores = brier_scores(grid, censoring, duration_days, event_observed, survival_nT)
    return float(np.trapezoid(scores, grid.times_days) / (grid.times_days[-1] - grid.times_days[0]))


def kaplan_meier(duration_days: ArrayLike, event_observed: ArrayLike, times_days: ArrayLike) -> FloatArray:
    """Return the Kaplan-Meier survival (T,) of cases (n,) at the times; beyond the longest duration it stays."""
    duration, event, _ = check_outcomes(duration_days, event_observed)
    curve = KaplanMeierFitter().fit(duration, event).survival_function_at_times(np.asarray(times_days, dtype=np.float64))
    return np.asarray(curve, dtype=np.float64)


def null_survival(grid: EvaluationGrid, duration_days: ArrayLike, event_observed: ArrayLike, num_cases: int) -> FloatArray:
    """Return the reference for a Brier score (num_cases, T): everyone has the Kaplan-Meier curve of training cases (n,)."""
    return np.tile(kaplan_meier(duration_days, event_observed, grid.times_days), (num_cases, 1))
