"""One fit of a network and its predictions: the loop, the optimiser, choosing the epoch. Knows batches, not folds or files.

The epoch is chosen on inner rows taken from the training rows, or fixed in advance; held-out rows never come in here.
"""

import copy
import logging
import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from feature_store.errors import MiceError
from feature_store.progress import tracked
from feature_store.read_ahead import read_ahead
from kernels.backend import recording
from mice_model.batch import Batch
from mice_model.data import FoldData
from mice_model.evaluation import TrainingCurve
from mice_model.losses import total_loss
from mice_model.metrics import concordance_index
from mice_model.model import MICE
from mice_model.study import TrainConfig

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]

# A stratum with fewer inner events says more about chance than about the epoch.
_LEAST_INNER_EVENTS = 5
_BATCHES_AHEAD = 2


class TrainingError(MiceError):
    """Training cannot go on (a loss that is not a number)."""


@dataclass(frozen=True)
class Predicted:
    """Predictions of m cases: `risk` (m,), `survival` (m, K), `routing` (m, E)."""

    risk: NDArray[np.float64]
    survival: NDArray[np.float64]
    routing: NDArray[np.float64]


def pick_device() -> torch.device:
    """Return the device to train on: CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
) -> TrainingCurve:
    """Train `model` in place on `rows` and leave it at the chosen epoch: the last one where no inner score is defined.

    Raises TrainingError naming the cases of the batch whose loss is not a number.
    """
    what = f"{stage} {cancer_type or 'all'} fold {fold} seed {seed}"
    rng = np.random.default_rng([seed, fold])
    torch.manual_seed(int(rng.integers(2**31)))
    device = next(model.parameters()).device
    train, inner = (rows, rows[:0])
    if config.epoch_selection == "inner_validation":
        train, inner = inner_split(fold_data, rows, config.inner_fraction, rng)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    num_batches = math.ceil(len(train) / config.batch_size)
    num_steps = config.epochs * num_batches + 1
    # a tenth warms up, at least one step: torch divides by zero where a tenth is one step exactly
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=num_steps, pct_start=max(0.1, 2 / num_steps)
    )
    losses, scores, chosen_epoch, chosen = [], [], 0, model.state_dict()
    kernels: set[str] = set()
    for epoch in tracked(range(config.epochs), what, config.epochs):
        model.train()
        total = 0.0
        made = (fold_data.batch(chunk, rng) for chunk in np.array_split(rng.permutation(train), num_batches))
        with closing(_on_device(made, device)) as batches, recording() as ran:
            for batch in batches:
                loss = total_loss(model(batch), batch, config.alpha).total
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"{what}, epoch {epoch}: loss is {loss.item()}, expected a number; cases {batch.case_ids[:8]}."
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
        kernels |= ran
        losses.append(total / len(train))
        scores.append(_inner_score(model, fold_data, inner) if len(inner) else math.nan)
        best = scores[chosen_epoch]
        if math.isnan(best) or scores[-1] >= best:
            chosen_epoch, chosen = epoch, copy.deepcopy(model.state_dict())
    if config.epoch_selection == "inner_validation" and math.isnan(scores[chosen_epoch]):
        logger.warning("%s: too few events in %d inner cases to choose an epoch; the last is kept", what, len(inner))
    model.load_state_dict(chosen)
    return TrainingCurve(stage, cancer_type, fold, seed, tuple(losses), tuple(scores), chosen_epoch, tuple(sorted(kernels)))


def _on_device(made: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield batches on `device`; for a GPU they are made while it computes. On a CPU that gained nothing (docs/decisions.md)."""
    if device.type != "cuda":
        yield from made
        return
    with closing(read_ahead((batch.pinned() for batch in made), _BATCHES_AHEAD)) as ahead:
        for batch in ahead:
            yield batch.to(device)


def predict(model: MICE, fold_data: FoldData, rows: IntArray, batch_size: int = 256) -> Predicted:
    """Score `rows` deterministically, without gradients."""
    device = next(model.parameters()).device
    model.eval()
    risk, survival, routing = [], [], []
    made = (fold_data.batch(rows[start : start + batch_size], None) for start in range(0, len(rows), batch_size))
    with torch.inference_mode(), closing(_on_device(made, device)) as batches:
        for batch in batches:
            output = model(batch)
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
