"""Signs that a network has failed without an error: routing collapsed, everybody's risk the same, stand-ins far off.

Belongs here: the figures, computed from tensors, and the sentences about those beyond their limits. Does not belong:
who watches them and when, quality on held-out cases (metrics.py).

Shape legend: B cases, E experts, n cases with the real feature, W width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = Tensor | NDArray[np.float64]


@dataclass(frozen=True)
class RouterEntropy:
    """Entropies as a share of log E, the most there can be: 0 is one expert, 1 all alike.

    `of_case`: the mean over cases of each case's own. `of_mean`: that of the mean routing, 0 if all cases use one expert.
    """

    of_case: float
    of_mean: float


@dataclass(frozen=True)
class Drift:
    """How far stand-ins are from the real features of the same cases: 0 is not at all.

    `cosine`: the mean over cases of 1 - cos, at most 2. `frechet`: |difference of means|^2 + |difference of standard
    deviations|^2 (Frechet's distance of two normal distributions with independent coordinates), as a share of the real
    features' mean square: stand-ins that are all zero have 1.
    """

    cosine: float
    frechet: float


@dataclass(frozen=True)
class AlarmLimits:
    """What is still tolerated. None of these is from the literature; each says what it would mean to be beyond it."""

    least_entropy_of_case: float = 0.1  # 15 experts: a case's weights count as 1.3 equal ones or fewer
    least_entropy_of_mean: float = 0.5  # 15 experts: the whole cohort lives on 4 of them or fewer
    least_spread: float = 0.01  # of a risk in time bins: the cases' expected survival differs by a hundredth of a bin
    most_cosine: float = 1.0  # beyond: stand-ins point away from what they stand for
    most_frechet: float = 1.0  # beyond: no better than zeros


def router_entropy(routing_BE: Values) -> RouterEntropy:
    """Return the normalised entropies of the routing weights (B, E), each case's taken to sum to one."""
    weights_BE = _float64(routing_BE)
    if weights_BE.dim() != 2 or len(weights_BE) == 0 or weights_BE.shape[1] < 2:
        raise ValueError(f"routing_BE: shape {tuple(weights_BE.shape)}, expected (B, E), B >= 1, E >= 2. Leave it out else.")
    p_BE = weights_BE / weights_BE.sum(dim=1, keepdim=True)
    most = math.log(p_BE.shape[1])
    of_case = torch.special.entr(p_BE).sum(dim=1).mean() / most
    return RouterEntropy(float(of_case), float(torch.special.entr(p_BE.mean(dim=0)).sum() / most))


def prediction_spread(risk: Values) -> float:
    """Return the standard deviation of the risks (B,), best those of one cancer type: between types it says little."""
    risk_B = _float64(risk)
    if risk_B.dim() != 1 or len(risk_B) < 2:
        raise ValueError(f"risk: shape {tuple(risk_B.shape)}, expected (B,), B >= 2. Score more cases.")
    return float(risk_B.std(correction=0))


def stand_in_drift(real: Values, stand_in: Values) -> Drift:
    """Return the drift of stand-ins (n, W) from real features (n, W), row by row those of one case (MICE.stand_ins)."""
    real_nW, stand_in_nW = _float64(real), _float64(stand_in)
    if real_nW.dim() != 2 or len(real_nW) == 0 or real_nW.shape != stand_in_nW.shape:
        shapes = f"{tuple(real_nW.shape)} and {tuple(stand_in_nW.shape)}"
        raise ValueError(f"real, stand_in: shapes {shapes}, expected (n, W) of the same n >= 1 cases. Leave empty ones out.")
    cosine = 1 - torch.cosine_similarity(real_nW, stand_in_nW, dim=1).mean()
    means_W = real_nW.mean(dim=0) - stand_in_nW.mean(dim=0)
    deviations_W = real_nW.std(dim=0, correction=0) - stand_in_nW.std(dim=0, correction=0)
    frechet = (means_W.square().sum() + deviations_W.square().sum()) / real_nW.square().sum(dim=1).mean()
    return Drift(float(cosine), float(frechet))


def alarms(
    *,
    entropy: RouterEntropy | None = None,
    spread: Mapping[str, float] | None = None,
    drift: Mapping[str, Drift] | None = None,
    limits: AlarmLimits | None = None,
) -> tuple[str, ...]:
    """Return a sentence per figure beyond its limit, or not a number; `spread` is by cancer type, `drift` by modality."""
    limits, spread, drift = limits or AlarmLimits(), spread or {}, drift or {}
    balance = "Lower the learning rate, or take fewer experts"
    routing = [] if entropy is None else [(entropy.of_case, entropy.of_mean)]
    lower = [
        *[("router entropy of a case", case, limits.least_entropy_of_case, balance) for case, _ in routing],
        *[("router entropy of the mean routing", mean, limits.least_entropy_of_mean, balance) for _, mean in routing],
        *[
            (f"spread of the risk, {c}", x, limits.least_spread, "Check features and loss: all get one risk")
            for c, x in spread.items()
        ],
    ]
    advice = "Hide modalities in training (drop_modalities), or leave the modality out"
    upper = [
        *[(f"cosine distance of stand-ins, {name}", d.cosine, limits.most_cosine, advice) for name, d in drift.items()],
        *[(f"Frechet distance of stand-ins, {name}", d.frechet, limits.most_frechet, advice) for name, d in drift.items()],
    ]
    # not >= rather than <: what is not a number is an alarm too
    return (
        *[f"{what}: {x:.3g}, expected at least {limit:g}. {todo}." for what, x, limit, todo in lower if not x >= limit],
        *[f"{what}: {x:.3g}, expected at most {limit:g}. {todo}." for what, x, limit, todo in upper if not x <= limit],
    )


def _float64(values: Values) -> Tensor:
    return torch.as_tensor(values).detach().to("cpu", torch.float64)
