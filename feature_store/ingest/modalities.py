"""The modality matrix of a cohort: for every case and modality, whether it is there, and if not, why not."""

import polars as pl

from feature_store import tables
from feature_store.columns import MODALITIES

# modality -> the tables whose rows make it present, and whose quarantined rows make it a failed check
_TABLES = {
    "clinical": ("clinical",),
    "rna": ("rna",),
    "copy_number": ("copy_number",),
    "mutations": ("mutations",),
    "report": ("reports",),
    "slide": ("patch_bags",),
}


def modality_matrix(staged: dict[str, pl.DataFrame], failures: pl.DataFrame) -> pl.DataFrame:
    """Return the table `modality_matrix` over all staged cases; `failures` is Ingest.failures()."""
    cases = staged["cases"].select("case_id", "cohort")
    frames = [tables.MODALITY_MATRIX.empty()]
    for modality in MODALITIES:
        names = _TABLES[modality]
        have = pl.concat([staged[name].select("case_id") for name in names]).unique()
        failed = (
            failures.filter(pl.col("table_name").is_in(names))
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
                state=pl.when(is_there).then(pl.lit("present")).when(is_failed).then(pl.lit("failed_check")).otherwise(pl.lit("absent")),
                reason=pl.when(is_there).then(None).when(is_failed).then("failure").otherwise(pl.lit("no source has it")),
            )
        )
    return pl.concat(frames).sort("case_id", "modality")
