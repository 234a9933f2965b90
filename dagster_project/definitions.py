"""The code location: what there is to materialize, and the jobs over it. `build_defs` is the seam for tests.

Must stay quick to import (no torch, transformers or polars at module level): the UI and every run load it.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_project import cohort_assets, experiment_assets, training_assets
from dagster_project.resources import Platform

ingest_cohort = dg.define_asset_job(
    "ingest_cohort",
    selection=dg.AssetSelection.groups("ingest", "store"),
    partitions_def=cohort_assets.cohorts,
    description="Landing to published tables, for one cohort.",
)
train_study = dg.define_asset_job(
    "train_study",
    selection=dg.AssetSelection.groups("training"),
    description="Snapshot to predictions, for the study that the platform resource names.",
)
run_experiment = dg.define_asset_job(
    "run_experiment",
    selection=dg.AssetSelection.groups("experiments"),
    partitions_def=experiment_assets.experiments,
    description="Variants of that study side by side, or a check of its networks: one page.",
)


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the definitions, with other resources where given (tests, the CLI)."""
    platform = Platform(
        data_folder=dg.EnvVar("MICE_DATA").get_value("") or "",
        study=dg.EnvVar("MICE_STUDY").get_value("demo") or "demo",
        slide_runner=dg.EnvVar("MICE_SLIDE_RUNNER").get_value("processes") or "processes",
    )
    return dg.Definitions(
        assets=dg.load_assets_from_modules([cohort_assets, training_assets, experiment_assets]),
        jobs=[ingest_cohort, train_study, run_experiment],
        resources={"platform": platform, **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )


defs = build_defs()
