"""How good MICE's predicted survival is: integrated Brier scores against Kaplan-Meier, and calibration after some years.

What belongs here: which folds and cases go into these figures, by cancer type and as the mean over cancer types. The metrics
are in survival_metrics.py and calibration.py. Baselines have risks only, so only MICE is measured here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mice_model.calibration import Calibration, calibration
from mice_model.resampling import mean_of_defined
from mice_model.scored_folds import ScoredFold
from mice_model.survival_metrics import integrated_brier_score, null_survival
from mice_model.svg import DAYS_PER_YEAR

YEARS = (1, 3, 5)
MOST_GROUPS = 5
CASES_PER_GROUP = 20  # with fewer, the observed share of a group is mostly chance: at 20 its standard error is up to 0.11


@dataclass(frozen=True)
class Brier:
    """The integrated Brier score of MICE and of the training cases' Kaplan-Meier curve, means over the same folds."""

    mice: float
    kaplan_meier: float
    num_undefined: int


@dataclass(frozen=True)
class PooledCalibration:
    """Calibration of the held-out cases of the `num_folds` folds whose training follow-up reaches the day."""

    groups: Calibration
    num_folds: int


def brier(folds: Sequence[ScoredFold]) -> Brier:
    """Return both integrated Brier scores; nan where no fold has a grid and curves."""
    mice, null = [], []
    for each in folds:
        if each.grid is not None and each.censoring is not None and each.has_curves:
            case = each.grid, each.censoring, *each.outcome
            mice.append(integrated_brier_score(*case, each.survival(each.grid.times_days)))
            null.append(integrated_brier_score(*case, null_survival(each.grid, *each.training, len(each.rows))))
    return Brier(_mean(mice), _mean(null), len(folds) - len(mice))


def calibrations(folds: Sequence[ScoredFold]) -> dict[int, PooledCalibration]:
    """Return calibration by years, for those that some fold's training follow-up reaches.

    Cases are in groups of 20 or more, at most five of them: quintiles of predicted risk in all but small cohorts.
    """
    found = {}
    for years in YEARS:
        day = years * DAYS_PER_YEAR
        reaching = [each for each in folds if each.has_curves and each.last_day >= day]
        if reaching:
            duration, event = (np.concatenate(columns) for columns in zip(*(each.outcome for each in reaching), strict=True))
            survival = np.concatenate([each.survival((day,))[:, 0] for each in reaching])
            num_groups = min(MOST_GROUPS, max(1, len(duration) // CASES_PER_GROUP))
            found[years] = PooledCalibration(calibration(duration, event, survival, day, num_groups), len(reaching))
    return found


def brier_rows(found: Mapping[str, Brier], mean: str) -> dict[str, dict[str, float]]:
    """Return {cancer type or `mean`: {mice, kaplan_meier}}, the mean over the cancer types that have them."""
    rows = {cancer_type: {"mice": each.mice, "kaplan_meier": each.kaplan_meier} for cancer_type, each in found.items()}
    return {**rows, mean: {name: _mean([row[name] for row in rows.values()]) for name in ("mice", "kaplan_meier")}}


def calibration_rows(found: Mapping[str, Mapping[int, PooledCalibration]], mean: str) -> dict[str, dict[str, Any]]:
    """Return {cancer type: {years: the groups' columns, mean_absolute_error, num_folds}} and `mean`: {years: its error}."""
    rows: dict[str, dict[str, Any]] = {
        cancer_type: {
            str(years): {
                **asdict(each.groups),
                "mean_absolute_error": each.groups.mean_absolute_error,
                "num_folds": each.num_folds,
            }
            for years, each in by_years.items()
        }
        for cancer_type, by_years in found.items()
    }
    errors = {
        str(years): [row[str(years)]["mean_absolute_error"] for row in rows.values() if str(years) in row] for years in YEARS
    }
    rows[mean] = {
        years: {"mean_absolute_error": _mean(values), "num_cancer_types": sum(not math.isnan(v) for v in values)}
        for years, values in errors.items()
        if values
    }
    return rows


def _mean(values: Sequence[float]) -> float:
    return float(mean_of_defined(np.array(values, dtype=np.float64), axis=0))
