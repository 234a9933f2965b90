"""Assets partitioned by cohort: landing -> staged -> published tables. Each reads its partition and calls one library function.

The staging asset carries the blocking checks, so a cohort that fails one is never published.
"""

from collections.abc import Iterator

import dagster as dg

from dagster_project.failures import typed_failures
from dagster_project.metadata import (
    check_results,
    embedding_metadata,
    file_metadata,
    report_metadata,
    staged_metadata,
    table_metadata,
)
from dagster_project.resources import Platform
from feature_store.tables import COHORT_TABLES

cohorts = dg.DynamicPartitionsDefinition(name="cohort")

CHECKS = (
    "keys_are_unique",
    "rows_belong_to_cases",
    "values_are_declared",
    "few_rows_are_quarantined",
    "outcomes_can_be_learned",
)
REPORT_EMBEDDINGS_KEY = dg.AssetKey(["store", "report_embeddings"])
TABLE_KEYS = {table.name: dg.AssetKey(["store", table.name]) for table in COHORT_TABLES}


@dg.asset(partitions_def=cohorts, group_name="ingest", kinds={"file"}, owners=["team:data"])
def landing(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The cohort's source files as they lie in its landing folder, fingerprinted."""
    from feature_store.ingest.stage import content_key, landing_files

    with typed_failures():
        contract, folder = platform.landing(context.partition_key)
        files = landing_files(contract, folder)
    return dg.MaterializeResult(metadata=file_metadata(files), data_version=dg.DataVersion(content_key(contract, files)))


@dg.asset(partitions_def=cohorts, deps=[landing], group_name="ingest", kinds={"pytorch"}, owners=["team:data"])
def slide_embeddings(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Patch embeddings of the whole slides that the cohort's contract names, if any; one that is embedded is not again."""
    from mice_model.slide_embedding.run import RunConfig, embed_contract, runner_named

    with typed_failures():
        contract, folder = platform.landing(context.partition_key)
        report = embed_contract(contract, folder, platform.home, RunConfig(runner=runner_named(platform.slide_runner)))
    return dg.MaterializeResult(metadata=embedding_metadata(report))


@dg.asset(
    partitions_def=cohorts,
    deps=[landing, slide_embeddings],
    group_name="ingest",
    kinds={"polars", "parquet"},
    owners=["team:data"],
    check_specs=[dg.AssetCheckSpec(name, asset="staged_cohort", blocking=True) for name in CHECKS],
)
def staged_cohort(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The cohort read and mapped as its contract says, rejected rows in quarantine with the reason; checked, not yet visible."""
    from feature_store.audit import audit

    with typed_failures():
        staged = platform.staged(context.partition_key)
        checks = audit(staged, context.partition_key)
    return dg.MaterializeResult(
        metadata=staged_metadata(staged, context.partition_key),
        check_results=check_results(checks),
        data_version=dg.DataVersion(staged.key),
    )


@dg.multi_asset(
    partitions_def=cohorts,
    specs=[
        dg.AssetSpec(
            key,
            deps=[staged_cohort],
            group_name="store",
            kinds={"duckdb", "parquet"},
            owners=["team:data"],
            description=f"One row per {table.grain}.",
        )
        for table, key in zip(COHORT_TABLES, TABLE_KEYS.values(), strict=True)
    ],
)
def cohort_tables(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult]:
    """Publish the staged cohort: all tables in one transaction, and only what changed."""
    from feature_store.lake import Lake
    from feature_store.publish import publish_cohort

    with typed_failures():
        staged = platform.staged(context.partition_key)
        published = publish_cohort(Lake(platform.home), staged, context.partition_key, accepts_drift=platform.accepts_drift)
    context.log.info("changed: %s", ", ".join(published.changed) or "nothing")
    for table in COHORT_TABLES:
        yield dg.MaterializeResult(
            asset_key=TABLE_KEYS[table.name],
            metadata=table_metadata(table, published),
            data_version=dg.DataVersion(published.content[table.name]),
        )


@dg.asset(
    key=REPORT_EMBEDDINGS_KEY,
    partitions_def=cohorts,
    deps=[TABLE_KEYS["reports"]],
    group_name="store",
    kinds={"pytorch", "duckdb"},
    owners=["team:data"],
)
def report_embeddings(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The cohort's reports by the text model that the study names, if it names one; a report that is embedded is not again."""
    from mice_model.report_embedding.run import embed_for_study

    with typed_failures():
        done = embed_for_study(platform.wanted_study.features.report_encoding, platform.home, context.partition_key)
    return dg.MaterializeResult(metadata=report_metadata(done))
