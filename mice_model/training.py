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
from torch import nn

from feature_store.errors import MiceError
from feature_store.progress import tracked
from feature_store.read_ahead import read_ahead
from kernels.backend import recording
from mice_model.batch import Batch, drop_modalities
from mice_model.data import FoldData
from mice_model.evaluation import TrainingCurve
from mice_model.losses import total_loss
from mice_model.metrics import concordance_index
from mice_model.resampling import stratified_split
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
    model: nn.Module,
    fold_data: FoldData,
    rows: IntArray,
    config: TrainConfig,
    *,
    stage: str,
    cancer_type: str,
    fold: int,
    seed: int,
    selection: IntArray | None = None,
) -> TrainingCurve:
    """Train `model` in place on `rows` and leave it at the chosen epoch: the last one where no inner score is defined.

    The epoch is chosen on an inner part of `rows`, or on the rows `selection` (the author protocol's held-out cases). Epoch 0 is
    the state that the fit started from, and a candidate where `config.may_keep_start`. Raises TrainingError naming the cases of
    the batch whose loss is not a number.
    """
    what = f"{stage} {cancer_type or 'all'} fold {fold} seed {seed}"
    rng = np.random.default_rng([seed, fold])
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    torch.manual_seed(generator.initial_seed())
    train, inner = (rows, rows[:0])
    if selection is not None:
        inner = selection
    elif config.epoch_selection == "inner_validation":
        train, inner = inner_split(fold_data, rows, config.inner_fraction, rng)
    step = _Step(model, config, what, math.ceil(len(train) / config.batch_size), generator)
    chosen, kernels = _Chosen(model), set[str]()
    chosen.see(math.nan, _score(model, fold_data, inner) if config.may_keep_start else math.nan)
    for epoch in tracked(range(1, config.epochs + 1), what, config.epochs):
        model.train()
        total = 0.0
        made = (fold_data.batch(chunk, rng) for chunk in np.array_split(rng.permutation(train), step.num_batches))
        with recording() as ran, closing(_on_device(made, step.device)) as batches:
            for batch in batches:
                total += step.take(batch, epoch) * len(batch)
        kernels |= ran
        chosen.see(total / len(train), _score(model, fold_data, inner))
    if len(inner) and math.isnan(chosen.best):
        logger.warning("%s: too few events in %d inner cases to choose an epoch; the last is kept", what, len(inner))
    model.load_state_dict(chosen.state)
    curve = (tuple(chosen.losses[1:]), tuple(chosen.scores[1:]), chosen.epoch)
    return TrainingCurve(stage, cancer_type, fold, seed, *curve, tuple(sorted(kernels)), chosen.scores[0])


class _Step:
    """Forward, loss, backward, update: what happens to one batch."""

    def __init__(self, model: nn.Module, config: TrainConfig, what: str, num_batches: int, generator: torch.Generator) -> None:
        self.model, self.config, self.what, self.num_batches, self.generator = model, config, what, num_batches, generator
        self.device = next(model.parameters()).device
        rate, decay = config.learning_rate, config.weight_decay
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
        num_steps = config.epochs * num_batches + 1
        # a tenth warms up, at least one step: torch divides by zero where a tenth is one step exactly
        warm_up = max(0.1, min(2 / num_steps, 0.99))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rate, total_steps=num_steps, pct_start=warm_up)

    def take(self, batch: Batch, epoch: int) -> float:
        """Return the batch's loss and update the model by its gradient."""
        config = self.config
        if config.modality_dropout:
            batch = drop_modalities(batch, config.modality_dropout, self.generator)
        loss = total_loss(
            self.model(batch),
            batch,
            config.alpha,
            survival_weight=config.survival_weight,
            cox_weight=config.cox_weight,
            ranking_weight=config.ranking_weight,
        ).total
        if not torch.isfinite(loss):
            found = f"loss is {loss.item()}, expected a number; cases {batch.case_ids[:8]}"
            raise TrainingError(f"{self.what}, epoch {epoch}: {found}.")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_norm)
        self.optimiser.step()
        self.schedule.step()
        return float(loss.detach())


class _Chosen:
    """The state of the best epoch so far: the best score, the later of equals, and the last epoch where no score is defined."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.epoch, self.best, self.state = 0, math.nan, model.state_dict()

    def see(self, loss: float, score: float) -> None:
        """Take in the loss and score of the next epoch; the first call is for the state before training."""
        epoch = len(self.losses)
        self.losses.append(loss)
        self.scores.append(score)
        if math.isnan(self.best) or score >= self.best:
            self.epoch, self.best, self.state = epoch, score, copy.deepcopy(self.model.state_dict())


def _on_device(made: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Yield batches on `device`; for a GPU they are made while it computes. On a CPU that gained nothing (docs/decisions.md)."""
    if device.type != "cuda":
        yield from made
        return
    with closing(read_ahead((batch.pinned() for batch in made), _BATCHES_AHEAD)) as ahead:
        for batch in ahead:
            yield batch.to(device)


def predict(model: nn.Module, fold_data: FoldData, rows: IntArray, batch_size: int = 256) -> Predicted:
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
    train, inner = stratified_split(strata, fraction, rng)
    return rows[train], rows[inner]


def _score(model: nn.Module, fold_data: FoldData, rows: IntArray) -> float:
    """Return the C-index within cancer types on the inner rows, weighted by events; nan if there are too few events."""
    if not len(rows):
        return math.nan
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
