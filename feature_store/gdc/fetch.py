"""Filling a landing folder: which files and cases the GDC has of some projects, downloading them, and listing what is there.

What belongs here: the questions to the GDC and what of its answers is kept. The lists name a file only once it is there.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from feature_store.errors import GdcError, ManifestError
from feature_store.gdc.api import Gdc, Hit
from feature_store.gdc.data_types import DataType
from feature_store.gdc.download import Downloaded, download
from feature_store.gdc.filters import all_of, any_of, one_of
from feature_store.gdc.landing import Landing, Row
from feature_store.gdc.manifest import checked

_FILE_FIELDS = (
    *("file_name", "md5sum", "file_size", "state", "data_category", "data_type", "data_format", "experimental_strategy"),
    *("analysis.workflow_type", "cases.submitter_id", "cases.project.project_id"),
    *("cases.samples.submitter_id", "cases.samples.sample_type", "cases.samples.tissue_type"),
    "cases.samples.portions.analytes.aliquots.submitter_id",
)
# Not the endpoint's default fields: those list the ids of everything below a case, in another order each time.
_CASE_FIELDS = (
    *("submitter_id", "project.project_id", "primary_site", "disease_type", "index_date", "consent_type", "days_to_consent"),
    *("lost_to_followup", "days_to_lost_to_followup", "state"),
)
_CASE_GROUPS = ("demographic", "diagnoses", "diagnoses.treatments", "follow_ups", "exposures")


@dataclass(frozen=True)
class Found:
    """What the GDC has of some projects and kinds of file."""

    rows: list[Row]
    cases: list[Hit]

    @classmethod
    def ask(cls, gdc: Gdc, projects: Sequence[str], kinds: Sequence[DataType]) -> Self:
        """Ask the GDC. Raises GdcError if a project has no cases, or a file is not what can be downloaded."""
        wanted = all_of(one_of("cases.project.project_id", projects), any_of(*(kind.filter for kind in kinds)))
        rows = [_row(hit) for hit in gdc.hits("files", wanted, _FILE_FIELDS)]
        cases = gdc.hits("cases", one_of("project.project_id", projects), _CASE_FIELDS, _CASE_GROUPS)
        empty = set(projects) - {project_of(case) for case in cases}
        if empty:
            raise GdcError(f"projects {sorted(empty)}: no cases, expected some. Check their names (such as PROGRAM-NAME).")
        if nameless := [str(case.get("case_id")) for case in cases if not case.get("submitter_id")]:
            raise GdcError(f"cases {nameless[:5]}: no submitter_id, expected one each. Nothing was downloaded; tell the GDC.")
        return cls(rows, cases)


def fetch(gdc: Gdc, landing: Landing, found: Found, kinds: Sequence[DataType], *, accepts_missing: bool = False) -> Downloaded:
    """Download what was found and list it, beside what the landing folder has of other projects and kinds.

    If files are missing at the end the lists stay as they were, unless that is accepted: then they have what is there.
    """
    done = download(gdc.http, [row.file for row in found.rows], landing.files)
    if done.failed and not accepts_missing:
        return done
    missing = {failure.file.file_id for failure in done.failed}
    projects = {project_of(case) for case in found.cases}
    cases = {str(case["submitter_id"]): case for case in found.cases}
    rows = {row.file_id: row for row in found.rows if row.file_id not in missing}
    if landing.is_fetched:
        cases |= {str(case["submitter_id"]): case for case in landing.cases() if project_of(case) not in projects}
        for row in landing.rows():
            is_asked_for = row.project_id in projects and any(kind.includes(row.data_type, row.workflow_type) for kind in kinds)
            if not is_asked_for:
                rows.setdefault(row.file_id, row)
    else:
        landing.write_redacted([])
    landing.write_cases([_ordered(cases[case_id]) for case_id in sorted(cases)])
    landing.write_rows(rows.values())
    return done


def project_of(case: Hit) -> str:
    """Return a case's project id, or an empty text."""
    return str((case.get("project") or {}).get("project_id", ""))


def _row(hit: Hit) -> Row:
    cases = hit.get("cases") or []
    case = cases[0] if len(cases) == 1 else {}
    samples = case.get("samples") or []
    of_tumour = [sample for sample in samples if not _is_normal(sample)]
    samples = of_tumour or samples
    aliquots = [
        aliquot.get("submitter_id")
        for sample in samples
        for portion in sample.get("portions") or []
        for analyte in portion.get("analytes") or []
        for aliquot in analyte.get("aliquots") or []
    ]
    file_id, file_name = str(hit.get("file_id")), str(hit.get("file_name"))
    try:
        file = checked(file_id, file_name, str(hit.get("md5sum")), str(hit.get("file_size")))
    except ManifestError as error:
        raise GdcError(f"file {file_id}: {error}. Nothing was downloaded; tell the GDC.") from error
    return Row(
        file_id=file_id,
        path=f"gdc/files/{file.path}",
        file_name=file_name,
        data_category=_text(hit.get("data_category")),
        data_type=_text(hit.get("data_type")),
        experimental_strategy=_text(hit.get("experimental_strategy")),
        workflow_type=_text((hit.get("analysis") or {}).get("workflow_type")),
        data_format=_text(hit.get("data_format")),
        md5=file.md5,
        num_bytes=file.num_bytes,
        project_id=_joined(project_of(one) for one in cases),
        case_id=_text(case.get("submitter_id")),
        sample_id=_joined(sample.get("submitter_id") for sample in samples),
        sample_type=_joined(sample.get("sample_type") for sample in samples),
        aliquot_id=_joined(aliquots),
    )


def _is_normal(sample: Hit) -> bool:
    return sample.get("tissue_type") == "Normal" or "Normal" in str(sample.get("sample_type"))


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _joined(values: Iterable[object]) -> str:
    return ";".join(sorted({_text(value) for value in values} - {""}))


def _ordered(value: Any) -> Any:
    """Return a case with its lists in an order of their own: the GDC's changes, and with it the file's checksum would."""
    if isinstance(value, dict):
        return {key: _ordered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted((_ordered(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value
