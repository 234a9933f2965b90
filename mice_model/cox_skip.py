"""The skip term of MICE: a pan-cancer Cox model on the parts of the network's inputs, whose log risk the network starts from.

What belongs here: choosing penalties within the training cases, the fit, and log risks of training cases by models that did not
see them (cross-fitting): a network trained on in-sample risks would learn to trust them too much. The arithmetic is
stratified_cox.py's.

Shape legend: n cases, d columns of all parts, C cancer types.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.progress import tracked
from mice_model.stratified_cox import Coefficients, FloatArray, IntArray, fit_stratified_cox, partial_loss
from mice_model.study import CoxSkipConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcomes:
    """What the fit sees besides features: `duration` (n,) days, `event` (n,), `cancer` (n,) int, of `num_cancers`."""

    duration: FloatArray
    event: NDArray[np.bool_]
    cancer: IntArray
    num_cancers: int


@dataclass(frozen=True)
class CoxSkip:
    """A fitted skip: `parts` in order with their widths, coefficients over their columns, and the penalties that were chosen."""

    parts: tuple[tuple[str, int], ...]
    coefficients: Coefficients
    penalties: Mapping[str, tuple[float, float]]
    cross_validated: Mapping[str, float]  # which penalties were tried -> loss per event on left-out training cases

    def log_risk(self, parts: Mapping[str, NDArray[np.float32]], cancer: IntArray) -> FloatArray:
        """Return the log risk (n,) of cases whose parts are given as (n, width); higher is worse."""
        columns = np.concatenate([parts[name] for name, _ in self.parts], axis=1).astype(np.float64)
        return self.coefficients.log_risk(columns, cancer)

    def gradient(self, part: str, cancer: int) -> FloatArray:
        """Return what one unit of each column of a part adds to the log risk of a case of a cancer type (-1: none), (width,)."""
        widths = [width for _, width in self.parts]
        position = [name for name, _ in self.parts].index(part)
        start = sum(widths[:position])
        shared, own = self.coefficients.shared, self.coefficients.own
        of_cancer = shared + own[cancer] if cancer >= 0 else shared
        return of_cancer[start : start + widths[position]]


@dataclass(frozen=True)
class FittedSkip:
    """A skip and the log risk (n,) of every case of its training set: cross-fitted where the skip was fitted on the case."""

    skip: CoxSkip
    log_risk: FloatArray


def fit_cox_skip(
    parts: Mapping[str, NDArray[np.float32]], outcomes: Outcomes, rows: IntArray, config: CoxSkipConfig, seed: int
) -> FittedSkip:
    """Fit on `rows` and return the skip with the log risk of every case.

    A training case's log risk comes from the model of an inner fold that left the case out, any other case's from all of `rows`.
    Each part's pair of penalties is multiplied by the one of `config.multipliers` with the smallest loss on the inner folds; the
    parts take turns, once, in the order of `config.penalties`.
    """
    names = [name for name in config.penalties if name in parts]
    columns = np.concatenate([parts[name] for name in names], axis=1).astype(np.float64)
    widths = [parts[name].shape[1] for name in names]
    search = _Search(columns, widths, outcomes, rows, inner_folds(outcomes, rows, config.num_inner_folds, seed))
    chosen = dict.fromkeys(names, 1.0)
    tried: dict[str, float] = {}

    def loss_of(multipliers: Mapping[str, float]) -> float:
        key = ", ".join(f"{name} {multipliers[name]:g}" for name in names)
        if key not in tried:
            tried[key] = search.loss(_penalties(names, config, multipliers))
        return tried[key]

    for name in tracked(names, "skip: penalties", len(names)):
        options = {multiplier: loss_of({**chosen, name: multiplier}) for multiplier in dict.fromkeys((1.0, *config.multipliers))}
        chosen[name] = min(options, key=lambda multiplier: options[multiplier])
    penalties = _penalties(names, config, chosen)
    log_risk, coefficients = search.final(penalties)
    logger.info("skip: penalties times %s", ", ".join(f"{name} {multiplier:g}" for name, multiplier in chosen.items()))
    by_name = dict(zip(names, penalties, strict=True))
    return FittedSkip(CoxSkip(tuple(zip(names, widths, strict=True)), coefficients, by_name, tried), log_risk)


def _penalties(names: list[str], config: CoxSkipConfig, multipliers: Mapping[str, float]) -> list[tuple[float, float]]:
    pairs = [(config.penalties[name], multipliers[name]) for name in names]
    return [(shared * multiplier, own * multiplier) for (shared, own), multiplier in pairs]


def inner_folds(outcomes: Outcomes, rows: IntArray, num_folds: int, seed: int) -> IntArray:
    """Return the inner fold (len(rows),) of each training row, stratified by cancer type and event."""
    strata = outcomes.cancer[rows] * 2 + outcomes.event[rows]
    order = np.random.default_rng(seed).permutation(len(rows))
    order = order[np.argsort(strata[order], kind="stable")]
    folds = np.empty(len(rows), np.int64)
    folds[order] = np.arange(len(rows)) % num_folds
    return folds


class _Search:
    """Fits of the same cases under different penalties; each starts from the solution before it, which only saves time."""

    def __init__(self, columns: FloatArray, widths: list[int], outcomes: Outcomes, rows: IntArray, folds: IntArray) -> None:
        self.columns, self.widths, self.outcomes, self.rows, self.folds = columns, widths, outcomes, rows, folds
        self.start: dict[int, Coefficients] = {}

    def loss(self, penalties: list[tuple[float, float]]) -> float:
        """Return the loss per event on the left-out cases of the inner folds."""
        risk, known = self._left_out(penalties), self.outcomes
        rows, total = self.rows, 0.0
        for fold in np.unique(self.folds):
            out = rows[self.folds == fold]
            total += partial_loss(known.duration[out], known.event[out], known.cancer[out], risk[self.folds == fold])
        return total / float(known.event[rows].sum())

    def final(self, penalties: list[tuple[float, float]]) -> tuple[FloatArray, Coefficients]:
        """Return the log risks of all cases, cross-fitted for the training cases, and the coefficients of all training cases."""
        left_out = self._left_out(penalties)
        coefficients = self._fit(-1, self.rows, penalties)
        risk = coefficients.log_risk(self.columns, self.outcomes.cancer)
        risk[self.rows] = left_out
        return risk, coefficients

    def _left_out(self, penalties: list[tuple[float, float]]) -> FloatArray:
        risk = np.empty(len(self.rows))
        for fold in np.unique(self.folds).tolist():
            is_out = self.folds == fold
            fitted, out = self._fit(fold, self.rows[~is_out], penalties), self.rows[is_out]
            risk[is_out] = fitted.log_risk(self.columns[out], self.outcomes.cancer[out])
        return risk

    def _fit(self, fold: int, rows: IntArray, penalties: list[tuple[float, float]]) -> Coefficients:
        known = self.outcomes
        shared, own = (np.repeat([pair[side] for pair in penalties], self.widths) for side in (0, 1))
        cases = (self.columns[rows], known.duration[rows], known.event[rows], known.cancer[rows])
        self.start[fold] = fit_stratified_cox(*cases, known.num_cancers, shared, own, self.start.get(fold))
        return self.start[fold]
