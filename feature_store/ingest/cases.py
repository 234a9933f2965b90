"""Cases, clinical variables and survival endpoints: the steps that say who is in the cohort and what happened to them."""

import polars as pl

from feature_store import tables
from feature_store.contract.rules import EndpointRule
from feature_store.contract.sources import CasesSource, ClinicalSource, FollowUpSource, Source
from feature_store.ingest.context import Ingest
from feature_store.ingest.values import DAYS_PER, present, value
from feature_store.sources import SourceFile, require_columns
from feature_store.tables import Table


def read_cases(ingest: Ingest) -> pl.DataFrame:
    """Return the table `cases` and fill `ingest.cohort_of`. Excluded and malformed rows go to quarantine."""
    spec, missing = ingest.contract.cases, ingest.contract.missing_values
    frames = []
    for file, raw in ingest.read(spec):
        ingest.case_files.add(file.relative)
        rules = {"cohort": spec.cohort, "project_id": spec.project_id, "cancer_type": spec.cancer_type}
        needed = [column for rule in rules.values() for column in rule.columns] + [rule.column for rule in spec.exclude]
        require_columns(raw, needed + ([spec.site.column] if spec.site else []), file)
        frame = ingest.identify(raw, spec.case_id, "cases", file)
        for rule in spec.exclude:
            is_out = present(rule.column, missing) == rule.equals
            ingest.reject(frame.filter(is_out), "cases", file, rule.reason)
            frame = frame.filter(is_out.is_null() | ~is_out)
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
        frame = ingest.one_row_per(frame, "cases", file, _informative(raw, spec))
        ingest.cohort_of |= dict(zip(frame["_case_id"], frame["cohort"], strict=True))
        for cohort in frame["cohort"].unique():
            ingest.used_by.setdefault(cohort, set()).add(file.relative)
        frames.append(frame.with_columns(case_id="_case_id"))
    return pl.concat([tables.CASES.conform(frame) for frame in frames])


def read_clinical(ingest: Ingest) -> pl.DataFrame:
    """Return the table `clinical`; a value no rule maps or outside its declared range is left empty and quarantined."""
    return _read_values(ingest, ingest.contract.clinical, tables.CLINICAL)


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
        frame = ingest.accepted(raw, spec.case_id, table.name, file, _informative(raw, spec))
        kept: dict[str, pl.Expr] = {}
        for name, rule in spec.columns.items():
            column = declared[name]
            text, is_unmapped = value(rule, missing)
            typed = text.cast(table.schema[name], strict=False)
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


def read_endpoints(ingest: Ingest) -> pl.DataFrame:
    """Return the table `endpoints`: durations in days, events by the declared codes, nothing guessed."""
    spec = ingest.contract.endpoints
    frames = [tables.ENDPOINTS.empty()]
    for file, raw in ingest.read(spec):
        require_columns(raw, [name for rule in spec.endpoints.values() for name in (rule.duration, rule.event)], file)
        frame = ingest.accepted(raw, spec.case_id, "endpoints", file, _informative(raw, spec))
        frames += [_endpoint(ingest, frame, name, rule, file) for name, rule in spec.endpoints.items()]
    return pl.concat(frames)


def _endpoint(ingest: Ingest, frame: pl.DataFrame, name: str, rule: EndpointRule, file: SourceFile) -> pl.DataFrame:
    missing = ingest.contract.missing_values
    frame = frame.with_columns(
        _event_text=present(rule.event, missing),
        _duration_text=present(rule.duration, missing),
    ).filter(pl.col("_event_text").is_not_null() & pl.col("_duration_text").is_not_null())
    frame = frame.with_columns(
        event_observed=pl.col("_event_text").replace_strict(rule.events, default=None, return_dtype=pl.Boolean),
        duration_days=pl.col("_duration_text").cast(pl.Float64, strict=False) * DAYS_PER[rule.unit],
    )
    codes = ", ".join(rule.events)
    is_coded = pl.col("event_observed").is_not_null()
    ingest.reject(frame.filter(~is_coded), "endpoints", file, f"{name}: event code is none of {codes}", pl.col("_event_text"))
    frame = frame.filter(is_coded)
    is_positive = (pl.col("duration_days") > 0) & pl.col("duration_days").is_finite()
    is_positive = is_positive.fill_null(value=False)
    ingest.reject(
        frame.filter(~is_positive),
        "endpoints",
        file,
        f"{name}: duration is not a positive number",
        pl.col("_duration_text"),
    )
    return tables.ENDPOINTS.conform(
        frame.filter(is_positive).with_columns(case_id="_case_id", endpoint=pl.lit(name), source_sha256=pl.lit(file.sha256))
    )


def _site(spec: CasesSource) -> pl.Expr:
    if spec.site is None:
        return pl.lit(None, pl.String)
    site = pl.col("_case_id" if spec.site.column == spec.case_id.column else spec.site.column)
    return site.str.extract(spec.site.extract, 1) if spec.site.extract else site


def _informative(raw: pl.DataFrame, spec: Source) -> list[str]:
    """All source columns but the identifier and running row numbers, whose spelling would make equal rows look different."""
    return [name for name in raw.columns if name.strip() and not name.startswith("__UNNAMED__") and name != spec.case_id.column]


def text_of(columns: tuple[str, ...]) -> pl.Expr:
    """Return the first non-empty of the source columns, as found."""
    return pl.coalesce([pl.col(name) for name in columns])
