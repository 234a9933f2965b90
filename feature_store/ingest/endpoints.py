"""Survival endpoints: durations in days out of whatever tells them, events by declared codes, and notes on their use."""

import logging

import polars as pl

from feature_store import tables
from feature_store.contract.endpoints import Duration, EndpointRule, FollowUpEnd
from feature_store.contract.rules import DAYS_PER, Unit
from feature_store.contract.sources import EndpointsSource
from feature_store.ingest.cases import informative
from feature_store.ingest.context import Ingest
from feature_store.ingest.values import present
from feature_store.sources import SourceFile, require_columns

logger = logging.getLogger(__name__)


def read_endpoints(ingest: Ingest) -> pl.DataFrame:
    """Return the table `endpoints`: durations in days, events by the declared codes, nothing guessed."""
    spec = ingest.contract.endpoints
    frames = [tables.ENDPOINTS.empty()]
    for file, raw in ingest.read(spec):
        require_columns(raw, [name for rule in spec.endpoints.values() for name in _columns(rule)] + _end_columns(spec), file)
        frame = ingest.accepted(raw, spec, "endpoints", file, informative(raw, spec))
        end = pl.lit(None, pl.Float64) if spec.follow_up_end is None else _end(spec.follow_up_end, ingest.contract.missing_values)
        frame = frame.with_columns(follow_up_end_days=end)
        frames += [_endpoint(ingest, frame, name, rule, file) for name, rule in spec.endpoints.items()]
    return pl.concat(frames)


def endpoint_notes(ingest: Ingest, cases: pl.DataFrame) -> pl.DataFrame:
    """Return the table `endpoint_notes` for the projects of `cases`; a note on a project overrides one on all of them."""
    advice = ingest.contract.endpoints.suitability
    if advice is None:
        return tables.ENDPOINT_NOTES.empty()
    projects = cases.select("cohort", "project_id", "cancer_type").unique().sort(pl.all())
    named = {project for note in advice.notes for project in note.projects}
    if unknown := sorted(named - set(projects["project_id"])):
        logger.warning("%s: endpoints.suitability speaks of %s, which no case is of", ingest.contract.name, ", ".join(unknown))
    said = {
        (project, endpoint): {"endpoint": endpoint, "suitability": note.suitability, "note": note.note}
        for note in sorted(advice.notes, key=lambda note: bool(note.projects))
        for project in note.projects or projects["project_id"]
        for endpoint in note.endpoints
    }
    rows = [
        {**row, **note, "citation": advice.citation}
        for row in projects.iter_rows(named=True)
        for (project, _), note in said.items()
        if project == row["project_id"]
    ]
    return pl.DataFrame(rows, schema=tables.ENDPOINT_NOTES.schema)


def _endpoint(ingest: Ingest, frame: pl.DataFrame, name: str, rule: EndpointRule, file: SourceFile) -> pl.DataFrame:
    missing = ingest.contract.missing_values
    event = present(rule.event, missing)
    is_event = event.replace_strict(rule.events, default=None, return_dtype=pl.Boolean)
    censored_text, censored_days = _duration(rule.duration, rule.unit, missing)
    event_text, event_days = _duration(rule.event_duration or rule.duration, rule.unit, missing)
    frame = frame.with_columns(
        _event_text=event,
        event_observed=is_event,
        _duration_text=pl.when(is_event).then(event_text).when(~is_event).then(censored_text).otherwise(pl.lit("")),
        duration_days=pl.when(is_event).then(event_days).otherwise(censored_days),
    ).filter(pl.col("_event_text").is_not_null() & pl.col("_duration_text").is_not_null())

    def without(is_bad: pl.Expr, reason: str, found: str) -> pl.DataFrame:
        ingest.reject(frame.filter(is_bad), "endpoints", file, f"{name}: {reason}", pl.col(found))
        return frame.filter(~is_bad)

    frame = without(pl.col("event_observed").is_null(), f"event code is none of {', '.join(rule.events)}", "_event_text")
    days = pl.col("duration_days")
    is_positive = ((days > 0) & days.is_finite()).fill_null(value=False)
    frame = without(~is_positive, "duration is not a positive number", "_duration_text")
    if ingest.contract.endpoints.follow_up_end is not None:
        end = pl.col("follow_up_end_days")
        frame = without(~(end > 0).fill_null(value=False), "no follow-up between time zero and its end", "_duration_text")
        is_cut = days > end
        shown = days.cast(pl.String) + pl.when("event_observed").then(pl.lit(" days to the event")).otherwise(pl.lit(" days"))
        ingest.reject(frame.filter(is_cut), "endpoints", file, f"{name}: cut at the end of follow-up", shown, effect="kept")
        frame = frame.with_columns(duration_days=pl.min_horizontal(days, end), event_observed=pl.col("event_observed") & ~is_cut)
    return tables.ENDPOINTS.conform(
        frame.with_columns(case_id="_case_id", endpoint=pl.lit(name), source_sha256=pl.lit(file.sha256))
    )


def _duration(rule: Duration, unit: Unit | None, missing: tuple[str, ...]) -> tuple[pl.Expr, pl.Expr]:
    """Return (text as found, null where there is none; days, null where the text is no duration)."""
    texts = [present(column, missing) for column in rule.columns or rule.to]
    if rule.from_column is None:
        times = [text.cast(pl.Float64, strict=False) * DAYS_PER[unit or "days"] for text in texts]
    else:
        start = present(rule.from_column, missing)
        times = [_days_between(start, text, rule.format) for text in texts]
    times = [time.fill_null(float("nan")) for time in times]  # of a text that is no time; one that is missing is passed over
    times = [pl.when(text.is_not_null()).then(time) for text, time in zip(texts, times, strict=True)]
    if rule.take == "first":
        found, days = pl.coalesce(texts), pl.coalesce(times)
    else:
        found = pl.concat_str(texts, separator=", ", ignore_nulls=True)
        found = pl.when(pl.any_horizontal(text.is_not_null() for text in texts)).then(found)
        is_bad = pl.any_horizontal(time.is_nan().fill_null(value=False) for time in times)
        days = pl.when(is_bad).then(float("nan")).otherwise(pl.max_horizontal(times))
    if rule.from_column is None:
        return found, days
    # a difference of dates is shown without the dates, which tell more than the store is to keep
    shown = pl.when(days.is_nan()).then(start + pl.lit(" to ") + found).otherwise(days.cast(pl.String) + pl.lit(" days"))
    return pl.when(start.is_not_null() & found.is_not_null()).then(shown), days


def _end(rule: FollowUpEnd, missing: tuple[str, ...]) -> pl.Expr:
    """Return the time from time zero to the end of follow-up in days, null where it is not known."""
    if rule.unit is not None:
        return present(rule.column or "", missing).cast(pl.Float64, strict=False) * DAYS_PER[rule.unit]
    start = present(rule.from_column or "", missing)
    if rule.column is not None:
        return _days_between(start, present(rule.column, missing), rule.format)
    return (pl.lit(rule.date, pl.Date) - _date(start, rule.format)).dt.total_days().cast(pl.Float64)


def _days_between(start: pl.Expr, end: pl.Expr, written: str | None) -> pl.Expr:
    return (_date(end, written) - _date(start, written)).dt.total_days().cast(pl.Float64)


def _date(text: pl.Expr, written: str | None) -> pl.Expr:
    return text.str.to_date(written, strict=False)


def _columns(rule: EndpointRule) -> list[str]:
    durations = [rule.duration, *([] if rule.event_duration is None else [rule.event_duration])]
    starts = [duration.from_column for duration in durations if duration.from_column is not None]
    return [rule.event, *starts, *(name for duration in durations for name in (*duration.columns, *duration.to))]


def _end_columns(spec: EndpointsSource) -> list[str]:
    end = spec.follow_up_end
    return [] if end is None else [name for name in (end.column, end.from_column) if name is not None]
