"""Everything that has a name, run by it: what the CLI and Dagster call. It writes the page and adds nothing to it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from feature_store.contract import Contract
from feature_store.home import Home
from mice_model.experiments.checks import failure_check, stand_in_check
from mice_model.experiments.experiment import load_experiment, variant_study
from mice_model.experiments.modality_patterns import modality_patterns
from mice_model.experiments.names import FAILURE_SIGNS, MODALITY_PATTERNS, STAND_IN_DRIFT
from mice_model.experiments.page import Result, write_result
from mice_model.experiments.run import run_experiment, train_and_evaluate
from mice_model.service import plan_training
from mice_model.study import Study

_CHECKS: Mapping[str, Callable[..., Result]] = {
    MODALITY_PATTERNS: modality_patterns,
    STAND_IN_DRIFT: stand_in_check,
    FAILURE_SIGNS: failure_check,
}


def run_named(
    name: str,
    folder: Path,
    study: Study,
    home: Home,
    contracts: Mapping[str, Contract],
    *,
    num_workers: int = 0,
    is_quick: bool = False,
) -> Result:
    """Run an experiment (a file of `folder`) or a check on a study, training what is not trained, and write its page and JSON.

    `contracts` maps cohort -> contract. Raises ExperimentError where there is no such name, or the file is malformed.
    """
    if name in _CHECKS:
        plan = plan_training(variant_study(study, {}, is_quick=is_quick), home, contracts, num_workers)
        train_and_evaluate(plan)
        result = _CHECKS[name](plan, study.name, is_quick=is_quick)
    else:
        experiment = load_experiment(folder / f"{name}.yaml")
        result = run_experiment(name, experiment, study, home, contracts, num_workers=num_workers, is_quick=is_quick)
    write_result(result, home)
    return result
