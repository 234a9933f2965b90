"""A ridge-penalised Cox model of many strata at once, with coefficients that all strata share and deviations of each stratum.

What belongs here: the partial likelihood on plain arrays and its minimum. Which features, penalties and cases is cox_skip.py's.

Model: the log hazard ratio of case i of stratum s is x_i · (w + v_s); the loss is Breslow's negative log partial likelihood,
risk sets within strata, plus ½ Σ_d (a_d w_d² + b_d Σ_s v_sd²). It is convex: its minimum does not depend on the search's start. A
stratum with many events has coefficients of its own, one with few borrows from the others.

Shape legend: n cases, d columns, S strata.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MAX_ITERATIONS = 300
_RELATIVE_TOLERANCE = 1e-8  # of the loss between two iterations


@dataclass(frozen=True)
class Coefficients:
    """`shared` (d,), `own` (S, d)."""

    shared: FloatArray
    own: FloatArray

    def log_risk(self, X: FloatArray, stratum: IntArray) -> FloatArray:
        """Return the log hazard ratio (n,), higher is worse; stratum -1 has the shared coefficients alone."""
        own = np.concatenate([self.own, np.zeros((1, self.own.shape[1]))])[stratum]
        return np.asarray(X @ self.shared + np.einsum("nd,nd->n", X, own))


@dataclass(frozen=True)
class RiskSets:
    """Cases in order of stratum, then of falling duration: the risk set of a case is its stratum down to the end of its ties.

    `order` (n,) rows; `bounds` (start, end, stratum) of each stratum; `last` (n,) where each one's ties end; `event` (n,).
    """

    order: IntArray
    bounds: tuple[tuple[int, int, int], ...]
    last: IntArray
    event: FloatArray

    @classmethod
    def of(cls, duration: FloatArray, event: NDArray[np.bool_], stratum: IntArray) -> "RiskSets":
        """Sort n cases; all arrays (n,). ValueError without cases."""
        if not len(duration):
            raise ValueError("Cox model: 0 cases, expected some")
        order = np.lexsort((-duration, stratum))
        sorted_stratum, sorted_duration = stratum[order], duration[order]
        is_new = sorted_stratum[1:] != sorted_stratum[:-1]
        ends_ties = np.flatnonzero(np.append(is_new | (sorted_duration[1:] != sorted_duration[:-1]), True))
        starts = np.append(0, np.flatnonzero(is_new) + 1)
        bounds = tuple(zip(starts.tolist(), [*starts[1:].tolist(), len(order)], sorted_stratum[starts].tolist(), strict=True))
        last = ends_ties[np.searchsorted(ends_ties, np.arange(len(order)))]
        return cls(order, bounds, last, event[order].astype(np.float64))

    def loss(self, log_risk: FloatArray) -> tuple[float, FloatArray]:
        """Return the negative log partial likelihood and its gradient (n,); `log_risk` (n,) is in sorted order, as it is."""
        total, gradient = 0.0, np.zeros_like(log_risk)
        for start, end, _ in self.bounds:
            event = self.event[start:end]
            if not event.any():
                continue
            eta, last = log_risk[start:end], self.last[start:end] - start
            top = eta.max()
            ratio = np.exp(eta - top)
            at_risk = np.cumsum(ratio)[last]
            total -= float((event * (eta - top - np.log(at_risk))).sum())
            share = np.bincount(last, weights=event / at_risk, minlength=end - start)
            gradient[start:end] = ratio * np.cumsum(share[::-1])[::-1] - event
        return total, gradient


def partial_loss(duration: FloatArray, event: NDArray[np.bool_], stratum: IntArray, log_risk: FloatArray) -> float:
    """Return the negative log partial likelihood of given log risks (n,), risk sets within strata."""
    sets = RiskSets.of(duration, event, stratum)
    return sets.loss(log_risk[sets.order])[0]


def fit_stratified_cox(
    X: FloatArray,
    duration: FloatArray,
    event: NDArray[np.bool_],
    stratum: IntArray,
    num_strata: int,
    penalty_shared: FloatArray,
    penalty_own: FloatArray,
    start: Coefficients | None = None,
) -> Coefficients:
    """Fit on n cases: X (n, d), penalties (d,) > 0, inf for a column without such coefficients. ValueError without an event."""
    if not event.any():
        raise ValueError(f"Cox model: 0 events in {len(event)} cases, expected some")
    sets = RiskSets.of(duration, event, stratum)
    has_shared, has_own = np.isfinite(penalty_shared), np.isfinite(penalty_own)
    # in units of one penalised standard deviation the penalty is ½|u|², and the search is well conditioned
    scale_shared, scale_own = 1 / np.sqrt(penalty_shared[has_shared]), 1 / np.sqrt(penalty_own[has_own])
    shared_X, own_X = X[sets.order][:, has_shared] * scale_shared, X[sets.order][:, has_own] * scale_own
    num_shared, shape = shared_X.shape[1], (num_strata, own_X.shape[1])

    def loss(u: FloatArray) -> tuple[float, FloatArray]:
        own = u[num_shared:].reshape(shape)
        log_risk = shared_X @ u[:num_shared]
        for first, end, index in sets.bounds:
            log_risk[first:end] += own_X[first:end] @ own[index]
        total, by_case = sets.loss(log_risk)
        gradient = np.zeros(shape)
        for first, end, index in sets.bounds:
            gradient[index] = by_case[first:end] @ own_X[first:end]
        return total + 0.5 * float(u @ u), np.concatenate([by_case @ shared_X, gradient.ravel()]) + u

    first_guess = np.zeros(num_shared + shape[0] * shape[1])
    if start is not None:
        first_guess = np.concatenate([start.shared[has_shared] / scale_shared, (start.own[:, has_own] / scale_own).ravel()])
    options = {"maxiter": _MAX_ITERATIONS, "maxcor": 20, "ftol": _RELATIVE_TOLERANCE, "gtol": 1e-3}
    found = minimize(loss, first_guess, jac=True, method="L-BFGS-B", options=options).x
    shared, own = np.zeros(X.shape[1]), np.zeros((num_strata, X.shape[1]))
    shared[has_shared] = found[:num_shared] * scale_shared
    own[:, has_own] = found[num_shared:].reshape(shape) * scale_own
    return Coefficients(shared, own)
