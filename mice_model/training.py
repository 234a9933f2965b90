"""One fit of a network and its predictions: the loop, the optimiser, choosing the epoch. Knows batches, not folds or files.

The epoch is chosen on inner rows taken from the training rows, or fixed in advance; held-out rows never come in here.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from feature_store.errors import MiceError
from mice_model.data import FoldData
from mice_model.evaluation import TrainingCurve
from mice_model.losses import total_loss
from mice_model.metrics import concordance_index
from mice_model.model import MICE
from mice_model.progress import tracked
from mice_model.study import TrainConfig

IntArray = NDArray[np.int64]

# A stratum with fewer inner events says more about chance than about the epoch.
_LEAST_INNER_EVENTS = 5


class TrainingError(MiceError):
    """Training cannot go on (a loss that is not a number)."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of m cases: `risk` (m,), `survival` (m, K), `routing` (m, E)."""

    risk: NDArray[np.float64]
    survival: NDArray[np.float64]
    routing: NDArray[np.float64]


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to train on: CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fit(
    model: MICE,
    fold_data: FoldData,
    rows: IntArray,
    config: TrainConfig,
    *,
    stage: str,
    cancer_type: str,
    fold: int,
    seed: int,
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> TrainingCurve:
    """Train `model` in place on `rows` and leave it at the chosen epoch.

    Raises TrainingError naming the cases of the batch whose loss is not a number.
    """
    rng = np.random.default_rng([seed, fold])
    torch.manual_seed(int(rng.integers(2**31)))
    device = next(model.parameters()).device
    train, inner = (rows, rows[:0])
    if config.epoch_selection == "inner_validation":
        train, inner = inner_split(fold_data, rows, config.inner_fraction, rng)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    num_batches = math.ceil(len(train) / config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.epochs * num_batches + 1, pct_start=0.1
    )
    losses, scores, best = [], [], (-math.inf, 0, copy.deepcopy(model.state_dict()))
    for epoch in tracked(range(config.epochs), f"{stage} {cancer_type or 'all'} fold {fold} seed {seed}", config.epochs):
        model.train()
        total = 0.0
        for chunk in np.array_split(rng.permutation(train), num_batches):
            batch = fold_data.batch(chunk, rng).to(device)
            loss = total_loss(model(batch), batch, config.alpha).total
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"{stage}, epoch {epoch}: loss is {loss.item()}, expected a number; cases {batch.case_ids[:8]}."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(chunk)
        losses.append(total / len(train))
        scores.append(_inner_score(model, fold_data, inner) if len(inner) else math.nan)
        if not len(inner) or scores[-1] >= best[0]:
            best = (scores[-1], epoch, copy.deepcopy(model.state_dict()))
        if on_epoch is not None:
            on_epoch(epoch, losses[-1], scores[-1])
    model.load_state_dict(best[2])
    return TrainingCurve(stage, cancer_type, fold, seed, tuple(losses), tuple(scores), best[1])


def predict(model: MICE, fold_data: FoldData, rows: IntArray, batch_size: int = 256) -> Predicted:
    """Score `rows` deterministically, without gradients."""
    device = next(model.parameters()).device
    model.eval()
    risk, survival, routing = [], [], []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            output = model(fold_data.batch(rows[start : start + batch_size], None).to(device))
            risk.append(output.risk_score_B.double().cpu().numpy())
            survival.append(output.survival_BK.double().cpu().numpy())
            routing.append(output.routing_BE.double().cpu().numpy())
    return Predicted(np.concatenate(risk), np.concatenate(survival), np.concatenate(routing))


def inner_split(fold_data: FoldData, rows: IntArray, fraction: float, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Split training rows into (train, inner), stratified by cancer type and event."""
    strata = fold_data.data.cancer_index[rows] * 2 + fold_data.data.training_set.event_observed[rows]
    shuffled = rng.permutation(len(rows))
    shuffled = shuffled[np.argsort(strata[shuffled], kind="stable")]
    # every (1/fraction)-th of the stratified order, from a random start
    marks = np.floor((np.arange(len(rows)) + rng.random() / fraction) * fraction)
    is_inner = np.diff(marks, prepend=marks[0]) > 0
    return np.sort(rows[shuffled[~is_inner]]), np.sort(rows[shuffled[is_inner]])


def _inner_score(model: MICE, fold_data: FoldData, rows: IntArray) -> float:
    """Return the C-index within cancer types on the inner rows, weighted by events; nan if there are too few events."""
    risk = predict(model, fold_data, rows).risk
    data, strata = fold_data.data.training_set, fold_data.data.cancer_index[rows]
    score = weight = 0.0
    for stratum in np.unique(strata):
        ours = strata == stratum
        events = data.event_observed[rows][ours]
        if events.sum() >= _LEAST_INNER_EVENTS:
            c_index = concordance_index(data.duration_days[rows][ours], events, risk[ours])
            if not math.isnan(c_index):
                score, weight = score + c_index * events.sum(), weight + events.sum()
    return score / weight if weight else math.nan
