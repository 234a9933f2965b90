"""The ridge-penalised Cox model of the linear baselines, by lifelines.

What belongs here: one fit on plain arrays, and what to do when it does not converge. Which columns go in, and how
they were fitted, is for design_matrix.py and baselines.py.

Shapes: n training cases, m test cases, p columns. Durations in days, > 0.
"""

import logging
import warnings

import numpy as np
import polars as pl
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceError, ConvergenceWarning
from numpy.typing import ArrayLike, NDArray

from feature_store.errors import MiceError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

# One fixed penalty for all cohorts. Mean C-index on PORPOISE's folds of blca, brca, gbmlgg, luad and ucec with it:
# clinical .744, RNA .644, both .754 (0.01 gives .742, .641, .748; 1 gives .743, .647, .753).
DEFAULT_PENALIZER = 0.1
# Tried in turn until the fit converges: times the penalty, and the first Newton step (lifelines' own is 0.95; from
# there it ran away on two UCEC folds at a penalty of 0.01).
ATTEMPTS = ((1.0, 0.95), (1.0, 0.1), (10.0, 0.1), (100.0, 0.1))


class BaselineFitError(MiceError):
    """A Cox baseline could not be fitted, even with the strongest penalty tried."""


def fit_predict_cox(
    train_X: FloatArray,
    train_duration: ArrayLike,
    train_event: ArrayLike,
    test_X: FloatArray,
    penalizer: float | FloatArray = DEFAULT_PENALIZER,
) -> FloatArray:
    """Return the log partial hazard (m,) of test cases under a ridge-penalised Cox model of the training cases.

    Ties by Efron. lifelines scales every column to unit training variance before it penalises, so multiplying a
    column has no effect: give a column more weight w by a smaller entry, penalizer / w², in a `penalizer` of shape
    (p,). Columns constant in training are dropped. The fit is deterministic. A fit that does not converge is repeated
    with smaller steps, then with 10 and 100 times the penalty, with a logged warning each time, then
    BaselineFitError.
    """
    event = np.asarray(train_event, dtype=np.bool_)
    if not event.any():
        raise BaselineFitError(f"Cox model: 0 events in {len(event)} training cases, expected some. Use another split.")
    train_X = np.asarray(train_X, dtype=np.float64)
    varies = np.ptp(train_X, axis=0) > 0
    if not varies.any():
        raise BaselineFitError(f"Cox model: all {train_X.shape[1]} columns are constant. Check the inputs.")
    penalty = np.broadcast_to(np.asarray(penalizer, dtype=np.float64), (train_X.shape[1],))[varies]
    frame = pl.DataFrame(train_X[:, varies], schema=[f"x{j}" for j in range(int(varies.sum()))]).with_columns(
        duration_days=np.asarray(train_duration, dtype=np.float64), event_observed=event
    )
    for factor, step_size in ATTEMPTS:
        coefficients = _try_cox(frame, penalty * factor, step_size)
        if coefficients is not None:
            return np.asarray(test_X, dtype=np.float64)[:, varies] @ coefficients
        logger.warning(
            "Cox model of %d columns: no convergence with %g times the penalty, step %g",
            varies.sum(),
            factor,
            step_size,
        )
    raise BaselineFitError(
        f"Cox model: no convergence with {len(frame)} cases, {event.sum()} events, {varies.sum()} columns at"
        f" {ATTEMPTS[-1][0]:g} times the penalty. Raise `penalizer` or drop collinear columns."
    )


def _try_cox(frame: pl.DataFrame, penalty: FloatArray, step_size: float) -> FloatArray | None:
    """Return the coefficients, or None where lifelines says that it did not converge; other warnings pass."""
    fitter = CoxPHFitter(penalizer=penalty)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        # A rare category without an event: the ridge penalty keeps its coefficient finite.
        warnings.filterwarnings("ignore", r"(?s).*very low variance", ConvergenceWarning)
        try:
            fitter.fit(
                frame.to_pandas(),
                duration_col="duration_days",
                event_col="event_observed",
                fit_options={"step_size": step_size},
            )
        except (ConvergenceError, ConvergenceWarning):
            return None
    coefficients = fitter.params_.to_numpy(dtype=np.float64)
    return coefficients if np.isfinite(coefficients).all() else None
