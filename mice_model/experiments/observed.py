"""What a network does on cases, looked at without their outcomes: routing, spread of the risks, stand-ins beside real features.

What belongs here: one forward pass over cases and the figures of alarms.py from it. Which networks are looked at, and what is
said of it, is watch.py's.

Shape legend: m cases, E experts, n cases that have a modality, W width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mice_model.alarms import Drift, RouterEntropy, prediction_spread, router_entropy, stand_in_drift
from mice_model.data import FoldData
from mice_model.model import MICE
from mice_model.resampling import mean_of_defined

IntArray = NDArray[np.int64]
_BATCH_SIZE = 256


@dataclass(frozen=True)
class Signs:
    """Figures of one or more networks. `entropy` None without experts that a router chooses, `spread` None of one case.

    `drift` and `num_real`: modality -> how far stand-ins are from the real features of the cases that have it, and how many.
    """

    entropy: RouterEntropy | None
    spread: float | None
    drift: dict[str, Drift]
    num_real: dict[str, int]


def observe(model: nn.Module, fold_data: FoldData, rows: IntArray) -> Signs:
    """Return the figures of a network on `rows` (m,); a network without stand-ins has no drift."""
    risks, routings, real, synthesised = [], [], dict[str, list[Tensor]](), dict[str, list[Tensor]]()
    for risk_m, routing_mE, pairs in _passes(model, fold_data, rows):
        risks.append(risk_m)
        routings.append(routing_mE)
        for name, (real_nW, stand_in_nW) in pairs.items():
            real.setdefault(name, []).append(real_nW)
            synthesised.setdefault(name, []).append(stand_in_nW)
    risk_m, routing_mE = torch.cat(risks), torch.cat(routings)
    features = {name: (torch.cat(real[name]), torch.cat(synthesised[name])) for name in real}
    features = {name: pair for name, pair in features.items() if len(pair[0])}
    return Signs(
        router_entropy(routing_mE) if routing_mE.shape[1] >= 2 else None,
        prediction_spread(risk_m) if len(risk_m) >= 2 else None,
        {name: stand_in_drift(*pair) for name, pair in features.items()},
        {name: len(pair[0]) for name, pair in features.items()},
    )


def mean_signs(found: Sequence[Sequence[Signs]]) -> Signs:
    """Return the mean over networks, given as seeds of folds; cases are counted once per fold.

    Features of two networks have no common space, so each network's figures are computed alone and averaged, not the features.
    """
    every = [signs for of_fold in found for signs in of_fold]
    entropies = [signs.entropy for signs in every if signs.entropy is not None]
    spreads = [signs.spread for signs in every if signs.spread is not None]
    names = list(dict.fromkeys(name for signs in every for name in signs.drift))
    of_name = {name: [signs.drift[name] for signs in every if name in signs.drift] for name in names}
    return Signs(
        RouterEntropy(_mean(e.of_case for e in entropies), _mean(e.of_mean for e in entropies)) if entropies else None,
        _mean(spreads) if spreads else None,
        {name: Drift(_mean(d.cosine for d in drifts), _mean(d.frechet for d in drifts)) for name, drifts in of_name.items()},
        {name: sum(of_fold[0].num_real.get(name, 0) for of_fold in found if of_fold) for name in names},
    )


def _passes(
    model: nn.Module, fold_data: FoldData, rows: IntArray
) -> Iterator[tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]]:
    """Yield (risks, routing, modality -> (real features, stand-ins) of the cases that have it), batch by batch."""
    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(rows), _BATCH_SIZE):
        with torch.inference_mode():
            batch = fold_data.batch(rows[start : start + _BATCH_SIZE], None).to(device)
            output = model(batch)
            stand_ins = model.stand_ins(batch) if isinstance(model, MICE) else {}
            there = {name: batch.present[name] for name in stand_ins}
            features = output.modality_features
            pairs = {name: (features[name][there[name]], stand_in[there[name]]) for name, stand_in in stand_ins.items()}
        yield output.risk_score_B, output.routing_BE, pairs


def _mean(values: "Iterator[float] | Sequence[float]") -> float:
    return float(mean_of_defined(np.array(list(values), dtype=np.float64), axis=0))
