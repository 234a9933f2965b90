"""RNA, copy number and mutations. A vector table becomes one row per case in a content-addressed panel's order."""

import hashlib
import re

import polars as pl

from feature_store import tables
from feature_store.contract.rules import SampleRule
from feature_store.contract.sources import MutationMatrixSource, VariantSource, VectorSource
from feature_store.errors import ColumnMissingError, SourceFormatError
from feature_store.ingest.context import Ingest
from feature_store.ingest.feature_names import FeatureNames
from feature_store.ingest.values import present
from feature_store.sources import SourceFile, require_columns
from feature_store.tables import Table


def read_vectors(
    ingest: Ingest, specs: tuple[VectorSource, ...], table: Table
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return (vectors, panels, mapping): the rows of `table`, and those of gene_panels and feature_mapping for its panels."""
    vectors, panels, mappings = [table.empty()], [tables.GENE_PANELS.empty()], [tables.FEATURE_MAPPING.empty()]
    for spec in specs:
        names = None if spec.gene_names is None else FeatureNames.read(ingest, spec.gene_names)
        for file, raw in ingest.read(spec):
            columns = feature_columns(raw, spec.features, file, allow_none=True)
            if not columns:
                continue  # a file of a family of files need not have this kind of feature (PORPOISE's UCEC has no RNA)
            if names is not None:
                columns, mapping = names.apply(ingest, columns, file)
            frame = ingest.identify(raw, spec.case_id, table.name, file)
            if spec.sample is not None:
                sample_column = spec.sample_column or spec.case_id.column
                require_columns(raw, [sample_column], file)
                frame = _one_sample(ingest, frame, spec.sample, sample_column, table.name, file)
            frame = ingest.known(frame, table.name, file)
            frame = numeric(frame, list(columns), ingest.contract.missing_values, file)
            if spec.grain == "slide":  # rows of a case are the same vector once per slide
                frame = frame.unique(subset=["_case_id", *columns], keep="first", maintain_order=True)
            frame = ingest.one_row_per(frame, table.name, file, list(columns))
            panel_id = panel_of(table.name, spec.unit, list(columns.values()))
            vectors.append(_as_rows(frame, list(columns), panel_id, file, table))
            cohorts = frame["cohort"].unique().sort()
            panels.append(_panel_rows(cohorts, panel_id, table.name, list(columns.values()), spec.unit))
            if names is not None:
                mappings.append(names.rows(mapping, cohorts, table.name, panel_id))
                for cohort in cohorts:
                    ingest.used_by[cohort].add(names.file.relative)
    return (
        pl.concat(vectors),
        pl.concat(panels).unique(tables.GENE_PANELS.key, maintain_order=True),
        pl.concat(mappings).unique(tables.FEATURE_MAPPING.key, maintain_order=True),
    )


def read_mutations(ingest: Ingest) -> pl.DataFrame:
    """Return the table `mutations`: distinct non-silent variants of a case, or mutated genes where the source has no more."""
    frames = [tables.MUTATIONS.empty()]
    for spec in ingest.contract.mutations:
        have = sorted(ingest.assessed.get("mutations", ()))
        for file, raw in ingest.read(spec):
            frame = ingest.known(ingest.identify(raw, spec.case_id, "mutations", file), "mutations", file)
            if spec.fills_gaps:
                frame = frame.filter(~pl.col("_case_id").is_in(have))
            rows = (
                _variants(ingest, spec, frame, file) if isinstance(spec, VariantSource) else _mutated(ingest, spec, frame, file)
            )
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
    _note_sequenced(ingest, frame)
    frame = frame.select("cohort", "_found_id", "_case_id", **{ours: present(theirs, missing) for ours, theirs in names.items()})
    frame = frame.filter(~pl.col("variant_classification").is_in(spec.drop_classifications).fill_null(value=False))
    has_gene = pl.col("gene_symbol").is_not_null()
    ingest.reject(frame.filter(~has_gene), "mutations", file, "variant has no gene symbol")
    return frame.filter(has_gene)


def _mutated(ingest: Ingest, spec: MutationMatrixSource, frame: pl.DataFrame, file: SourceFile) -> pl.DataFrame:
    columns = feature_columns(frame, spec.features, file)
    frame = numeric(frame, list(columns), ingest.contract.missing_values, file)
    _note_sequenced(ingest, frame.filter(pl.any_horizontal(pl.col(list(columns)).is_not_nan())))
    genes = list(columns.values())
    frame = frame.select("cohort", "_case_id", **{gene: column for column, gene in columns.items()})
    long = frame.unpivot(genes, index=["cohort", "_case_id"], variable_name="gene_symbol", value_name="is_mutated")
    is_mutated = (pl.col("is_mutated") > 0) & pl.col("is_mutated").is_not_nan()  # polars orders NaN above every number
    return long.filter(is_mutated).with_columns(
        variant_classification=pl.lit(None, pl.String), protein_change=pl.lit(None, pl.String)
    )


def _note_sequenced(ingest: Ingest, frame: pl.DataFrame) -> None:
    """Remember the cases of `frame` as sequenced: one whose variants are all silent has no row in `mutations`."""
    ingest.assessed.setdefault("mutations", set()).update(frame["_case_id"])


def feature_columns(raw: pl.DataFrame, pattern: str, file: SourceFile, *, allow_none: bool = False) -> dict[str, str]:
    """Return column -> feature name for the columns that `pattern` matches, sorted by feature name.

    Raises ColumnMissingError when none matches (unless allowed) or two columns give the same feature.
    """
    compiled = re.compile(pattern)
    matches = {column: match.group(1) for column in raw.columns if (match := compiled.fullmatch(column)) and match.group(1)}
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
    """Return `frame` with `columns` as float32 (NaN where missing). Raises SourceFormatError on infinity and any other text."""
    absent = [*missing, "NA", "NaN", "nan"]
    numbers = frame.select(pl.col(columns).str.strip_chars().cast(pl.Float32, strict=False))
    # only columns with a gap are looked at as text, which takes several times as long
    gaps = [
        name
        for name, is_gap in numbers.select((~pl.all().is_finite().fill_null(value=False)).any()).row(0, named=True).items()
        if is_gap
    ]
    for name in gaps:
        is_gap = ~numbers[name].is_finite().fill_null(value=False)
        found = frame[name].filter(is_gap)
        bad = found.filter(found.is_not_null() & ~found.str.strip_chars().is_in(absent))
        if len(bad):
            raise SourceFormatError(
                f"source {file.relative}: column {name!r} holds {bad[0]!r} ({len(bad)} such values), expected numbers. "
                "Declare it under missing_values, or correct the file."
            )
    placeholders = [number for spelling in missing if (number := _number(spelling)) is not None]  # -999 and the like
    values = (
        pl.all()
        if not placeholders
        else pl.when(~pl.all().is_in(pl.Series(placeholders, dtype=pl.Float32).implode())).then(pl.all())
    )
    return frame.with_columns(numbers.select(values.fill_null(float("nan"))))


def _number(spelling: str) -> float | None:
    try:
        return float(spelling)
    except ValueError:
        return None


def panel_of(modality: str, unit: str, features: list[str]) -> str:
    """Return the content address of a panel: what is measured, in which unit, and the features in order."""
    return hashlib.sha256("\n".join([modality, unit, *features]).encode()).hexdigest()[:16]


def _one_sample(ingest: Ingest, frame: pl.DataFrame, rule: SampleRule, column: str, table: str, file: SourceFile) -> pl.DataFrame:
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
