"""Columns of numbers in a source's table: which ones a pattern means, and their texts as float32."""

import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.errors import ColumnMissingError, SourceFormatError
from feature_store.sources import SourceFile

Matrix = NDArray[np.float32]


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


def numeric(
    frame: pl.DataFrame, columns: list[str], missing: tuple[str, ...], file: SourceFile, rows: pl.Series | None = None
) -> Matrix:
    """Return `columns`, texts or float32 already, as float32 (n, g), NaN where missing; of given rows only, if any are given.

    Raises SourceFormatError on infinity and any text that is no number.
    """
    texts_or_numbers = frame[columns]  # select would plan a query over thousands of columns
    if set(texts_or_numbers.dtypes) == {pl.Float32}:
        values = texts_or_numbers.to_numpy(order="c", writable=True)
        values = values if rows is None else values[rows.to_numpy()]
        if len(infinite := np.argwhere(np.isinf(values))):
            raise SourceFormatError(
                f"source {file.relative}: column {columns[infinite[0, 1]]!r} holds an infinite number, or one too large for "
                f"float32 ({len(infinite)} such values), expected finite ones. Declare it under missing_values, or correct the "
                "file."
            )
        return _without_placeholders(values, missing)
    # one column of all texts: thousands of short ones take several times as long; an optional column that is absent is of texts
    texts = pl.concat([column.cast(pl.String) for column in texts_or_numbers], rechunk=False)
    numbers = texts.cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy()
    values = np.array(numbers.reshape(len(columns), frame.height).T, order="C")
    places = np.arange(frame.height) if rows is None else rows.to_numpy()
    values = values if rows is None else values[places]
    column, row = np.nonzero(~np.isfinite(values.T))
    if len(row):
        found = texts.gather(column * frame.height + places[row]).str.strip_chars()
        values[row, column] = found.cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy()
        _refuse_texts(found, values[row, column], column, columns, [*missing, "NA", "NaN", "nan"], file)
    return _without_placeholders(values, missing)


def _without_placeholders(values: Matrix, missing: tuple[str, ...]) -> Matrix:
    placeholders = [number for spelling in missing if (number := _number(spelling)) is not None]  # -999 and the like
    if placeholders:
        values[np.isin(values, np.array(placeholders, np.float32))] = np.nan
    return values


def _refuse_texts(
    found: pl.Series,
    values: NDArray[np.float32],
    column: NDArray[np.intp],
    columns: list[str],
    absent: list[str],
    file: SourceFile,
) -> None:
    """Raise SourceFormatError if a text that gave no finite number says no absence either; `column` is each one's place."""
    is_bad = ~np.isfinite(values) & (found.is_not_null() & ~found.is_in(absent)).to_numpy()
    if is_bad.any():
        first = column[is_bad][0]
        of_first = is_bad & (column == first)
        example = found.filter(pl.Series(of_first))[0]
        raise SourceFormatError(
            f"source {file.relative}: column {columns[first]!r} holds {example!r} ({of_first.sum()} such values), expected "
            "numbers. Declare it under missing_values, or correct the file."
        )


def variants(values: Matrix) -> pl.Series:
    """Number the different rows of a matrix (n, g); a missing value equals another, and 0 equals -0."""
    plain = np.where(np.isnan(values), np.float32("nan"), values + np.float32(0))
    seen: dict[bytes, int] = {}
    return pl.Series([seen.setdefault(row.tobytes(), len(seen)) for row in plain], dtype=pl.Int64)


def _number(spelling: str) -> float | None:
    try:
        return float(spelling)
    except ValueError:
        return None
