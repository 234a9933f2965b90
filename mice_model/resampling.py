"""Resamples and splits of cases: Harrell's C over many bootstrap resamples at once, and stratified random parts.

What belongs here: drawing cases, and the pair algebra on plain arrays that metrics.py has already validated. No intervals, no
p-values, no lifelines.

A resample with replacement is a vector of case weights w (how often each case was drawn), and the C-index of the
resample is Σ_ij w_i·w_j·score_ij / Σ_ij w_i·w_j·comparable_ij: two matrix products serve every resample. Copies of
one case share their time and their event, so they are never comparable with each other, exactly as when Harrell's C
is computed on the drawn rows.

Shapes: n cases of a fold, N all cases, M models, S resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class FoldPairs:
    """The comparable pairs of one fold: row i (an observed event) against every column j that is known to end later.

    `event_rows` (e,) indices of the cases with an event; `is_comparable` (e, n), as 0.0 or 1.0.
    A case censored on the day of an event is taken to outlive it; two events on one day are not comparable.
    """

    event_rows: NDArray[np.int64]
    is_comparable: FloatArray


def comparable_pairs(duration_days: FloatArray, event_observed: NDArray[np.bool_]) -> FoldPairs:
    """Return the comparable pairs of n cases; e*n float64, so 1.6 MB for 200 events among 1,000 cases."""
    event_rows = np.flatnonzero(event_observed)
    event_days = duration_days[event_rows, None]
    outlives = (event_days < duration_days) | ((event_days == duration_days) & ~event_observed)
    return FoldPairs(event_rows, outlives.astype(np.float64))


def pair_scores(pairs: FoldPairs, risk_score: FloatArray) -> FloatArray:
    """Return (e, n): 1 where the case that ended first has the higher risk, 1/2 where risks are equal, 0 elsewhere."""
    risk_of_event = risk_score[pairs.event_rows, None]
    return pairs.is_comparable * ((risk_of_event > risk_score) + 0.5 * (risk_of_event == risk_score))


def weighted_concordance(
    duration_days: FloatArray, event_observed: NDArray[np.bool_], risk_MN: FloatArray, weight_SN: FloatArray
) -> FloatArray:
    """Return the C-index (S, M) of each model under each row of case weights; nan where no comparable pair weighs."""
    pairs = comparable_pairs(duration_days, event_observed)
    event_weight = weight_SN[:, pairs.event_rows]
    total = ((event_weight @ pairs.is_comparable) * weight_SN).sum(axis=1)
    scores = (pair_scores(pairs, risk) for risk in risk_MN)
    concordant = np.stack([((event_weight @ score) * weight_SN).sum(axis=1) for score in scores], axis=1)
    return np.divide(concordant, total[:, None], out=np.full_like(concordant, np.nan), where=total[:, None] > 0)


def mean_of_defined(values: FloatArray, axis: int) -> FloatArray:
    """Return the mean over `axis` of the entries that are not nan; nan (without a warning) where all are."""
    is_defined = ~np.isnan(values)
    count = is_defined.sum(axis=axis)
    total = np.where(is_defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def resampled_fold_means(
    duration_days: FloatArray,
    event_observed: NDArray[np.bool_],
    risk_MN: FloatArray,
    fold: NDArray[np.int64],
    *,
    num_samples: int,
    seed: int | Sequence[int],
) -> FloatArray:
    """Return the fold-mean C-index (S, M) of each model in S bootstrap resamples of the cases.

    Cases are drawn with replacement within each fold, so a resample keeps the folds' sizes. All models see the same
    resamples, and a fold without a comparable pair in a resample is left out of that resample's mean for every model
    alike. The draws of a given seed depend on the fold sizes only.
    """
    rng = np.random.default_rng(seed)
    by_fold = []
    for k in np.unique(fold):
        rows = np.flatnonzero(fold == k)
        weight_SN = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=num_samples).astype(np.float64)
        by_fold.append(weighted_concordance(duration_days[rows], event_observed[rows], risk_MN[:, rows], weight_SN))
    return mean_of_defined(np.stack(by_fold), axis=0)


def stratified_split(
    stratum: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the positions of `stratum` (n,) into (kept, taken), ascending: `fraction` of each stratum is taken, at random."""
    shuffled = rng.permutation(len(stratum))
    shuffled = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    # every (1/fraction)-th of the stratified order, from a random start
    marks = np.floor((np.arange(-1, len(stratum)) + rng.random() / fraction) * fraction)
    is_taken = np.diff(marks) > 0
    return np.sort(shuffled[~is_taken]), np.sort(shuffled[is_taken])
