"""Dates in texts: the forms they have, as patterns that RE2 and Python read alike, and moving one by some days.

Reports come from OCR: spaces get in, and O, o, l, I and | stand for 0 and 1 where a digit is expected.
"""

import re
from datetime import date

BOUNDARY = r"(?-u:\b)"  # of ASCII letters: RE2 is many times slower where it must know all
DIGIT = "[0-9OolI|]"
DAY = r"(?:0?[1-9]|[12][0-9]|3[01])"
_B = BOUNDARY
_YEAR = r"(?P<year>(?:19|20)[0-9]{2}|[0-9]{2})"
_LONG_YEAR = r"(?P<year>(?:19|20)[0-9]{2})"
_NAMED_DAY = rf"(?P<day>{DAY})(?:st|nd|rd|th)?"
_READ_DAY, _READ_YEAR = f"{DIGIT}{{1,2}}", f"(?:[1lI]9|2[0Oo]){DIGIT}{{2}}"
_MONTHS = (
    r"jan(?:uary)?", r"feb(?:ruary)?", r"mar(?:ch)?", r"apr(?:i[l1])?", r"may", r"june?", r"ju[l1]y?", r"aug(?:ust)?",
    r"sept?(?:ember)?", r"[o0]ct(?:[o0]ber)?", r"n[o0]v(?:ember)?", r"dec(?:ember)?",
)  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
# names that are no other word ("may") and no other word's beginning ("mar")
_WHOLE_MONTH = "(?P<month>january|february|march|april|june|july|august|september|october|november|december)"


def _numeric(sign: str, year: str) -> str:
    return rf"{_B}(?P<first>{DAY}) ?{sign} ?(?P<second>{DAY}) ?{sign} ?{year}{_B}"


DATE_PATTERNS = (
    rf"{_B}{_LONG_YEAR} ?[-/.] ?(?P<number>0?[1-9]|1[0-2]) ?[-/.] ?(?P<day>{DAY})(?:T[0-9:.]+Z?)?{_B}",
    rf"{_B}{_LONG_YEAR}(?P<number>0[1-9]|1[0-2])(?P<day>0[1-9]|[12][0-9]|3[01]){_B}",
    _numeric("/", _YEAR),
    _numeric("-", _YEAR),
    _numeric(r"\.", _YEAR),
    _numeric("[-/.,]", _LONG_YEAR),
    rf"(?i){_B}{_MONTH}[ .,/-]{{0,3}}{_NAMED_DAY}[ ,./'-]{{1,3}}{_YEAR}{_B}",
    rf"(?i){_B}{_NAMED_DAY}[ .,/-]{{0,3}}(?:of )?{_MONTH}[ ,./'-]{{0,3}}{_YEAR}{_B}",
    # without a year or without a day
    rf"(?i){_B}{_WHOLE_MONTH} {_NAMED_DAY}{_B}",
    rf"(?i){_B}{_NAMED_DAY} (?:of )?{_WHOLE_MONTH}{_B}",
    rf"(?i){_B}{_MONTH}[ .,/-]{{1,3}}{_LONG_YEAR}{_B}",
    rf"{_B}(?:0?[1-9]|1[0-2]) ?/ ?{_LONG_YEAR}{_B}",
    # with letters for digits
    rf"{_B}{_READ_YEAR} ?[-/.] ?{_READ_DAY} ?[-/.] ?{_READ_DAY}{_B}",
    rf"{_B}{_READ_DAY} ?/ ?{_READ_DAY} ?/ ?(?:{_READ_YEAR}|{DIGIT}{{2}}){_B}",
    rf"{_B}{_READ_DAY}-{_READ_DAY}-(?:{_READ_YEAR}|{DIGIT}{{2}}){_B}",
    rf"{_B}{_READ_DAY}\.{_READ_DAY}\.{_READ_YEAR}{_B}",
    rf"(?i){_B}{_MONTH}[ .,/-]{{0,3}}{_READ_DAY}[ ,./'-]{{1,3}}(?:{_READ_YEAR}|{DIGIT}{{2}}){_B}",
    rf"(?i){_B}{_READ_DAY}[ .,/-]{{0,3}}{_MONTH}[ ,./'-]{{0,3}}(?:{_READ_YEAR}|{DIGIT}{{2}}){_B}",
)
_COMPILED = [re.compile(pattern.replace(_B, r"\b"), re.ASCII) for pattern in DATE_PATTERNS]
_MONTH_OF = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
# A plane of Unicode that is nobody's: what stands for a date until all rules have run, so that none moves it again.
_FIRST_MARK, _MOST_MARKS = 0xF0000, 0xFFFD
_MARK = re.compile(f"[{chr(_FIRST_MARK)}-{chr(_FIRST_MARK + _MOST_MARKS)}]")


def moved_dates(text: str, days: int, *, is_day_first: bool) -> str:
    """Return a text in which each date that can be read is `days` later, as `[date 2003-05-12]`; others become `[date]`."""
    found: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if len(found) == _MOST_MARKS:
            return "[date]"
        found.append(_moved(match.groupdict(), days, is_day_first))
        return chr(_FIRST_MARK + len(found) - 1)

    text = _MARK.sub("", text)
    for pattern in _COMPILED:
        text = pattern.sub(keep, text)
    return _MARK.sub(lambda mark: found[ord(mark[0]) - _FIRST_MARK], text)


def _moved(parts: dict[str, str | None], days: int, is_day_first: bool) -> str:
    try:
        year = int(parts["year"] or "")
        year += 0 if year > 99 else 1900 if year > 30 else 2000
        return f"[date {date.fromordinal(date(year, *_month_and_day(parts, is_day_first)).toordinal() + days)}]"
    except (KeyError, ValueError, OverflowError):
        return "[date]"


def _month_and_day(parts: dict[str, str | None], is_day_first: bool) -> tuple[int, int]:
    """Return what a match says; raises KeyError or ValueError where it does not say both."""
    if "first" in parts:
        first, second = int(parts["first"] or ""), int(parts["second"] or "")
        month, day = (second, first) if is_day_first else (first, second)
        return (day, month) if month > 12 else (month, day)
    number, name = parts.get("number"), (parts.get("month") or "").lower()
    month = int(number) if number else _MONTH_OF[name[:3].replace("0", "o").replace("1", "l")]
    return month, int(parts["day"] or "")
