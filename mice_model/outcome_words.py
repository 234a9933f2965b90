"""Words in a report that say what became known only later: that the patient died, what came back, how follow-up ended.

A report is written at time zero; where one says such a thing it was amended, or a registry's form was filed with it, and a model
that reads it looks better than it is. What belongs here: the words. Histology's own (cell death, progression-free survival of
others, a recurrence score, the stage "determined at autopsy" of a form) are none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Policy = Literal["mask", "flag"]

_NUMBER = r"(?:\d+|one|two|three|four|five|six|several)"
_PATTERNS = {
    "death": (
        r"vital status\s*[:=-]?\s*(?:dead|deceased|expired|alive|living)?",
        r"(?:date|cause|time|age|manner) (?:of|at) death(?!\s+of\s+cells)",
        r"deceased",
        r"(?:patient|pt|he|she|who|has|had|have) (?:has |had |was |is )?(?:died|expired|passed away|dead)",
        r"died (?:of|from|on|in|at|during|after|\d)",
        r"dead of (?:the )?disease",
        r"death certificate",
        r"(?:autopsy|post-?\s?mortem) (?:report|diagnos[ei]s|findings?|number|protocol|examination|was|is|showed|revealed)",
    ),
    "recurrence": (
        r"recurrences? (?:at|after|within) (?:the |a )?(?:\d|\w+ (?:days?|weeks?|months?|years?))",
        rf"(?:recurred|relapsed|progressed|metastasi[sz]ed) (?:at|after|within|in) {_NUMBER}",
        r"(?:later|subsequently|thereafter) (?:recurred|relapsed|progressed|metastasi[sz]ed)",
        r"(?:later|subsequently|thereafter|has since) developed (?:an? |local |distant )*(?:recurrence|metastas[ei]s|relapse)",
        rf"disease[- ]free (?:at|for|after) {_NUMBER}",
    ),
    "follow_up": (
        r"(?:last|latest)(?: known)? (?:follow[- ]?up|contact)",
        r"lost to follow[- ]?up",
        r"alive (?:with|without|and (?:well|free)|at (?:last|the))",
        r"no evidence of (?:disease|recurrence) at (?:last|\d)",
        rf"surviv(?:ed|al of) (?:for )?{_NUMBER}",
    ),
}
KINDS = tuple(_PATTERNS)
# What a test of genes foretells is known at time zero.
_FORETOLD = r"(?:rate|risk|chance|probability|likelihood) of (?:\w+ )?recurrence (?:at|within) \d+ years?"
# A text with none of these has no such place; asking for them is many times as fast as searching.
_STEMS = (
    "vital status", "death", "deceased", "died", "expired", "passed away", "dead", "autopsy", "mortem", "recurre", "relapsed",
    "progressed", "metastasi", "developed", "disease-free", "disease free", "follow-up", "follow up", "followup", "contact",
    "alive", "evidence of disease at", "evidence of recurrence at", "surviv",
)  # fmt: skip
# Not inside a document's number: of hexadecimal digits, "died" is one.
_ALL = re.compile(
    rf"(?<![\w-])(?:(?P<foretold>{_FORETOLD})|"
    + "|".join(f"(?P<{kind}>{'|'.join(patterns)})" for kind, patterns in _PATTERNS.items())
    + r")(?![\w-])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OutcomeWords:
    """How many places were found, in how many of `num_reports` reports; `places` by kind."""

    num_reports: int
    num_with_words: int
    places: Mapping[str, int]

    @classmethod
    def over(cls, found: Sequence[Mapping[str, int]]) -> "OutcomeWords":
        """Add up what was found in each report, by kind."""
        places = {kind: sum(of_report.get(kind, 0) for of_report in found) for kind in KINDS}
        return cls(len(found), sum(bool(of_report) for of_report in found), places)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind.replace('_', '-')} {number}" for kind, number in self.places.items())
        return f"{sum(self.places.values())} places in {self.num_with_words} reports ({kinds})"


def without_words(text: str) -> tuple[str, dict[str, int]]:
    """Return a cleaned text (single spaces) without such words, and kind -> number of places, of the kinds that there are.

    Nothing is put in their place: a mark would tell as much as the word.
    """
    lower, found = text.lower(), dict[str, int]()
    if not any(stem in lower for stem in _STEMS):
        return text, found

    def counted(match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        if kind == "foretold":
            return match[0]
        found[kind] = found.get(kind, 0) + 1
        return " "

    shorter = _ALL.sub(counted, text)
    return (" ".join(shorter.split()) if found else text), found
