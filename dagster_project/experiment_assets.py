"""Experiments over a study, a partition each: variants side by side, checks of trained networks -> one page.

Materializing one trains every variant that is not trained: hours for a large study. So no other asset depends on them.
"""

from typing import TYPE_CHECKING

import dagster as dg

from dagster_project.failures import typed_failures
from dagster_project.metadata import Metadata
from dagster_project.resources import REPOSITORY, Platform
from dagster_project.training_assets import training_snapshot
from mice_model.experiments.names import experiment_names

if TYPE_CHECKING:
    from mice_model.experiments.page import Result

EXPERIMENTS = REPOSITORY / "experiments"
experiments = dg.StaticPartitionsDefinition(list(experiment_names(EXPERIMENTS)))


@dg.asset(
    partitions_def=experiments,
    deps=[training_snapshot],
    group_name="experiments",
    kinds={"pytorch", "html"},
    owners=["team:model"],
)
def experiment(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """One experiment or check, by its name, on the study that the platform resource names."""
    from mice_model.experiments.catalogue import run_named

    with typed_failures():
        study, home, contracts = platform.wanted_study, platform.home, platform.contracts
        result = run_named(context.partition_key, EXPERIMENTS, study, home, contracts, num_workers=platform.num_workers)
    return dg.MaterializeResult(metadata=_metadata(result, platform))


def _metadata(result: "Result", platform: Platform) -> Metadata:
    """Describe a result: its first table, its notes, and where the page is."""
    table = result.comparisons[0]
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return {
        "found": table.title,
        "table": dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines)),
        "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in result.notes) or "none"),
        "report": dg.MetadataValue.path(str(result.page(platform.home))),
        "model_versions": len(result.model_versions),
    }
