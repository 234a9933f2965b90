"""The held-out folds of a cancer type, each with what its training outcomes fix for the metrics over time.

What belongs here: which rows a fold has, and its tau, times, censoring weights and follow-up. Metrics are in
survival_metrics.py and calibration.py; what is made of them in discrimination.py and predicted_survival.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mice_model.calibration import survival_at
from mice_model.evaluation import HeldOut
from mice_model.resampling import FloatArray
from mice_model.survival_metrics import CensoringCurve, EvaluationGrid, NoGridError


@dataclass(frozen=True)
class ScoredFold:
    """One held-out fold of a cancer type: its rows (m,) of `held_out`, and its training cases' outcomes (n,).

    `grid` and `censoring` are None where the training cases leave no room for a grid; `no_grid` says why.
    """

    held_out: HeldOut
    fold: int
    rows: NDArray[np.int64]
    training: tuple[FloatArray, NDArray[np.bool_]]
    grid: EvaluationGrid | None = None
    censoring: CensoringCurve | None = None
    no_grid: str = ""

    @property
    def outcome(self) -> tuple[FloatArray, NDArray[np.bool_]]:
        """The held-out cases' durations in days and events (m,)."""
        return self.held_out.duration_days[self.rows], self.held_out.event_observed[self.rows]

    @property
    def last_day(self) -> float:
        """The longest training duration."""
        return float(self.training[0].max())

    @property
    def has_curves(self) -> bool:
        """Whether MICE's survival is known between the days: not where a time bin starts after the last training day."""
        return self.last_day > max(self.held_out.bin_edges_days[self.fold], default=0.0)

    def survival(self, times_days: tuple[float, ...]) -> FloatArray:
        """Return MICE's survival (m, T) of the held-out cases at the times."""
        edges = self.held_out.bin_edges_days[self.fold]
        return survival_at(self.held_out.survival_bins[self.rows], edges, times_days, self.last_day)


def scored_folds(held_out: HeldOut) -> list[ScoredFold]:
    """Return the folds in ascending order; none where no training outcomes were kept. ValueError if some folds' lack."""
    if not held_out.training_outcomes:
        return []
    folds = np.unique(held_out.fold).tolist()
    missing = [fold for fold in folds if fold not in held_out.training_outcomes]
    if missing:
        raise ValueError(
            f"{held_out.cancer_type}: training outcomes of folds {sorted(held_out.training_outcomes)}, expected those of {folds}"
            " too. Score the held-out cases anew."
        )
    return [_fold(held_out, fold) for fold in folds]


def _fold(held_out: HeldOut, fold: int) -> ScoredFold:
    training, rows = held_out.training_outcomes[fold], np.flatnonzero(held_out.fold == fold)
    try:
        grid = EvaluationGrid.fit(*training)
    except NoGridError as error:
        return ScoredFold(held_out, fold, rows, training, no_grid=str(error))
    return ScoredFold(held_out, fold, rows, training, grid, CensoringCurve.fit(grid, *training))


def left_out(folds: list[ScoredFold]) -> list[str]:
    """Return in words which folds the metrics over time leave out, and why."""
    found = []
    for each in folds:
        where = f"{each.held_out.cancer_type}, fold {each.fold}"
        if each.no_grid:
            found.append(f"{where}: no Uno's C, AUC(t) and Brier score ({each.no_grid})")
        if not each.has_curves:
            edge = max(each.held_out.bin_edges_days[each.fold])
            found.append(
                f"{where}: no Brier score and calibration, since the last time bin starts on day {edge:g} and training"
                f" follow-up ends on day {each.last_day:g}."
            )
    return found
