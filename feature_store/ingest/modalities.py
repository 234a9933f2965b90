"""The modality matrix of a cohort: for every case and modality, whether it is there, and if not, why not."""

from collections.abc import Mapping

import polars as pl

from feature_store import tables
from feature_store.columns import MODALITIES

# modality -> the table whose rows make it present; a quarantined row of that table makes it a failed check
_TABLES = {
    "clinical": "clinical",
    "rna": "rna",
    "copy_number": "copy_number",
    "protein": "protein",
    "mutations": "mutations",
    "report": "reports",
    "slide": "patch_bags",
}
_ALSO_FAILS = {"slide": "slides"}  # a slide rejected as such never gets as far as its bag


def modality_matrix(
    cases: pl.DataFrame, cases_with: Mapping[str, pl.DataFrame], failures: pl.DataFrame, assessed: Mapping[str, set[str]]
) -> pl.DataFrame:
    """Return the table `modality_matrix` over all staged cases.

    `cases_with`: the case_id that each table has rows of; `failures` and `assessed` are the Ingest's.
    """
    cases = cases.select("case_id", "cohort")
    frames = [tables.MODALITY_MATRIX.empty()]
    for modality in MODALITIES:
        name = _TABLES[modality]
        also = pl.DataFrame({"case_id": sorted(assessed.get(modality, ()))}, schema={"case_id": pl.String})
        have = pl.concat([cases_with[name], also]).unique()
        failed = (
            failures.filter(pl.col("table_name").is_in([name, _ALSO_FAILS.get(modality, name)]))
            .select("case_id", failure="reason")
            .unique("case_id", keep="first", maintain_order=True)
        )
        state = cases.join(have.with_columns(is_there=pl.lit(value=True)), on="case_id", how="left").join(
            failed, on="case_id", how="left"
        )
        is_there = pl.col("is_there").fill_null(value=False)
        is_failed = pl.col("failure").is_not_null()
        frames.append(
            state.select(
                "case_id",
                "cohort",
                modality=pl.lit(modality),
                state=pl.when(is_there)
                .then(pl.lit("present"))
                .when(is_failed)
                .then(pl.lit("failed_check"))
                .otherwise(pl.lit("absent")),
                reason=pl.when(is_there).then(None).when(is_failed).then("failure").otherwise(pl.lit("no source has it")),
            )
        )
    return pl.concat(frames).sort("case_id", "modality")
