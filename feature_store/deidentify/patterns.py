"""What can be told by its form alone: telephone numbers, record numbers, addresses and the like, as patterns of RE2.

RE2 takes time in proportion to the text, whatever the text. What has no form of its own (a name) is person_names.py's.
"""

from dataclasses import dataclass

from feature_store.deidentify.dates import BOUNDARY as B
from feature_store.deidentify.dates import DATE_PATTERNS, DAY, DIGIT


@dataclass(frozen=True)
class Rule:
    """A pattern and the kind of what it finds. With `has_label`, its first group is left in place: what says the kind."""

    kind: str
    pattern: str
    has_label: bool = False

    @property
    def replacement(self) -> str:
        """What stands for what was found, as RE2 reads it."""
        return f"${{1}}[{self.kind}]" if self.has_label else f"[{self.kind}]"


def _labelled(kind: str, label: str, value: str) -> Rule:
    return Rule(kind, rf"(?i){B}({label}){value}", has_label=True)


# What may stand between a label and its number, a word for number or a sign.
_SIGN = r"(?:\s?(?:numbers?|num|nbr|no|id|code|identifier|#)[.#]?){0,2}[\s:#=.()-]{0,5}"
_IS_NUMBER = rf"\s?(?:#|(?:no|num|number|id|identifier){B})"
_LETTERS = r"(?:[a-z]{1,4}[- ]{0,2}){0,2}"
_VALUE = rf"{_LETTERS}[0-9][0-9a-z-]*(?:[./:][0-9]+)*"
_LONG_VALUE = rf"{_LETTERS}[0-9][0-9a-z-]{{2,}}(?:[./:][0-9]+)*"
_RECORD = (
    r"m\.?r\.?n\.?|med(?:ical)?\.?\s?rec(?:ord)?s?|acc(?:oun)?t|encounter|fin|s\.?s\.?n\.?|soc(?:ial)? sec(?:urity)?|nhs|chart|"
    r"(?:health|insurance) (?:card|plan)|insurance|policy|member|registration|(?:national|personal) (?:id|identity)|passport|"
    r"licen[cs]e|beneficiary|barcode|uuid|requisition|"
    rf"(?:mr|unit(?: record)?|hosp(?:ital)?\.?|patient(?:'s)?|pt\.?|visit|order|file){_IS_NUMBER}"
)
_SPECIMEN = (
    rf"(?:specimen|case|surg(?:ical)?(?: path(?:ology)?)?|path(?:ology)?|lab(?:oratory)?|cyto(?:logy)?|slide|block|report|biopsy|"
    rf"histology)(?: accession)?{_IS_NUMBER}"
)
_PHONE = r"(?:tele)?phone|tel|fax|pager|beeper|mobile|cell|ext(?:ension)?|ph"
_AREA = rf"(?:\( ?{DIGIT}{{3}} ?\)|{B}[0-9]{DIGIT}{{2}})"
_DATED = r"(?:date|dated|collected|received|reported|signed|d\.?o\.?b\.?)[ :]{1,3}(?:on )?"
# LN is a lymph node, CT a scan, and a cm square is none
_STREET = "(?i:street|st|avenue|ave|road|rd|boulevard|blvd|lane|drive|court|parkway|pkwy|highway|hwy|terrace)"
_DOOR = "(?i:,? (?:apt|suite|ste|unit|#)\\.? ?[0-9a-z]+)?"
_STATE = "A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[TA]|W[AVIY]"
_TWO = f"(?:[0-9]{DIGIT}|{DIGIT}[0-9])"  # digits, one of which may be read as a letter
_TIME = "[0-2]?[0-9][:.][0-5][0-9](?::[0-5][0-9])?"
_UNIT_OF_NINETY = "(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?"
_OVER_89 = "(?:9[0-9]|1[0-2][0-9])"

BEFORE_DATES = (
    Rule("url", rf"(?i){B}(?:https?://|www\.)[^\s<>]*[^\s<>.,;:)]"),
    Rule("email", r"(?i)[a-z0-9._%+-]+ ?@ ?[a-z0-9-]+(?: ?\. ?[a-z0-9-]{2,})+"),
    Rule("record", rf"(?i){B}[0-9a-f]{{8}}(?: ?- ?[0-9a-f]{{4}}){{3}} ?- ?[0-9a-f]{{12}}{B}"),
    _labelled("accession", rf"accession{_SIGN}|acc\s?(?:#|no{B}){_SIGN}", _VALUE),
    _labelled("accession", rf"{_SPECIMEN}{_SIGN}", _LONG_VALUE),
    _labelled("record", rf"(?:{_RECORD}){_SIGN}", _LONG_VALUE),
    Rule("record", rf"{B}[0-9]{{3}}[- ][0-9]{{2}}[- ][0-9]{{4}}{B}"),
)
DATES = tuple(Rule("date", pattern) for pattern in DATE_PATTERNS)
AFTER_DATES = (
    # times of day: beside a date, or with am or pm; 10:00 alone is a place in a breast
    Rule("time", rf"(?i)(\[date[^\]]*\][ ,@]{{0,3}}(?:at )?){_TIME}(?: ?[ap]\.?m{B}\.?)?", has_label=True),
    Rule("time", rf"(?i){B}{_TIME} ?[ap]\.?m{B}\.?"),
    _labelled("date", _DATED, rf"{DAY} ?/ ?{DAY}{B}"),
    Rule("phone", rf"(?:\+?1[-. ]?)?{_AREA}[-. /]{{0,3}}{DIGIT}{{3}} ?[-.] ?{DIGIT}{{4}}{B}"),
    Rule("phone", rf"(?:\+?1[-. ]?)?{_AREA} ?{DIGIT}{{3}} {DIGIT}{{4}}{B}"),
    Rule("phone", r"\+[0-9]{1,3}(?:[ .-]?\(?[0-9]{2,4}\)?){3,5}"),
    _labelled("phone", rf"(?:{_PHONE}){B}\.?{_SIGN}", rf"\+?\(?[0-9][0-9 ().-]{{2,16}}[0-9]{B}"),
    Rule("phone", rf"{B}[2-9][0-9]{{2}}-[0-9]{{4}}{B}"),
    Rule(
        "accession",
        rf"{B}[A-Z]{{1,4}}[ -]?{DIGIT}{{2}} ?[-:] ?{_TWO}{DIGIT}{{1,5}}(?:-[A-Z0-9]{{1,3}})?{B}",
    ),
    Rule("accession", rf"{B}[0-9]{{2,4}}-?[A-Z]{{1,3}}-?[0-9]{{3,7}}{B}"),
    Rule("accession", rf"{B}{DIGIT}{{2}}-{_TWO}{DIGIT}{{2,5}}{B}"),
    Rule("record", rf"{B}[A-Z]{{1,3}}-?[0-9]{DIGIT}{{5,}}{B}"),
    Rule("record", rf"{B}{DIGIT}{{2,3}}-{_TWO}{DIGIT}?-{DIGIT}{{2,4}}{B}"),
    Rule("record", rf"{B}[0-9]{DIGIT}{{5,}}{B}"),
    Rule("age", rf"(?i){B}{_OVER_89}[- ]{{0,2}}(?:years?|yrs?|y[./]?o)(?:[. -]{{0,2}}old)?{B}"),
    _labelled("age", r"aged?(?: at [a-z]+)?[ :=]{1,3}", rf"{_OVER_89}{B}"),
    Rule("age", rf"(?i){B}(?:ninety{_UNIT_OF_NINETY}|(?:one|a) hundred)[- ]years?(?:[- ]old)?{B}"),
    Rule("address", rf"{B}[0-9]{{1,5}} (?:[NSEW]\.? )?(?:[A-Z][A-Za-z'.]+ ){{1,3}}{_STREET}{B}\.?{_DOOR}"),
    Rule("address", rf"(?i){B}p\.? ?o\.? ?box [0-9]+"),
    Rule("address", rf"(?:{B}[A-Z][A-Za-z.]+[ ,]{{1,2}}){{1,3}}(?:{_STATE}) [0-9]{{5}}(?:-[0-9]{{4}})?{B}"),
)
KINDS = tuple(sorted({rule.kind for rule in (*BEFORE_DATES, *DATES, *AFTER_DATES)}))
