"""Discrete time: fit the bins' edges on training cases, put a duration into its bin.

Belongs here: durations (days) and bin numbers. Does not belong: which cases are training cases (the caller passes
those only), losses, models.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def fit_time_bins(duration_days: ArrayLike, event_observed: ArrayLike, num_bins: int) -> NDArray[np.float64]:
    """Return the num_bins - 1 inner edges, strictly increasing: quantiles of the uncensored training durations.

    Where ties make two quantiles equal, the quantiles of the distinct event times are taken instead.
    ValueError if there are fewer distinct event times than bins.
    """
    duration, event = np.asarray(duration_days, dtype=np.float64), np.asarray(event_observed, dtype=np.bool_)
    if duration.ndim != 1 or duration.shape != event.shape:
        raise ValueError(f"duration_days and event_observed: shapes {duration.shape} and {event.shape}, expected one (n,)")
    if num_bins < 1:
        raise ValueError(f"num_bins: {num_bins}, expected at least 1")
    _refuse_non_finite(duration)
    event_days = duration[event]
    distinct_days = np.unique(event_days)
    if len(distinct_days) < num_bins:
        raise ValueError(
            f"time bins: {len(distinct_days)} distinct event times among {len(duration)} training cases, "
            f"expected at least {num_bins}, the number of bins. Use fewer bins or more cases."
        )
    levels = np.arange(1, num_bins) / num_bins
    edges = np.quantile(event_days, levels)
    if np.any(np.diff(edges) <= 0):
        edges = np.quantile(distinct_days, levels)
    return np.asarray(edges, dtype=np.float64)


def assign_time_bin(duration_days: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """Return the bin of every duration: bin k holds edges[k - 1] <= duration < edges[k], the outer two being open."""
    duration, inner = np.asarray(duration_days, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    if inner.ndim != 1 or np.any(np.diff(inner) <= 0):
        raise ValueError(f"edges: {inner.tolist()}, expected one strictly increasing row")
    _refuse_non_finite(duration)
    return np.searchsorted(inner, duration, side="right").astype(np.int64)


def _refuse_non_finite(duration: NDArray[np.float64]) -> None:
    bad = np.flatnonzero(~np.isfinite(duration))
    if len(bad):
        raise ValueError(f"duration_days: {len(bad)} not finite, expected numbers; first at {bad[:5].tolist()}")
