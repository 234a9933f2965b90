"""Columns of numbers in a source's table: which ones a pattern means, and their texts as float32."""

import re

import polars as pl

from feature_store.errors import ColumnMissingError, SourceFormatError
from feature_store.sources import SourceFile


def feature_columns(raw: pl.DataFrame, pattern: str, file: SourceFile, *, allow_none: bool = False) -> dict[str, str]:
    """Return column -> feature name for the columns that `pattern` matches, sorted by feature name.

    Raises ColumnMissingError when none matches (unless allowed) or two columns give the same feature.
    """
    compiled = re.compile(pattern)
    matches = {column: match.group(1) for column in raw.columns if (match := compiled.fullmatch(column)) and match.group(1)}
    if not matches and not allow_none:
        raise ColumnMissingError(
            f"source {file.relative}: no column matches {pattern!r}, expected the features; the first columns are "
            f"{raw.columns[:8]}. If the source renamed them, change the contract."
        )
    if len(set(matches.values())) != len(matches):
        repeated = sorted(name for name in set(matches.values()) if list(matches.values()).count(name) > 1)
        raise ColumnMissingError(
            f"source {file.relative}: features {repeated[:5]} come from several columns, expected one each. Narrow {pattern!r}."
        )
    return dict(sorted(matches.items(), key=lambda item: item[1]))


def numeric(frame: pl.DataFrame, columns: list[str], missing: tuple[str, ...], file: SourceFile) -> pl.DataFrame:
    """Return `frame` with `columns` as float32 (NaN where missing). Raises SourceFormatError on infinity and any other text."""
    absent = [*missing, "NA", "NaN", "nan"]
    numbers = frame.select(pl.col(columns).str.strip_chars().cast(pl.Float32, strict=False))
    # only columns with a gap are looked at as text, which takes several times as long
    gaps = [
        name
        for name, is_gap in numbers.select((~pl.all().is_finite().fill_null(value=False)).any()).row(0, named=True).items()
        if is_gap
    ]
    for name in gaps:
        is_gap = ~numbers[name].is_finite().fill_null(value=False)
        found = frame[name].filter(is_gap)
        bad = found.filter(found.is_not_null() & ~found.str.strip_chars().is_in(absent))
        if len(bad):
            raise SourceFormatError(
                f"source {file.relative}: column {name!r} holds {bad[0]!r} ({len(bad)} such values), expected numbers. "
                "Declare it under missing_values, or correct the file."
            )
    placeholders = [number for spelling in missing if (number := _number(spelling)) is not None]  # -999 and the like
    values = (
        pl.all()
        if not placeholders
        else pl.when(~pl.all().is_in(pl.Series(placeholders, dtype=pl.Float32).implode())).then(pl.all())
    )
    return frame.with_columns(numbers.select(values.fill_null(float("nan"))))


def _number(spelling: str) -> float | None:
    try:
        return float(spelling)
    except ValueError:
        return None
