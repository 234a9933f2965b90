"""Following the GDC's withdrawals: which cases and files of a landing folder it no longer releases.

A redaction hides a case, or a sample with its files, from the GDC's answers; the annotation says why. A withdrawn case gets a row
in redacted.tsv, by which a contract leaves it out, and loses it once the GDC releases the case again; a withdrawn file leaves
files.tsv. Nothing is deleted here: erasing is `mice erase`'s business.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from feature_store.errors import GdcError
from feature_store.gdc.api import Gdc
from feature_store.gdc.filters import equals
from feature_store.gdc.landing import Landing, Redacted, Row

_NOT_RELEASED = "no longer released"
_HIDDEN = {"redacted", "suppressed"}  # states of entities that are not released; such a hit should not come, but may
# Redactions are rare (docs.gdc.cancer.gov/Encyclopedia/pages/Redaction); many at once are rather an outage, or another address.
_MAX_SHARE = 0.1
_ALWAYS_ALLOWED = 5


@dataclass(frozen=True)
class Synced:
    """What a comparison changed: cases flagged and released again, files that left the index, files that have newer versions."""

    flagged: list[Redacted]
    lifted: list[Redacted]
    withdrawn: list[Row]
    superseded: list[Row]


def sync(gdc: Gdc, landing: Landing, *, accepts_many: bool = False, now: datetime | None = None) -> Synced:
    """Compare the landing folder's cases and files with the GDC's, and write down what it has withdrawn.

    Run twice it changes nothing the second time. Raises GdcError, having changed nothing, if more than a tenth of the cases or
    files are gone at once, unless that is accepted.
    """
    rows, before = landing.rows(), {row.case_id: row for row in landing.redacted()}
    case_ids = {str(case["submitter_id"]) for case in landing.cases()} | set(before)
    seen_at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    reasons = _withdrawn_cases(gdc, case_ids)
    flags = {
        case_id: Redacted(case_id, reason, annotation_id, before[case_id].seen_at if case_id in before else seen_at)
        for case_id, (reason, annotation_id) in reasons.items()
    }
    withdrawn, superseded = _changed_files(gdc, rows)
    new = [flag for case_id, flag in flags.items() if case_id not in before]
    if not accepts_many:
        _refuse_many("cases", len(new), len(case_ids))
        _refuse_many("files of other cases", sum(row.case_id not in flags for row in withdrawn), len(rows))
    landing.write_redacted(flags.values())
    landing.write_rows(row for row in rows if row not in withdrawn)
    return Synced(new, [flag for case_id, flag in before.items() if case_id not in flags], withdrawn, superseded)


def _refuse_many(what: str, num_gone: int, num_all: int) -> None:
    if num_gone > max(_ALWAYS_ALLOWED, _MAX_SHARE * num_all):
        raise GdcError(
            f"{what}: {num_gone} of {num_all} gone from the GDC at once, expected few. Nothing was changed; if they are "
            "withdrawn indeed, run it again with --accept-many."
        )


def _withdrawn_cases(gdc: Gdc, case_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return case id -> why it is withdrawn and by which annotation, of those that are."""
    wanted = set(case_ids)
    hits = gdc.hits_of("cases", "submitter_id", wanted, ["submitter_id", "state"])
    released = {str(hit.get("submitter_id")) for hit in hits if hit.get("state") not in _HIDDEN}
    reasons = dict.fromkeys(sorted(wanted - released), (_NOT_RELEASED, ""))
    fields = ["case_submitter_id", "entity_type", "status", "category", "classification"]
    for note in gdc.hits_of("annotations", "case_submitter_id", wanted, fields, equals("classification", "Redaction")):
        if note.get("entity_type") == "case" and note.get("status") == "Approved":
            reason = f"redacted: {note.get('category') or 'no category'}"
            reasons[str(note.get("case_submitter_id"))] = (reason, str(note.get("annotation_id")))
    return reasons


def _changed_files(gdc: Gdc, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the files that the GDC no longer has, and those that it has a newer version of."""
    hits = gdc.hits_of("files", "file_id", (row.file_id for row in rows), ["state"])
    released = {str(hit.get("file_id")) for hit in hits if hit.get("state") not in _HIDDEN}
    gone = [row for row in rows if row.file_id not in released]
    newest = gdc.newest_versions(row.file_id for row in gone)
    superseded = [row for row in gone if newest.get(row.file_id, row.file_id) != row.file_id]
    return [row for row in gone if row not in superseded], superseded
