"""What an evaluation found, as plain data: written once by protocol.py, read by report.py, the CLI and Dagster metadata.

No fitting and no plotting here. All risk scores are higher = worse; all times are days.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HeldOut:
    """Out-of-fold results of one cancer type: n held-out cases, each scored by models that never saw its fold.

    `fold` (n,) int; `duration_days` (n,) float; `event_observed` (n,) bool; `risk_score`: model name -> (n,) float, where the
    names are `mice` and those of the baselines (`cox_clinical`, `cox_rna`, `cox_clinical_rna`, `rsf`, ...). Risks of different
    folds come from different models, so they are comparable within a fold only.
    `survival_bins` (n, K): MICE's predicted survival at the end of each time bin; `routing` (n, E): overlapping-expert weights.
    `training_outcomes`: fold -> (durations in days, events) of this cancer type's training cases of that fold, on which metrics
    fit tau, times and censoring weights; empty in an evaluation made before it was kept.
    """

    cancer_type: str
    case_id: tuple[str, ...]
    fold: NDArray[np.int64]
    duration_days: NDArray[np.float64]
    event_observed: NDArray[np.bool_]
    risk_score: dict[str, NDArray[np.float64]]
    survival_bins: NDArray[np.float64]
    bin_edges_days: dict[int, tuple[float, ...]]  # fold -> inner edges
    routing: NDArray[np.float64]
    training_outcomes: dict[int, tuple[NDArray[np.float64], NDArray[np.bool_]]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingCurve:
    """Loss by epoch of one fit; `inner_c_index` is measured on the inner validation part of the training cases (nan if none).

    `chosen_epoch` counts from 1; 0 is the state that the fit started from, whose inner C-index is `start_c_index`.
    """

    stage: str  # "pretrain" | "finetune"
    cancer_type: str  # "" for pre-training
    fold: int
    seed: int
    train_loss: tuple[float, ...]
    inner_c_index: tuple[float, ...]
    chosen_epoch: int
    kernels: tuple[str, ...] = ()  # which implementation of each kernel ran, as `operation=backend`
    start_c_index: float = float("nan")


@dataclass(frozen=True)
class Coverage:
    """How many cases of a cohort have each modality."""

    cohort: str
    num_cases: int
    num_events: int
    num_by_modality: dict[str, int]


@dataclass(frozen=True)
class Evaluation:
    """One evaluated model version, with all a reader needs to judge or repeat it."""

    study: str
    model_version: str
    training_set_id: str
    snapshot_id: int
    endpoint: str
    protocol: str  # "honest: ..." in words
    encoders: dict[str, str]
    seeds: tuple[int, ...]
    settings: dict[str, str]  # width, epochs, batch size, backend, device ... as printed
    wall_time_s: float
    created_at: str
    code_version: str
    held_out: tuple[HeldOut, ...]
    curves: tuple[TrainingCurve, ...]
    coverage: tuple[Coverage, ...]
    notes: tuple[str, ...] = field(default=())  # what was not measured, and why
