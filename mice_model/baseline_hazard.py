"""The baseline hazards beside the skip: of each cancer type and time bin, the hazard of a case whose log risk is 0.

What belongs here: one number per cancer type and bin, fitted on training cases given their log risks. With it a network that has
learned nothing yet predicts survival that adds up to the events there were; without it, the skip alone only ranks.

Shape legend: n training cases, C cancer types, K time bins.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PSEUDO_CASES = 2.0  # of log risk 0 and the hazard of all types together: a type without a death in a bin is not immortal
_LARGEST_LOGIT = 30.0


def fit_baseline(
    time_bin: IntArray, event: NDArray[np.bool_], cancer: IntArray, log_risk: FloatArray, num_cancers: int, num_bins: int
) -> NDArray[np.float32]:
    """Return logits b (C, K): hazard of a case in its bin k = sigmoid(b + log risk), the likelihood's maximum (paper, eq. 2).

    All arrays (n,). A case is at risk in the bins up to its own, and has its event, if any, there: so for each type and bin the
    hazards of those at risk add up to the events, but for two pseudo-cases with the hazard of all types.
    """
    at_risk = time_bin[:, None] >= np.arange(num_bins)
    dies = (time_bin[:, None] == np.arange(num_bins)) & event[:, None]
    pooled = (dies.sum(axis=0) + 0.5) / (at_risk.sum(axis=0) + 1.0)
    logits = np.empty((num_cancers, num_bins), np.float32)
    for index in range(num_cancers):
        ours = cancer == index
        for k in range(num_bins):
            risks = log_risk[ours & at_risk[:, k]]
            events = float(dies[ours, k].sum()) + _PSEUDO_CASES * pooled[k]
            logits[index, k] = brentq(_excess, -_LARGEST_LOGIT, _LARGEST_LOGIT, args=(risks, events))
    return logits


def _excess(logit: float, log_risk: FloatArray, events: float) -> float:
    return float(expit(logit + log_risk).sum() + _PSEUDO_CASES * expit(logit) - events)
