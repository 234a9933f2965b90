"""Vectors of features (RNA, copy number, protein): one row per case in a content-addressed panel's order.

What belongs here: what all layouts have in common, and tables of cases. A file per sample: sample_files.py.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl

from feature_store import tables
from feature_store.contract.feature_sources import AnyVectorSource, SampleFilesSource, VectorSource
from feature_store.ingest.context import Ingest
from feature_store.ingest.feature_names import FeatureNames
from feature_store.ingest.measured import Measured, report_implausible, transformed
from feature_store.ingest.numbers import Matrix, feature_columns, numeric, variants
from feature_store.ingest.sample_files import read_sample_files
from feature_store.tables import Table


def read_vectors(
    ingest: Ingest, specs: tuple[AnyVectorSource, ...], table: Table
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return (vectors, panels, mapping): the rows of `table`, and those of gene_panels and feature_mapping for its panels."""
    vectors, panels, mappings = [table.empty()], [tables.GENE_PANELS.empty()], [tables.FEATURE_MAPPING.empty()]
    for spec in specs:
        for measured in map(_with_values, _measured(ingest, spec, table.name)):
            values = transformed(measured, spec.transform)
            report_implausible(ingest, measured, values, spec.plausible, table.name)
            panel_id = panel_of(table.name, spec.unit, measured.features)
            vectors.append(_as_rows(measured, values, panel_id, table))
            cohorts = measured.rows["cohort"].unique().sort()
            panels.append(_panel_rows(cohorts, panel_id, table.name, measured.features, spec.unit))
            if measured.names is not None and measured.mapping is not None:
                mappings.append(measured.names.rows(measured.mapping, cohorts, table.name, panel_id))
                for cohort in cohorts:
                    ingest.used_by[cohort].add(measured.names.file.relative)
    return (
        pl.concat(vectors),
        pl.concat(panels).unique(tables.GENE_PANELS.key, maintain_order=True),
        pl.concat(mappings).unique(tables.FEATURE_MAPPING.key, maintain_order=True),
    )


def _measured(ingest: Ingest, spec: AnyVectorSource, table: str) -> Iterator[Measured]:
    if isinstance(spec, SampleFilesSource):
        return read_sample_files(ingest, spec, table)
    return _read_tables(ingest, spec, table)


def _with_values(measured: Measured) -> Measured:
    """Return the rows that have a value at all: a case without one does not have the modality."""
    has_one = ~np.isnan(measured.values).all(axis=1)
    if has_one.all():
        return measured
    return replace(measured, rows=measured.rows.filter(pl.Series(has_one)), values=measured.values[has_one])


def _read_tables(ingest: Ingest, spec: VectorSource, table: str) -> Iterator[Measured]:
    """Yield the vectors of each of a source's files."""
    names = None if spec.gene_names is None else FeatureNames.read(ingest, spec.gene_names)
    for file, raw in ingest.read(spec):
        columns = feature_columns(raw, spec.features, file, allow_none=True)
        if not columns:
            continue  # a file of a family of files need not have this kind of feature (PORPOISE's UCEC has no RNA)
        columns, mapping = (columns, None) if names is None else names.apply(ingest, columns, file)
        rows = ingest.counting(raw, spec, table, file)
        values = numeric(raw, list(columns), ingest.contract.missing_values, file, rows["_source_row"])
        rows = rows.with_columns(variants(values).alias("_values")).drop("_source_row").with_row_index("_row")
        if spec.grain == "slide":  # rows of a case are the same vector once per slide
            rows = rows.unique(subset=["_case_id", "_values"], keep="first", maintain_order=True)
        rows = ingest.one_row_per(rows, table, file, ["_values"])
        yield Measured(
            rows.select("cohort", "_case_id", "_found_id", source_sha256=pl.lit(file.sha256)),
            list(columns.values()),
            values[rows["_row"].to_numpy()],
            file,
            names,
            mapping,
        )


def panel_of(modality: str, unit: str, features: list[str]) -> str:
    """Return the content address of a panel: what is measured, in which unit, and the features in order."""
    return hashlib.sha256("\n".join([modality, unit, *features]).encode()).hexdigest()[:16]


def _as_rows(measured: Measured, values: Matrix, panel_id: str, table: Table) -> pl.DataFrame:
    vectors = pl.Series("values", values, dtype=pl.Array(pl.Float32, len(measured.features)))
    rows = measured.rows.with_columns(vectors.cast(pl.List(pl.Float32)), case_id="_case_id", panel_id=pl.lit(panel_id))
    return table.conform(rows)


def _panel_rows(cohorts: pl.Series, panel_id: str, modality: str, features: list[str], unit: str) -> pl.DataFrame:
    panel = pl.DataFrame({"position": range(len(features)), "feature": features}).with_columns(
        panel_id=pl.lit(panel_id), modality=pl.lit(modality), unit=pl.lit(unit)
    )
    return tables.GENE_PANELS.conform(panel.join(cohorts.to_frame("cohort"), how="cross"))
