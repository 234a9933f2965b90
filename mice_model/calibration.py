"""Predicted survival at chosen days, and how it compares with what happened.

What belongs here: from a discrete-time model's bins to survival at a day, and calibration in groups, as numbers. Scores of
whole curves are in survival_metrics.py, figures in survival_figures.py. Calibration may pool folds, since probabilities have
one scale. Shapes: n cases, T times, K time bins, G groups.
"""

from dataclasses import dataclass

import numpy as np
from lifelines import KaplanMeierFitter
from numpy.typing import ArrayLike, NDArray

from mice_model.metrics import check_outcomes
from mice_model.resampling import FloatArray

ROUNDING = 1e-6  # of probabilities a network computed in float32


def survival_at(survival_bins_nK: ArrayLike, edges_days: ArrayLike, times_days: ArrayLike, last_day: float) -> FloatArray:
    """Return the survival (n, T) at times >= 0 of a discrete-time model, whose S (n, K) is that at the end of each bin.

    `edges_days` (K-1,) are the inner edges. The first bin starts at day 0 with S = 1; the last one is open, and is taken
    to end at `last_day`, the longest training duration, after which S stays. Within a bin the hazard is constant: log S
    is linear in time. A bin that ends at S = 0 thus has an infinite one: S is 0 right after its start.
    """
    ends, times = np.array([0.0, *np.asarray(edges_days), last_day]), np.asarray(times_days, dtype=np.float64)
    if not (np.isfinite(ends).all() and (np.diff(ends) > 0).all()):
        raise ValueError(f"time bins: 0, edges, last_day are {ends.tolist()}, expected ascending days")
    if times.ndim != 1 or not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError(f"times_days: {times.tolist()}, expected one row of days >= 0")
    survival = probabilities("survival_bins_nK", survival_bins_nK, (len(np.atleast_1d(survival_bins_nK)), len(ends) - 1))
    survival = np.concatenate([np.ones((len(survival), 1)), survival], axis=1)
    if (np.diff(survival, axis=1) > ROUNDING).any():
        rows = np.flatnonzero((np.diff(survival, axis=1) > ROUNDING).any(axis=1))
        raise ValueError(f"survival_bins_nK: {len(rows)} rows rise, expected falling survival; first at {rows[:5].tolist()}")
    times = np.minimum(times, last_day)
    k = np.clip(np.searchsorted(ends, times, side="left") - 1, 0, len(ends) - 2)  # a time on an edge ends its bin
    share = (times - ends[k]) / (ends[k + 1] - ends[k])
    return np.asarray(survival[:, k] ** (1 - share) * survival[:, k + 1] ** share)


@dataclass(frozen=True)
class Calibration:
    """Predicted and observed probability of an event by `time_days`, of groups (G,) of ascending predicted risk.

    `observed` is 1 - Kaplan-Meier of the group, nan where nobody of it is followed to that day; `low` and `high` are its
    95% interval (log-log), nan too where it is 0 or 1, since Greenwood's variance is 0 there.
    """

    time_days: float
    num_cases: tuple[int, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def mean_absolute_error(self) -> float:
        """The mean of |predicted - observed|, groups weighted by their cases; over groups with an observed one, else nan."""
        error = np.abs(np.subtract(self.predicted, self.observed))
        is_defined = ~np.isnan(error)
        weights = np.array(self.num_cases)[is_defined]
        return float(np.average(error[is_defined], weights=weights)) if is_defined.any() else float("nan")


def calibration(
    duration_days: ArrayLike, event_observed: ArrayLike, survival_at_t: ArrayLike, time_days: float, num_groups: int = 5
) -> Calibration:
    """Return how predicted survival (n,) at `time_days` compares with what happened, in groups of equal size (+- 1).

    Equal predictions at a cut fall to either side of it in the order of the rows. ValueError with fewer cases than groups.
    """
    duration, event, columns = check_outcomes(duration_days, event_observed, survival_at_t=survival_at_t)
    survival = probabilities("survival_at_t", columns["survival_at_t"][:, None], (len(duration), 1))[:, 0]
    if not 1 <= num_groups <= len(duration) or not 0 < time_days < np.inf:
        raise ValueError(
            f"calibration: {num_groups} groups of {len(duration)} cases on day {time_days}, expected 1 to n, day > 0"
        )
    groups = np.array_split(np.argsort(-survival, kind="stable"), num_groups)
    rows = [(len(g), float(1 - survival[g].mean()), *_observed(duration[g], event[g], time_days)) for g in groups]
    return Calibration(time_days, *zip(*rows, strict=True))


def _observed(duration: FloatArray, event: NDArray[np.bool_], time_days: float) -> tuple[float, float, float]:
    """Return 1 - Kaplan-Meier at the day, and the ends of its interval."""
    fit = KaplanMeierFitter().fit(duration, event)
    column = np.searchsorted(fit.survival_function_.index, time_days, side="right") - 1
    died = float(1 - fit.survival_function_.iloc[column, 0])
    if duration.max() < time_days and died < 1:
        return float("nan"), float("nan"), float("nan")
    if died in (0, 1):
        return died, float("nan"), float("nan")
    lower, upper = fit.confidence_interval_.iloc[column]
    return died, float(1 - upper), float(1 - lower)


def probabilities(name: str, values: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """Return the values within 0 and 1, or raise ValueError where they are not; what rounding left outside is cut."""
    found = np.asarray(values, dtype=np.float64)
    if found.shape != shape:
        raise ValueError(f"{name}: shape {found.shape}, expected {shape}")
    is_bad = ~((found >= -ROUNDING) & (found <= 1 + ROUNDING))
    if is_bad.any():
        raise ValueError(
            f"{name}: {is_bad.sum()} bad values, expected within 0 and 1; first at row {is_bad.any(axis=1).argmax()}"
        )
    return np.clip(found, 0, 1)
