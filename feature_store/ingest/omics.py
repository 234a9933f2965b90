"""RNA, copy number and mutations. A vector table becomes one row per case in a content-addressed panel's order."""

import hashlib
import re

import polars as pl

from feature_store import tables
from feature_store.contract import MutationMatrixSource, SampleRule, VariantSource, VectorSource
from feature_store.errors import ColumnMissingError, SourceFormatError
from feature_store.ingest.context import Ingest
from feature_store.ingest.values import present
from feature_store.sources import SourceFile, require_columns
from feature_store.tables import Table


def read_vectors(ingest: Ingest, specs: tuple[VectorSource, ...], table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (vectors, panels): the rows of `table`, and the gene_panels rows of every panel they use."""
    vectors, panels = [table.empty()], [tables.GENE_PANELS.empty()]
    for spec in specs:
        for file, raw in ingest.read(spec):
            columns = feature_columns(raw, spec.features, file, allow_none=True)
            if not columns:
                continue  # a file of a family of files need not have this kind of feature (PORPOISE's UCEC has no RNA)
            frame = ingest.identify(raw, spec.case_id, table.name, file)
            if spec.sample is not None:
                frame = _one_sample(ingest, frame, spec.sample, spec.sample_column or spec.case_id.column, table.name, file)
            frame = ingest.known(frame, table.name, file)
            frame = numeric(frame, list(columns), ingest.contract.missing_values, file)
            if spec.grain == "slide":  # rows of a case are the same vector once per slide
                frame = frame.unique(subset=["_case_id", *columns], keep="first", maintain_order=True)
            frame = ingest.one_row_per(frame, table.name, file, list(columns))
            panel_id = panel_of(list(columns.values()))
            vectors.append(_as_rows(frame, list(columns), panel_id, file, table))
            panels.append(_panel_rows(frame["cohort"].unique().sort(), panel_id, table.name, list(columns.values()), spec.unit))
    return pl.concat(vectors), pl.concat(panels).unique(tables.GENE_PANELS.key, maintain_order=True)


def read_mutations(ingest: Ingest) -> pl.DataFrame:
    """Return the table `mutations`: distinct non-silent variants of a case, or mutated genes where the source has no more."""
    frames = [tables.MUTATIONS.empty()]
    for spec in ingest.contract.mutations:
        have = pl.concat(frames)["case_id"].unique().to_list()
        for file, raw in ingest.read(spec):
            frame = ingest.known(ingest.identify(raw, spec.case_id, "mutations", file), "mutations", file)
            if spec.fills_gaps:
                frame = frame.filter(~pl.col("_case_id").is_in(have))
            rows = _variants(ingest, spec, frame, file) if isinstance(spec, VariantSource) else _mutated(ingest, spec, frame, file)
            frames.append(tables.MUTATIONS.conform(rows.with_columns(case_id="_case_id", source_sha256=pl.lit(file.sha256))))
    return pl.concat(frames).unique(tables.MUTATIONS.key, maintain_order=True)


def _variants(ingest: Ingest, spec: VariantSource, frame: pl.DataFrame, file: SourceFile) -> pl.DataFrame:
    names = {
        "gene_symbol": spec.gene_symbol,
        "variant_classification": spec.variant_classification,
        "protein_change": spec.protein_change,
    }
    require_columns(frame, list(names.values()), file)
    missing = ingest.contract.missing_values
    frame = frame.select(
        "cohort", "_found_id", "_case_id", **{ours: present(theirs, missing) for ours, theirs in names.items()}
    )
    frame = frame.filter(~pl.col("variant_classification").is_in(spec.drop_classifications).fill_null(value=False))
    has_gene = pl.col("gene_symbol").is_not_null()
    ingest.reject(frame.filter(~has_gene), "mutations", file, "variant has no gene symbol")
    return frame.filter(has_gene)


def _mutated(ingest: Ingest, spec: MutationMatrixSource, frame: pl.DataFrame, file: SourceFile) -> pl.DataFrame:
    columns = feature_columns(frame, spec.features, file)
    frame = numeric(frame, list(columns), ingest.contract.missing_values, file).rename(columns)
    long = frame.unpivot(list(columns.values()), index=["cohort", "_case_id"], variable_name="gene_symbol", value_name="is_mutated")
    return long.filter(pl.col("is_mutated") > 0).with_columns(
        variant_classification=pl.lit(None, pl.String), protein_change=pl.lit(None, pl.String)
    )


def feature_columns(raw: pl.DataFrame, pattern: str, file: SourceFile, *, allow_none: bool = False) -> dict[str, str]:
    """Return column -> feature name for the columns that `pattern` matches, sorted by feature name.

    Raises ColumnMissingError when none matches (unless allowed) or two columns give the same feature.
    """
    compiled = re.compile(pattern)
    matches = {column: match.group(1) for column in raw.columns if (match := compiled.fullmatch(column))}
    if not matches and not allow_none:
        raise ColumnMissingError(
            f"source {file.relative}: no column matches {pattern!r}, expected the features; the first columns are "
            f"{raw.columns[:8]}. If the source renamed them, change the contract."
        )
    if len(set(matches.values())) != len(matches):
        repeated = sorted(name for name in set(matches.values()) if list(matches.values()).count(name) > 1)
        raise ColumnMissingError(
            f"source {file.relative}: features {repeated[:5]} come from several columns, expected one each. Narrow {pattern!r}."
        )
    return dict(sorted(matches.items(), key=lambda item: item[1]))


def numeric(frame: pl.DataFrame, columns: list[str], missing: tuple[str, ...], file: SourceFile) -> pl.DataFrame:
    """Return `frame` with `columns` as float32 (NaN where missing). Raises SourceFormatError on any other text."""
    as_number = [pl.col(name).cast(pl.Float32, strict=False) for name in columns]
    numbers = frame.select(as_number)
    is_missing = frame.select(pl.col(columns).str.strip_chars().is_in([*missing, "NA", "NaN", "nan"]) | pl.col(columns).is_null())
    is_bad = (numbers.select(pl.all().is_null()).to_numpy()) & ~is_missing.to_numpy()
    if is_bad.any():
        row, column = (int(index[0]) for index in is_bad.nonzero())
        raise SourceFormatError(
            f"source {file.relative}: column {columns[column]!r} holds {frame[columns[column]][row]!r} "
            f"({int(is_bad.sum())} such values), expected numbers. Declare it under missing_values, or correct the file."
        )
    return frame.with_columns(numbers.select(pl.all().fill_null(float("nan"))))


def panel_of(features: list[str]) -> str:
    """Return the content address of an ordered list of feature names."""
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:16]


def _one_sample(
    ingest: Ingest, frame: pl.DataFrame, rule: SampleRule, column: str, table: str, file: SourceFile
) -> pl.DataFrame:
    """Keep each case's most preferred sample type; quarantine its other samples, named."""
    rank = {code: position for position, code in enumerate(rule.prefer)}
    frame = frame.with_columns(
        _sample=pl.col(column).str.extract(rule.extract, 1),
    ).with_columns(_rank=pl.col("_sample").replace_strict(rank, default=None, return_dtype=pl.Int32))
    is_ranked = pl.col("_rank").is_not_null()
    ingest.reject(frame.filter(~is_ranked), table, file, f"sample type is none of {', '.join(rule.prefer)}", pl.col(column))
    frame = frame.filter(is_ranked).sort("_case_id", "_rank", column, maintain_order=True)
    is_kept = pl.col("_case_id").is_first_distinct()
    ingest.reject(frame.filter(~is_kept), table, file, "another sample of the case was kept", pl.col(column))
    return frame.filter(is_kept)


def _as_rows(frame: pl.DataFrame, columns: list[str], panel_id: str, file: SourceFile, table: Table) -> pl.DataFrame:
    values = pl.Series("values", frame.select(columns).to_numpy().astype("float32"), dtype=pl.Array(pl.Float32, len(columns)))
    rows = frame.select("cohort", case_id="_case_id").with_columns(
        values.cast(pl.List(pl.Float32)), panel_id=pl.lit(panel_id), source_sha256=pl.lit(file.sha256)
    )
    return table.conform(rows)


def _panel_rows(cohorts: pl.Series, panel_id: str, modality: str, features: list[str], unit: str) -> pl.DataFrame:
    panel = pl.DataFrame({"position": range(len(features)), "feature": features}).with_columns(
        panel_id=pl.lit(panel_id), modality=pl.lit(modality), unit=pl.lit(unit)
    )
    return tables.GENE_PANELS.conform(panel.join(cohorts.to_frame("cohort"), how="cross"))
