"""Running the graph from a command: the instance at the home, partitions, one run per cohort, then the training run.

What belongs here: launching jobs in this process and saying how they ended. What a job does is in the assets.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from dagster_project.cohort_assets import cohorts
from dagster_project.definitions import build_defs
from dagster_project.resources import Platform
from feature_store.errors import MiceError

logger = logging.getLogger(__name__)

_INSTANCE_CONFIG = """\
# Written by the platform (dagster_project/launch.py). No login on the web server: keep it on loopback.
telemetry:
  enabled: false
nux:
  enabled: false
"""


class RunFailedError(MiceError):
    """A Dagster run failed; the message is the failing step's own."""


def open_instance(dagster_home: Path) -> dg.DagsterInstance:
    """Return the Dagster instance that keeps its runs in `dagster_home`, making the folder and its dagster.yaml first."""
    dagster_home.mkdir(parents=True, exist_ok=True)
    config = dagster_home / "dagster.yaml"
    if not config.exists():
        config.write_text(_INSTANCE_CONFIG, encoding="utf-8")
    return dg.DagsterInstance.from_config(str(dagster_home))


def register_cohorts(instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    """Make the cohorts partitions of the code location, as the UI lists them."""
    instance.add_dynamic_partitions(str(cohorts.name), list(names))


def materialize_cohorts(platform: Platform, instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    """Materialize landing to published tables for each cohort, a run each. Raises RunFailedError at the first failure."""
    register_cohorts(instance, names)
    for done, name in enumerate(names, start=1):
        logger.info("cohort %s (%d of %d)", name, done, len(names))
        _run(platform, instance, "ingest_cohort", name)


def train(platform: Platform, instance: dg.DagsterInstance) -> None:
    """Materialize snapshot to predictions for the platform's study. Raises RunFailedError if a step fails."""
    _run(platform, instance, "train_study", None)


def _run(platform: Platform, instance: dg.DagsterInstance, job: str, partition: str | None) -> None:
    definitions = build_defs({"platform": platform})
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},  # the log of a run is in its instance
    )
    if result.success:
        return
    checks = [check for check in result.get_asset_check_evaluations() if not check.passed]
    reasons = [f"{check.check_name}: {check.description}" for check in checks]
    reasons = reasons or [_reason(event) for event in result.all_events if event.is_step_failure]
    where = f"{job}{f' of {partition}' if partition else ''}"
    raise RunFailedError(f"{where}: {'; '.join(filter(None, reasons)) or 'failed'} (run {result.run_id}).")


def _reason(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    return failure.error.message.strip() if failure.error is not None else ""
