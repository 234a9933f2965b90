"""Mutations: distinct non-silent variants of a case, from one table, a file per case, or a matrix of calls."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from feature_store import tables
from feature_store.contract.feature_sources import MutationMatrixSource, VariantFilesSource, VariantSource
from feature_store.ingest.case_files import case_files
from feature_store.ingest.context import Ingest
from feature_store.ingest.numbers import feature_columns, numeric
from feature_store.ingest.values import present
from feature_store.progress import tracked
from feature_store.sources import SourceFile, read_table, require_columns


def read_mutations(ingest: Ingest) -> pl.DataFrame:
    """Return the table `mutations`: distinct non-silent variants of a case, or mutated genes where the source has no more."""
    frames = [tables.MUTATIONS.empty()]
    for spec in ingest.contract.mutations:
        have = sorted(ingest.assessed.get("mutations", ()))
        if isinstance(spec, VariantFilesSource):
            frames += _variants_of_files(ingest, spec, have if spec.fills_gaps else [])
            continue
        for file, raw in ingest.read(spec):
            rows = ingest.counting(raw, spec, "mutations", file)
            if spec.fills_gaps:
                rows = rows.filter(~pl.col("_case_id").is_in(have))
            if isinstance(spec, VariantSource):
                frames.append(_variants(ingest, spec, raw, rows, file))
            else:
                frames.append(_mutated(ingest, spec, raw, rows, file))
    return pl.concat(frames).unique(tables.MUTATIONS.key, maintain_order=True)


def _variants_of_files(ingest: Ingest, spec: VariantFilesSource, have: list[str]) -> Iterator[pl.DataFrame]:
    """Yield the variants of each case's file; the case is the one that the table of files gives it."""
    for _, frame, files in case_files(ingest, spec, "mutations"):
        rows = zip(frame.iter_rows(named=True), files, strict=True)
        wanted = [(row, file) for row, file in rows if row["_case_id"] not in have]
        for row, file in tracked(wanted, f"{ingest.contract.name}: mutations of {spec.path}", len(wanted)):
            _note_sequenced(ingest, row["_case_id"])
            raw = read_table(file, spec.file)
            of_case = [
                pl.repeat(row[name], raw.height, dtype=pl.String).alias(name) for name in ("cohort", "_case_id", "_found_id")
            ]
            yield _variants(ingest, spec, raw, pl.select(pl.int_range(raw.height).alias("_source_row"), *of_case), file)


def _variants(
    ingest: Ingest, spec: VariantSource | VariantFilesSource, raw: pl.DataFrame, rows: pl.DataFrame, file: SourceFile
) -> pl.DataFrame:
    names = {
        "gene_symbol": spec.gene_symbol,
        "variant_classification": spec.variant_classification,
        "protein_change": spec.protein_change,
    }
    require_columns(raw, list(names.values()), file)
    _note_sequenced(ingest, *rows["_case_id"].unique())
    texts = raw.select(**{ours: present(theirs, ingest.contract.missing_values) for ours, theirs in names.items()})
    frame = rows.with_columns(texts[rows["_source_row"]].get_columns())
    frame = frame.filter(~pl.col("variant_classification").is_in(spec.drop_classifications).fill_null(value=False))
    has_gene = pl.col("gene_symbol").is_not_null()
    ingest.reject(frame.filter(~has_gene), "mutations", file, "variant has no gene symbol")
    return _conformed(frame.filter(has_gene), file)


def _mutated(ingest: Ingest, spec: MutationMatrixSource, raw: pl.DataFrame, rows: pl.DataFrame, file: SourceFile) -> pl.DataFrame:
    columns = feature_columns(raw, spec.features, file)
    values = numeric(raw, list(columns), ingest.contract.missing_values, file, rows["_source_row"])
    _note_sequenced(ingest, *rows.filter(pl.Series(~np.isnan(values).all(axis=1)))["_case_id"])
    gene, row = np.nonzero(values.T > 0)
    mutated = rows.select("cohort", "_case_id")[row].with_columns(
        pl.Series("gene_symbol", list(columns.values()), dtype=pl.String).gather(gene),
        **{name: pl.lit(None, pl.String) for name in ("variant_classification", "protein_change")},
    )
    return _conformed(mutated, file)


def _conformed(rows: pl.DataFrame, file: SourceFile) -> pl.DataFrame:
    return tables.MUTATIONS.conform(rows.with_columns(case_id="_case_id", source_sha256=pl.lit(file.sha256)))


def _note_sequenced(ingest: Ingest, *case_ids: str) -> None:
    """Remember cases as sequenced: one whose variants are all silent has no row in `mutations`."""
    ingest.assessed.setdefault("mutations", set()).update(case_ids)
