"""The random survival forest baseline, kept on the other side of a process boundary.

What belongs here: starting `baselines/random_survival_forest.py` and reading its answer. scikit-survival is GPL-3.0
and is never imported here or anywhere else in the platform's process; `pip install .[baselines]` brings it.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.errors import MiceError

FOREST_MODULE = "baselines.random_survival_forest"


class ForestError(MiceError):
    """The random survival forest's process failed, ran out of time, or gave no answer."""


@dataclass(frozen=True)
class ForestJob:
    """One forest to fit: X_train (n, p), duration_train (n,) days, event_train (n,) bool, X_test (m, p)."""

    X_train: NDArray[np.float64]
    duration_train: NDArray[np.float64]
    event_train: NDArray[np.bool_]
    X_test: NDArray[np.float64]
    seed: int


def is_forest_installed() -> bool:
    """Return whether scikit-survival can be found, without importing it."""
    return importlib.util.find_spec("sksurv") is not None


def fit_predict_forests(
    jobs: Sequence[ForestJob],
    *,
    num_trees: int = 300,
    min_samples_leaf: int = 15,
    num_processes: int | None = None,
    timeout_s: float = 3600.0,
) -> list[NDArray[np.float64]]:
    """Fit one forest per job in one child process and return the test risks (m,), in the jobs' order; higher is worse.

    `num_processes` forests are fitted at a time (None: one per CPU). A fit of 500 cases, 80 columns and 300 trees takes
    about 2.5 s of one core. ForestError holds the end of the child's error output.
    """
    if not jobs:
        return []
    arrays: dict[str, NDArray[np.generic]] = {
        "num_jobs": np.array(len(jobs)),
        "num_trees": np.array(num_trees),
        "min_samples_leaf": np.array(min_samples_leaf),
        "num_processes": np.array(num_processes or os.cpu_count() or 1),
    }
    for i, job in enumerate(jobs):
        arrays[f"X_train_{i}"] = np.asarray(job.X_train, dtype=np.float64)
        arrays[f"duration_train_{i}"] = np.asarray(job.duration_train, dtype=np.float64)
        arrays[f"event_train_{i}"] = np.asarray(job.event_train, dtype=np.bool_)
        arrays[f"X_test_{i}"] = np.asarray(job.X_test, dtype=np.float64)
        arrays[f"seed_{i}"] = np.array(job.seed)
    with tempfile.TemporaryDirectory(prefix="mice-forest-") as folder:
        inputs, outputs = Path(folder) / "in.npz", Path(folder) / "out.npz"
        with inputs.open("wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]  # numpy's stub takes `allow_pickle` for any keyword
        _run_child(inputs, outputs, timeout_s)
        with np.load(outputs, allow_pickle=False) as answer:
            return [answer[f"risk_{i}"] for i in range(len(jobs))]


def _run_child(inputs: Path, outputs: Path, timeout_s: float) -> None:
    command = [sys.executable, "-m", FOREST_MODULE, str(inputs), str(outputs)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603 (no shell, our own module)
    except subprocess.TimeoutExpired as late:
        raise ForestError(
            f"random survival forest: still running after {timeout_s:.0f} s. Raise timeout_s or fit fewer trees."
        ) from late
    if child.returncode != 0 or not outputs.exists():
        raise ForestError(
            f"random survival forest: process ended with {child.returncode}, expected 0; its error output ends with"
            f" {child.stderr.strip()[-500:]!r}. Check the `baselines` extra."
        )
