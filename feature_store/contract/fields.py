"""The kinds of text a contract's fields may hold: names, patterns, paths below the landing folder. Checks only."""

import codecs
import re
import string
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error


def _has_one_group(pattern: str) -> str:
    if _compiled(pattern).groups != 1:
        raise ValueError(f"{pattern!r} needs exactly one group")
    return pattern


def _runs_on_values(pattern: str) -> str:
    """Accept what polars' own engine takes: it knows no look-around and no back-references."""
    import polars as pl  # noqa: PLC0415 - slow to import, and Dagster's code location reads this module when it starts

    _compiled(pattern)
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{pattern!r} is no pattern for values ({str(error).splitlines()[0]})") from error
    return pattern


def _is_below_landing(path: str) -> str:
    parts = PurePosixPath(path).parts
    is_glob_sound = all("**" not in part or part == "**" for part in parts)
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path or not is_glob_sound:
        raise ValueError(f"{path!r} is no path below the landing folder")
    return path


def _placeholders(template: str) -> set[tuple[str | None, ...]]:
    try:
        return {part[1:] for part in string.Formatter().parse(template) if part[1] is not None}
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}") from error


def _fills(*names: str) -> AfterValidator:
    def check(template: str) -> str:
        if _placeholders(template) != {(name, "", None) for name in names}:
            raise ValueError(f"{template!r} has other placeholders than expected: {', '.join(f'{{{name}}}' for name in names)}")
        return template

    return AfterValidator(check)


def _fills_columns(template: str) -> str:
    found = _placeholders(template)
    if not found or any(not part[0] or part[1:] != ("", None) for part in found):
        raise ValueError(f"{template!r} names no columns, expected the file's place as a table has it, like {{path}}")
    return template


def _is_text_encoding(name: str) -> str:
    try:
        "".encode(codecs.lookup(name).name)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{name!r} is no text encoding ({error})") from error
    return name


def _is_date_format(text: str) -> str:
    if not all(any(sign in text for sign in signs) for signs in (("%Y", "%y"), ("%m", "%b", "%B"), ("%d", "%e"))):
        raise ValueError(f"{text!r} is no format of a date, expected one with year, month and day, like %Y-%m-%d")
    return text


# The name becomes a folder under staging/, whose neighbours a later staging removes.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
LandingPath = Annotated[str, AfterValidator(_is_below_landing)]
SlideFiles = Annotated[LandingPath, _fills("slide_id")]
CaseFiles = Annotated[str, AfterValidator(_fills_columns)]
FoldFiles = Annotated[LandingPath, _fills("cancer_type", "fold")]
Separator = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e\t]$")]
Encoding = Annotated[str, AfterValidator(_is_text_encoding)]
DateFormat = Annotated[str, AfterValidator(_is_date_format)]
# Over column names (Python's engine), and over the values in a column (polars').
ColumnPattern = Annotated[str, AfterValidator(_has_one_group)]
ValuePattern = Annotated[str, AfterValidator(_runs_on_values)]
ExtractPattern = Annotated[str, AfterValidator(_has_one_group), AfterValidator(_runs_on_values)]
