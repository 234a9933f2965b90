"""What an ingest found in a landing folder, what it made of it, and what it set aside and why: for people, and as JSON.

What belongs here: gathering, from a staged contract and its case-level tables. Its structures: ingest_findings.py, how it
reads as text: ingest_report_text.py. Whether a cohort may be published is audit.py's to say; nothing here decides.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl

from feature_store.audit import audit
from feature_store.columns import MODALITIES
from feature_store.contract import Contract
from feature_store.contract.rules import Value
from feature_store.contract.sources import RowSource
from feature_store.deidentify.messages import Messages, hidden, shape
from feature_store.ingest.context import Ingest
from feature_store.ingest.stage import Staged
from feature_store.ingest.values import present
from feature_store.ingest_findings import Code, CohortFound, FileFound, IngestReport, MappedColumn, SetAside, Vectors
from feature_store.sources import SourceFile
from feature_store.tables import CLINICAL, COHORT_TABLES

_EXAMPLES = 3
_MAX_CODES = 200
_SLICE_ROWS = 256
_VECTOR_TABLES = ("rna", "copy_number", "protein")


def ingest_report(staged: Staged, landing: Path, files: Sequence[SourceFile]) -> IngestReport:
    """Gather what staging `files` of `landing` came to."""
    quarantine, messages = staged.table("quarantine"), Messages.of(staged.contract, landing)
    return IngestReport(
        contract=staged.contract.name,
        landing=str(landing),
        files=tuple(_files(staged, files, quarantine)),
        not_named=_not_named(landing, files, messages),
        mapped=hidden(messages, lambda: tuple(_mapped(staged.contract, landing))),
        identifiers_normalised=staged.num_normalised,
        set_aside=tuple(_set_aside(quarantine)),
        vectors=tuple(found for name in _VECTOR_TABLES for found in _vectors(staged, name)),
        cohorts=tuple(_cohort(staged, cohort) for cohort in staged.contract.cohorts),
    )


def _files(staged: Staged, files: Sequence[SourceFile], quarantine: pl.DataFrame) -> Iterator[FileFound]:
    kept: dict[str, dict[str, int]] = {}
    of_one_file = [table.name for table in COHORT_TABLES if "source_sha256" in table.schema and table.name != "sources"]
    for name in of_one_file:
        for digest, rows in staged.table(name).group_by("source_sha256").len().rows():
            kept.setdefault(digest, {})[name] = rows
    set_aside = dict(quarantine.group_by("path").len().rows())
    # a file whose rows would be its own, of which none is left; clinical rows may be those of an earlier source
    lost = quarantine.filter(pl.col("table_name").is_in(set(of_one_file) - {CLINICAL.name}))["path"]
    used = set(staged.table("sources")["path"]) - set(lost)
    for file in files:
        rows = kept.get(file.sha256, {})
        yield FileFound(file.relative, file.num_bytes, rows, set_aside.get(file.relative, 0), bool(rows) or file.relative in used)


def _not_named(landing: Path, files: Sequence[SourceFile], messages: Messages | None) -> dict[str, int]:
    named, counts = {file.path for file in files}, Counter[str]()
    for folder, _, names in os.walk(landing):
        for name in names:
            path = Path(folder, name)
            if path not in named:
                pattern = PurePosixPath(path.relative_to(landing).as_posix()).with_name(f"*{path.suffix}")
                counts[str(pattern) if messages is None else f"**/*{path.suffix}"] += 1  # a folder may be called like a patient
    return dict(sorted(counts.items()))


def _mapped(contract: Contract, landing: Path) -> Iterator[MappedColumn]:
    """Read the case-level tables again, which are small, for the codes that the staged tables do not hold any more."""
    ingest, missing = Ingest(contract, landing), contract.missing_values
    cases = {name: getattr(contract.cases, name) for name in ("cohort", "project_id", "cancer_type")}
    values: list[tuple[str, RowSource, dict[str, Value]]] = [
        ("cases", contract.cases, cases),
        *(("clinical", spec, spec.columns) for spec in (contract.clinical, *contract.more_clinical)),
    ]
    if contract.follow_up is not None:
        values.append(("follow_up", contract.follow_up, contract.follow_up.columns))
    for table, spec, rules in values:
        raw = _read(ingest, spec)
        for name, rule in rules.items():
            if rule.always is not None:
                yield MappedColumn(table, name, (f"always {rule.always!r}",), raw.height, ())
                continue
            found = raw.select(pl.coalesce([present(column, missing) for column in rule.columns])).to_series()
            yield MappedColumn(table, name, rule.columns, found.count(), _codes(found, rule.map, contract))
    raw = _read(ingest, contract.endpoints)
    for name, endpoint in contract.endpoints.endpoints.items():
        found = raw.select(present(endpoint.event, missing)).to_series()
        words = {code: "event" if happened else "censored" for code, happened in endpoint.events.items()}
        yield MappedColumn("endpoints", name, (endpoint.event,), found.count(), _codes(found, words, contract))


def _read(ingest: Ingest, spec: RowSource) -> pl.DataFrame:
    return pl.concat([frame for _, frame in ingest.read(spec)], how="diagonal")


def _codes(found: pl.Series, words: Mapping[str, str | float | None] | None, contract: Contract) -> tuple[Code, ...]:
    if words is None:
        return ()
    spelled = {key: None if target is None else str(target) for key, target in words.items()}
    said = found.drop_nulls().to_list()
    if contract.deidentify:  # what nobody declared may be anything, a name too
        said = [code if code in spelled else shape(code) for code in said]
    codes = [Code(code, spelled.get(code), rows, code in spelled) for code, rows in Counter(said).most_common()]
    return tuple(sorted(codes, key=lambda code: code.is_declared)[:_MAX_CODES])  # those nobody declared come first


def _set_aside(quarantine: pl.DataFrame) -> Iterator[SetAside]:
    """Group by reason; a bag's names its slide, and is one reason with all others of its kind."""
    named = quarantine.select("table_name", "reason", "case_id_found", "found")
    kinds = [_kind(reason, names) if table == "patch_bags" else reason for table, reason, *names in named.iter_rows()]
    out = set(quarantine.filter(table_name="cases")["case_id_found"].drop_nulls())
    groups = quarantine.with_columns(reason=pl.Series(kinds, dtype=pl.String)).group_by(
        "effect", "table_name", "reason", maintain_order=True
    )
    found = []
    for (effect, table, reason), rows in groups:
        ids = rows["case_id_found"].drop_nulls().unique(maintain_order=True).to_list()
        left_out = set() if table == "cases" else _begin_with_one_of(ids, out)
        files = dict(rows.group_by("path").len().sort("len", "path", descending=[True, False]).rows())
        # who is left out on purpose is no example of what is wrong
        examples = rows.select("case_id_found", "found").unique(maintain_order=True)
        telling = examples.filter(~pl.col("case_id_found").is_in(list(left_out)).fill_null(value=False))
        some = (examples if telling.is_empty() else telling).gather_every(max(1, telling.height // _EXAMPLES)).head(_EXAMPLES)
        found.append(
            SetAside(str(effect), str(table), str(reason), rows.height, len(ids), len(left_out), files, tuple(some.rows()))
        )
    yield from sorted(found, key=lambda one: (one.effect != "rejected", one.effect != "kept", -one.rows))


def _begin_with_one_of(ids: list[str], starts: set[str]) -> set[str]:
    lengths = {len(start) for start in starts}
    return {name for name in ids if any(name[:length] in starts for length in lengths)}


def _kind(reason: str, names: list[str | None]) -> str:
    for name in sorted(filter(None, names), key=len, reverse=True):
        reason = reason.replace(name, "…")
    return reason


def _vectors(staged: Staged, name: str) -> Iterator[Vectors]:
    if name not in {table.name for table in COHORT_TABLES}:
        return
    panels = staged.table("gene_panels").unique(["panel_id", "position"]).group_by("panel_id", "unit").len().rows()
    rows = staged.table(name)
    for panel_id, unit, num_features in sorted(panels):
        of_panel = rows.filter(pl.col("panel_id") == panel_id)
        if of_panel.is_empty():
            continue
        lowest, highest, num_missing = np.inf, -np.inf, 0
        for part in of_panel.select("values").iter_slices(_SLICE_ROWS):
            values = part["values"].explode().to_numpy()
            num_missing += int(np.isnan(values).sum())
            lowest = float(np.fmin(lowest, np.fmin.reduce(values)))
            highest = float(np.fmax(highest, np.fmax.reduce(values)))
        share = num_missing / (of_panel.height * num_features)
        ends = (lowest, highest) if lowest <= highest else (None, None)
        yield Vectors(name, unit, num_features, of_panel.height, ends[0], ends[1], share)


def _cohort(staged: Staged, cohort: str) -> CohortFound:
    endpoints = staged.table("endpoints", [cohort]).group_by("endpoint").agg(pl.len(), pl.col("event_observed").sum())
    states = staged.table("modality_matrix", [cohort]).group_by("modality", "state").len()
    count = {(modality, state): rows for modality, state, rows in states.rows()}
    return CohortFound(
        cohort=cohort,
        num_cases=staged.table("cases", [cohort]).height,
        endpoints={name: (cases, events) for name, cases, events in endpoints.sort("endpoint").rows()},
        modalities={name: (count.get((name, "present"), 0), count.get((name, "failed_check"), 0)) for name in MODALITIES},
        # where all rejected rows lie is no news to who reads them here, and a dry run's folder is gone by then
        checks=tuple(replace(check, found=check.found.partition("; all of them: ")[0]) for check in audit(staged, cohort)),
    )
