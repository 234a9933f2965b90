"""Report texts as encoders get them: what scanning and OCR left is mended, and what names a document or a case is taken out.

The store keeps texts untouched; every encoder, the offline one too, sees what this makes of them. Pure functions over texts.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from mice_model.outcome_words import OutcomeWords, Policy, without_words

# Raised whenever a text comes out otherwise: embeddings of two versions do not mix.
CLEANING_VERSION = 1

_HYPHENATED = re.compile(r"(?<=[a-z])[-\u00ad]\s*\n\s*(?=[a-z])")
_UNSEEN = re.compile(r"[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# A document's own number: models would learn documents by heart, and of TCGA's the hospital is a part.
_UUID = re.compile(r"(?:UUID\s*:?\s*)?[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")
# Bars of a barcode, read as letters: several groups in a row of nothing but strokes.
_BARS = re.compile(r"(?:(?<!\S)[Il1|!\[\]i]{3,}(?!\S)\s*){2,}")
_RUNS = re.compile(r"([^\w\s])(?:\s*\1){2,}")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class PreparedReports:
    """`texts` (n): what an encoder gets, None where there is no report; `num_places` (n): places that speak of the outcome.

    By `policy` those places are left out of the texts, or left in.
    """

    texts: tuple[str | None, ...]
    num_places: tuple[int, ...]
    outcome_words: OutcomeWords
    policy: Policy


def prepared(reports: Sequence[str | None], case_ids: Sequence[str], policy: Policy) -> PreparedReports:
    """Return reports cleaned, without their case's identifier, and as `policy` says without words about the outcome."""
    texts: list[str | None] = []
    found: list[dict[str, int]] = []
    for report, case_id in zip(reports, case_ids, strict=True):
        text = None if report is None else cleaned(report, case_id)
        masked, places = (None, {}) if text is None else without_words(text)
        texts.append(masked if policy == "mask" else text)
        found.append(places)
    words = OutcomeWords.over([places for places, text in zip(found, texts, strict=True) if text is not None])
    return PreparedReports(tuple(texts), tuple(sum(places.values()) for places in found), words, policy)


def cleaned(text: str, case_id: str = "") -> str:
    """Return a text on one line: words joined over line ends; barcodes, rulers and identifiers left out."""
    text = _UNSEEN.sub("", _HYPHENATED.sub("", unicodedata.normalize("NFKC", text).replace("\r\n", "\n")))
    text = _UUID.sub(" ", _CONTROL.sub(" ", text))
    if case_id:
        text = re.sub(rf"(?<!\w){re.escape(case_id)}(?!\w)(?:-\w+)*", " ", text, flags=re.IGNORECASE)
    return _SPACES.sub(" ", _RUNS.sub(r"\1", _BARS.sub(" ", text))).strip()
