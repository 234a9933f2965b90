"""The kinds of text a contract's fields may hold: names, patterns, paths below the landing folder. Checks only."""

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


def _fills(*names: str) -> AfterValidator:
    def check(template: str) -> str:
        try:
            found = {tuple(part[1:]) for part in string.Formatter().parse(template) if part[1] is not None}
        except ValueError as error:
            raise ValueError(f"{template!r}: {error}") from error
        if found != {(name, "", None) for name in names}:
            raise ValueError(f"{template!r} has other placeholders than expected: {', '.join(f'{{{name}}}' for name in names)}")
        return template

    return AfterValidator(check)


# The name becomes a folder under staging/, whose neighbours a later staging removes.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
LandingPath = Annotated[str, AfterValidator(_is_below_landing)]
SlideFiles = Annotated[LandingPath, _fills("slide_id")]
FoldFiles = Annotated[LandingPath, _fills("cancer_type", "fold")]
# Over column names (Python's engine), and over the values in a column (polars').
ColumnPattern = Annotated[str, AfterValidator(_has_one_group)]
ValuePattern = Annotated[str, AfterValidator(_runs_on_values)]
ExtractPattern = Annotated[str, AfterValidator(_has_one_group), AfterValidator(_runs_on_values)]
