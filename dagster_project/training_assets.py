"""Assets over all cohorts of a study: training snapshot -> networks -> evaluation -> predictions in the store."""

import dagster as dg

from dagster_project.cohort_assets import REPORT_EMBEDDINGS_KEY, TABLE_KEYS
from dagster_project.failures import typed_failures
from dagster_project.metadata import Metadata, curve_metadata, evaluation_metadata
from dagster_project.resources import Platform


@dg.asset(deps=[*TABLE_KEYS.values(), REPORT_EMBEDDINGS_KEY], group_name="training", kinds={"duckdb"}, owners=["team:model"])
def training_snapshot(platform: Platform) -> dg.MaterializeResult:
    """The snapshot the study trains on, and the content hash of what it trains on."""
    from mice_model.service import count_training_cases

    with typed_failures():
        plan = platform.plan
        counts = count_training_cases(plan)
    metadata: Metadata = {
        "study": plan.study.name,
        "snapshot": plan.snapshot_id,
        "training_set_id": plan.training_set_id,
        **counts,
    }
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(plan.training_set_id))


@dg.asset(deps=[training_snapshot], group_name="training", kinds={"pytorch"}, owners=["team:model"])
def pretrained_networks(platform: Platform) -> dg.MaterializeResult:
    """A network per fold and seed, pre-trained on all cancer types with the fold held out."""
    from mice_model.service import pretrain_study

    with typed_failures():
        plan = platform.plan
        curves = pretrain_study(plan)
    return dg.MaterializeResult(metadata=curve_metadata(curves), data_version=dg.DataVersion(plan.model_version))


@dg.asset(deps=[pretrained_networks], group_name="training", kinds={"pytorch"}, owners=["team:model"])
def finetuned_networks(platform: Platform) -> dg.MaterializeResult:
    """A network per fold, seed and evaluated cancer type, fine-tuned on the other folds."""
    from mice_model.service import finetune_study

    with typed_failures():
        plan = platform.plan
        curves = finetune_study(plan)
    return dg.MaterializeResult(metadata=curve_metadata(curves), data_version=dg.DataVersion(plan.model_version))


@dg.asset(deps=[finetuned_networks], group_name="training", kinds={"html"}, owners=["team:model"])
def evaluation(platform: Platform) -> dg.MaterializeResult:
    """Held-out C-indices of MICE and of Cox and forest baselines on the same cases, and the report."""
    from mice_model.service import evaluate_study

    with typed_failures():
        plan = platform.plan
        summary = evaluate_study(plan)
    return dg.MaterializeResult(
        metadata=evaluation_metadata(summary, plan.report), data_version=dg.DataVersion(plan.model_version)
    )


@dg.asset(
    key=["store", "predictions"],
    deps=[evaluation],
    group_name="training",
    kinds={"duckdb", "parquet"},
    owners=["team:model"],
)
def predictions(platform: Platform) -> dg.MaterializeResult:
    """Every held-out case's risk score, survival curve and experts, as rows of the store."""
    from mice_model.service import publish_predictions

    with typed_failures():
        plan = platform.plan
        published = publish_predictions(plan)
    metadata: Metadata = {"dagster/row_count": published.num_rows["predictions"], "model_version": plan.model_version}
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(plan.model_version))
