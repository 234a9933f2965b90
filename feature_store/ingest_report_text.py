"""An ingest report as text that a data manager reads from top to bottom. Wording and layout only."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from feature_store.ingest_findings import CohortFound, FileFound, IngestReport, MappedColumn, SetAside, Vectors

_MAX_LINES = 20  # of files, of cohorts: JSON has all
_MAX_CODES = 12
_MAX_ALIKE = 4
_EFFECTS = {"rejected": "rejected", "left_out": "left out, as declared", "kept": "kept, but look at it"}


def report_text(report: IngestReport) -> str:
    """Return the report: files, mapping, what was set aside and why, cohorts, and whether they could be published."""
    refused = [cohort.cohort for cohort in report.cohorts if not cohort.is_publishable]
    verdict = f"would be refused: {', '.join(refused)}" if refused else "every cohort would be published"
    parts = {
        f"files of {report.landing}": _files(report.files),
        "files that no source of the contract names": _first([f"{path}: {n}" for path, n in report.not_named.items()], 10),
        "columns": [line for mapped in report.mapped for line in _mapped(mapped)],
        "vectors": _first([_vectors(vectors) for vectors in report.vectors]),
        f"rows set aside ({sum(one.rows for one in report.set_aside):,})": [
            line for one in report.set_aside for line in _set_aside(one)
        ],
        "cohorts": _first([line for cohort in report.cohorts for line in _cohort(cohort)], 10 * _MAX_LINES),
    }
    lines = [f"contract {report.contract}: {verdict}"]
    for title, body in parts.items():
        lines += ["", title, *(f"  {line}" for line in body or ["none"])]
    if report.identifiers_normalised:
        lines += ["", f"identifiers spelled anew (spaces, dashes, letter case): {report.identifiers_normalised:,}"]
    return "\n".join(lines)


def _first(lines: list[str], most: int = _MAX_LINES) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]


def _files(files: tuple[FileFound, ...]) -> list[str]:
    alike: dict[str, list[FileFound]] = {}
    for file in files:
        path = PurePosixPath(file.path)
        alike.setdefault(str(path.with_name(f"*{path.suffix}")), []).append(file)
    lines = []
    for pattern, group in alike.items():
        of_one = [[file] for file in group] if len(group) <= _MAX_ALIKE else [group]
        lines += [_file(part[0].path if len(part) == 1 else f"{pattern}: {len(part)} files", part) for part in of_one]
    idle = [file for group in alike.values() if len(group) > _MAX_ALIKE for file in group if not file.is_used]
    return [*_first(lines, 2 * _MAX_LINES), *_first([_file(file.path, [file]) for file in idle])]


def _file(name: str, files: list[FileFound]) -> str:
    kept: dict[str, int] = {}
    for file in files:
        for table, rows in file.kept.items():
            kept[table] = kept.get(table, 0) + rows
    set_aside = sum(file.set_aside for file in files)
    counts = ", ".join(f"{table} {rows:,}" for table, rows in kept.items())
    idle = sum(not file.is_used for file in files)
    taken = f"rows of {counts}" if counts else "used for rows of other files" if idle < len(files) else "NOTHING TAKEN"
    said = [taken, *([f"{set_aside:,} rows set aside"] if set_aside else [])]
    said += [f"{idle} files gave nothing"] if 0 < idle < len(files) else []
    return f"{name}, {sum(file.num_bytes for file in files):,} bytes: {'; '.join(said)}"


def _mapped(mapped: MappedColumn) -> Iterator[str]:
    yield f"{mapped.table}.{mapped.column} <- {' or '.join(mapped.sources)}: {mapped.rows_with_value:,} rows with a value"
    shown = [
        f"{code.found!r} is {code.becomes if code.becomes is not None else 'dropped'} ({code.rows:,})"
        if code.is_declared
        else f"{code.found!r} IS NOT DECLARED ({code.rows:,})"
        for code in mapped.codes
    ]
    if shown:
        more = f", and {len(shown) - _MAX_CODES} more" if len(shown) > _MAX_CODES else ""
        yield f"  {', '.join(shown[:_MAX_CODES])}{more}"


def _vectors(vectors: Vectors) -> str:
    span = "no value" if vectors.lowest is None else f"{vectors.lowest:,.4g} to {vectors.highest:,.4g}"
    what = f"{vectors.num_cases:,} cases x {vectors.num_features:,} features ({vectors.unit})"
    return f"{vectors.table}: {what}, {span}, {vectors.missing_share:.1%} missing"


def _set_aside(one: SetAside) -> Iterator[str]:
    ids = "" if one.num_ids in {0, one.rows} else f" ({one.num_ids:,} identifiers)"
    yield f"{one.rows:,} of {one.table}{ids} {_EFFECTS.get(one.effect, one.effect)}: {one.reason}"
    if one.num_ids_left_out:
        yield f"  {one.num_ids_left_out:,} of the identifiers are of cases that are left out themselves"
    files = [f"{path} ({rows:,})" for path, rows in one.files.items()]
    more = f", and {len(files) - _MAX_ALIKE} more files" if len(files) > _MAX_ALIKE else ""
    yield f"  in {', '.join(files[:_MAX_ALIKE])}{more}"
    examples = [f"{case_id!r}{'' if found is None else f': {found[:80]!r}'}" for case_id, found in one.examples]
    yield f"  for example {', '.join(examples)}"


def _cohort(cohort: CohortFound) -> Iterator[str]:
    endpoints = ", ".join(f"{name} {cases:,} cases with {events:,} events" for name, (cases, events) in cohort.endpoints.items())
    yield f"{cohort.cohort}: {cohort.num_cases:,} cases; {endpoints or 'no endpoint'}"
    there = [f"{name} {have:,}{f' ({failed:,} failed)' if failed else ''}" for name, (have, failed) in cohort.modalities.items()]
    yield f"  cases with {', '.join(there)}"
    for check in cohort.checks:
        if not check.is_passed:
            yield f"  REFUSED by {check.name}: {check.found}"
