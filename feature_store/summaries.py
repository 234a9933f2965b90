"""Counts of a staged cohort for people to look at: rows by table, rejections by reason, coverage by modality."""

import polars as pl

from feature_store.columns import MODALITIES
from feature_store.ingest.stage import Staged
from feature_store.tables import COHORT_TABLES


def row_counts(staged: Staged, cohort: str) -> dict[str, int]:
    """Return table -> rows of the cohort."""
    return {table.name: staged.table(table.name, [cohort]).height for table in COHORT_TABLES}


def quarantine_reasons(staged: Staged, cohort: str, most: int = 30) -> list[tuple[str, str, int]]:
    """Return (table, reason, rows) of what the cohort has in quarantine, and the contract unassigned, most frequent first.

    A reason says so if its rows were not rejected but left out as the contract declares, or kept.
    """
    effect = pl.when(pl.col("effect") == "rejected").then(pl.lit("")).otherwise(pl.format(" ({})", "effect"))
    found = staged.table("quarantine", [cohort, staged.unassigned])
    found = found.with_columns(reason=pl.col("reason") + effect.str.replace("_", " "))
    counted = found.group_by("table_name", "reason").len("rows").sort("rows", "table_name", descending=[True, False])
    return counted.head(most).rows()


def modality_counts(staged: Staged, cohort: str) -> tuple[int, int, dict[str, int]]:
    """Return (cases, overall-survival events, modality -> cases that have it)."""
    matrix = staged.table("modality_matrix", [cohort]).filter(pl.col("state") == "present")
    present = dict(matrix.group_by("modality").len().rows())
    endpoints = staged.table("endpoints", [cohort]).filter(pl.col("endpoint") == "os")
    cases = staged.table("cases", [cohort]).height
    return cases, int(endpoints["event_observed"].sum()), {name: present.get(name, 0) for name in MODALITIES}
