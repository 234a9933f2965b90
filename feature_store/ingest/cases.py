"""Cases, their samples and clinical variables: the steps that say who is in the cohort. What happened to them: endpoints.py."""

import polars as pl

from feature_store import tables
from feature_store.contract.sources import CasesSource, ClinicalSource, FollowUpSource, Source
from feature_store.ingest.choosing import MARKS
from feature_store.ingest.context import Ingest
from feature_store.ingest.values import identifier, number, present, value
from feature_store.sources import require_columns
from feature_store.tables import Table


def read_cases(ingest: Ingest) -> pl.DataFrame:
    """Return the table `cases` and fill `ingest.cases`. Excluded and malformed rows go to quarantine."""
    spec, missing = ingest.contract.cases, ingest.contract.missing_values
    withdrawn = _withdrawn(ingest)
    frames = []
    for file, raw in ingest.read(spec):
        ingest.case_files.add(file.relative)
        rules = {"cohort": spec.cohort, "project_id": spec.project_id, "cancer_type": spec.cancer_type}
        needed = [column for rule in rules.values() for column in rule.columns] + [rule.column for rule in spec.exclude]
        require_columns(raw, needed + ([spec.site.column] if spec.site else []), file)
        frame = ingest.identify(raw, spec.case_id, "cases", file)
        for rule in spec.exclude:
            is_out = present(rule.column, missing) == rule.equals
            ingest.reject(frame.filter(is_out), "cases", file, rule.reason, effect="left_out")
            frame = frame.filter(is_out.is_null() | ~is_out)
        why = pl.col("_case_id").replace_strict(withdrawn, default=None, return_dtype=pl.String)
        ingest.reject(frame.filter(why.is_not_null()), "cases", file, "withdrawn by the source", why, effect="left_out")
        frame = frame.filter(why.is_null())
        mapped = {name: value(rule, missing) for name, rule in rules.items()}
        frame = frame.with_columns(**{name: text for name, (text, _) in mapped.items()}).with_columns(
            site=_site(spec), source_sha256=pl.lit(file.sha256)
        )
        is_ours = pl.col("cohort").is_in(ingest.contract.cohorts).fill_null(value=False)
        ingest.reject(frame.filter(~is_ours), "cases", file, "cohort is not one the contract declares", pl.col("cohort"))
        frame = frame.filter(is_ours)
        for name in ("project_id", "cancer_type"):
            has_one = pl.col(name).is_not_null()
            ingest.reject(
                frame.filter(~has_one), "cases", file, f"{name}: value has no declared mapping", text_of(rules[name].columns)
            )
            frame = frame.filter(has_one)
        frame = ingest.picked(ingest.of_its_cohort(frame, spec, "cases", file), spec, "cases", file)
        frame = ingest.one_row_per(frame, "cases", file, informative(raw, spec))
        ingest.cases.add(frame.select("_case_id", "cohort").iter_rows())
        for cohort in frame["cohort"].unique():
            ingest.used_by.setdefault(cohort, set()).add(file.relative)
        frames.append(frame.with_columns(case_id="_case_id"))
    return pl.concat([tables.CASES.conform(frame) for frame in frames])


def read_clinical(ingest: Ingest) -> pl.DataFrame:
    """Return the table `clinical`; a value no rule maps or outside its declared range is left empty and quarantined.

    Of several sources that have a case's value the first counts.
    """
    specs = (ingest.contract.clinical, *ingest.contract.more_clinical)
    frames = [_read_values(ingest, spec, tables.CLINICAL) for spec in specs]
    rows = pl.concat(frames)
    if any(frame["case_id"].is_duplicated().any() for frame in frames):
        return rows  # the audit refuses a source that has a case twice
    return tables.CLINICAL.conform(rows.group_by("case_id", maintain_order=True).agg(pl.all().drop_nulls().first()))


def read_follow_up(ingest: Ingest) -> pl.DataFrame:
    """Return the table `follow_up`, read like `clinical`; empty where the contract declares none."""
    spec = ingest.contract.follow_up
    return tables.FOLLOW_UP.empty() if spec is None else _read_values(ingest, spec, tables.FOLLOW_UP)


def _read_values(ingest: Ingest, spec: ClinicalSource | FollowUpSource, table: Table) -> pl.DataFrame:
    missing = ingest.contract.missing_values
    declared = {column.name: column for column in table.columns}
    frames = []
    for file, raw in ingest.read(spec):
        require_columns(raw, [column for rule in spec.columns.values() for column in rule.columns], file)
        frame = ingest.accepted(raw, spec, table.name, file, informative(raw, spec))
        kept: dict[str, pl.Expr] = {}
        for name, rule in spec.columns.items():
            column = declared[name]
            text, is_unmapped = value(rule, missing)
            typed = number(rule, text, table.schema[name], column.unit)
            is_bad = is_unmapped | (text.is_not_null() & typed.is_null())
            if column.minimum is not None:
                is_bad = is_bad | (typed < column.minimum).fill_null(value=False)
            if column.maximum is not None:
                is_bad = is_bad | (typed > column.maximum).fill_null(value=False)
            if column.allowed:
                is_bad = is_bad | (typed.is_not_null() & ~typed.is_in(column.allowed))
            ingest.reject(
                frame.filter(is_bad),
                table.name,
                file,
                f"{name}: value has no declared mapping or is out of range",
                text_of(rule.columns),
            )
            kept[name] = pl.when(is_bad).then(None).otherwise(typed)
        # a column of the source that only happens to be called like one of ours is not taken
        values = [name for name, column in declared.items() if column.role in ("baseline", "post_treatment")]
        kept |= {name: pl.lit(None) for name in values if name not in kept}
        frames.append(table.conform(frame.with_columns(**kept, case_id="_case_id", source_sha256=pl.lit(file.sha256))))
    return pl.concat(frames)


def read_samples(ingest: Ingest) -> pl.DataFrame:
    """Return the table `samples`; a row without a sample's identifier is rejected."""
    frames = [tables.SAMPLES.empty()]
    for spec in ingest.contract.samples:
        for file, raw in ingest.read(spec):
            aliquot = [] if spec.aliquot_id is None else [spec.aliquot_id]
            require_columns(raw, [spec.sample_id, *spec.sample_type.columns, *aliquot], file)
            frame = ingest.rows(raw, spec, "samples", file)
            frame = ingest.with_identifier(frame, spec.sample_id, "_sample", "samples", file)
            text, is_unmapped = value(spec.sample_type, ingest.contract.missing_values)
            reason = "sample_type: value has no declared mapping"
            ingest.reject(frame.filter(is_unmapped), "samples", file, reason, text_of(spec.sample_type.columns))
            aliquot_id = pl.lit(None, pl.String) if spec.aliquot_id is None else identifier(spec.aliquot_id)
            frame = frame.with_columns(_type=text, _aliquot=aliquot_id)
            frames.append(
                tables.SAMPLES.conform(
                    frame.with_columns(
                        case_id="_case_id",
                        sample_id="_sample",
                        sample_type="_type",
                        aliquot_id="_aliquot",
                        source_sha256=pl.lit(file.sha256),
                    )
                )
            )
    return pl.concat(frames).unique(tables.SAMPLES.key, keep="first", maintain_order=True)


def _withdrawn(ingest: Ingest) -> dict[str, str]:
    """Return case_id -> why, of the cases that a list of the source says to leave out; one that is no identifier is rejected."""
    spec = ingest.contract.cases.withdrawn
    found: dict[str, str] = {}
    if spec is None:
        return found
    for file, raw in ingest.read(spec):
        require_columns(raw, [spec.reason], file)
        frame = ingest.identify(raw, spec.case_id, "cases", file)
        found |= dict(frame.select("_case_id", present(spec.reason, ()).fill_null("no reason given")).iter_rows())
    return found


def _site(spec: CasesSource) -> pl.Expr:
    if spec.site is None:
        return pl.lit(None, pl.String)
    site = pl.col("_case_id" if spec.site.column == spec.case_id.column else spec.site.column)
    return site.str.extract(spec.site.extract, 1) if spec.site.extract else site


def informative(raw: pl.DataFrame, spec: Source) -> list[str]:
    """All source columns but the identifier and running row numbers, whose spelling would make equal rows look different."""
    ours = {*MARKS, spec.case_id.column}
    return [name for name in raw.columns if name.strip() and not name.startswith("__UNNAMED__") and name not in ours]


def text_of(columns: tuple[str, ...]) -> pl.Expr:
    """Return the first non-empty of the source columns, as found."""
    return pl.coalesce([pl.col(name) for name in columns]) if columns else pl.lit(None, pl.String)
