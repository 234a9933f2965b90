"""What a staged cohort lacks that the published one has, though no contract says so: features, cases, values.

What belongs here: finding it. That it stops a publication, and how to publish all the same, is publish.py's. What is new is no
drift, and neither is another order: panels are compared as sets.
"""

import polars as pl

from feature_store.errors import StoreMissingError
from feature_store.ingest.stage import Staged
from feature_store.lake import Lake
from feature_store.tables import CLINICAL, FOLLOW_UP


def drift(lake: Lake, staged: Staged, cohort: str) -> list[str]:
    """Return what is gone since the cohort was last published, a line each; nothing where it never was.

    Any feature of a panel counts, and any clinical variable that has no value left. Cases, and cases with a modality, count where
    the share that is gone is over the contract's `max_quarantined_fraction`: single ones are withdrawn every now and then.
    """
    try:
        published = _published(lake, cohort)
    except StoreMissingError:
        return []
    if published["cases"].is_empty():
        return []
    limit = staged.contract.max_quarantined_fraction
    now = {name: staged.table(name, [cohort]) for name in published}
    lines = []
    for (modality,), panel in published["gene_panels"].group_by("modality", maintain_order=True):
        features = now["gene_panels"].filter(pl.col("modality") == modality)["feature"]
        lines += _gone(f"features of {modality}", panel["feature"], features, 0)
    lines += _gone("cases", published["cases"]["case_id"], now["cases"]["case_id"], limit)
    had, have = (frames["modality_matrix"].filter(pl.col("state") == "present") for frames in (published, now))
    for (modality,), cases in had.group_by("modality", maintain_order=True):
        kept = have.filter(pl.col("modality") == modality)["case_id"]
        lines += _gone(f"cases with {modality}", cases["case_id"], kept, limit)
    for table in (CLINICAL, FOLLOW_UP):
        before = published[table.name]  # of an older version, which may have had fewer columns
        empty = [
            name for name in table.schema if name in before.columns and before[name].count() and not now[table.name][name].count()
        ]
        lines += [f"{table.name}.{name} has no value left" for name in empty]
    return lines


def _published(lake: Lake, cohort: str) -> dict[str, pl.DataFrame]:
    names = ("cases", "gene_panels", "modality_matrix", CLINICAL.name, FOLLOW_UP.name)
    with lake.reader() as connection:
        return {
            name: pl.DataFrame(
                connection.execute(f'SELECT * FROM "{name}" WHERE cohort = ? ORDER BY ALL', [cohort]).to_arrow_table()
            )
            for name in names
        }


def _gone(what: str, before: pl.Series, now: pl.Series, limit: float) -> list[str]:
    """Return a line if more than a share of `limit` of the values of `before` are not in `now`."""
    gone = before.filter(~before.is_in(now.to_list())).unique().sort()
    num_before = before.n_unique()
    if len(gone) <= limit * num_before:
        return []
    return [f"{len(gone)} of {num_before} {what} are gone, first {gone[:3].to_list()}"]
