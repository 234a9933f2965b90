"""Which of several rows of a case counts, by a contract's keys, and what is said of the others. Pure functions over frames."""

from collections.abc import Sequence

import polars as pl

from feature_store.contract.rules import PickKey
from feature_store.ingest.values import present

# What becomes of a row that does not count, why, and what of it is shown: columns that Ingest.set_aside files and takes off.
MARKS = EFFECT, REASON, SHOWN = "_effect", "_reason", "_shown"
_LARGEST = {"last"}


def chosen(frame: pl.DataFrame, by: str, keys: Sequence[PickKey], missing: tuple[str, ...]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (rows that count, the others with the columns EFFECT, REASON and SHOWN).

    Among the rows with one value of `by`, each key in turn leaves those that it puts first; rows that all keys put equal stay.
    Rows are left out for another that counts; where none has a value that `prefer` lists, all are rejected.
    """
    rows = frame.with_row_index("_row")
    left, unlisted = rows, dict[str, str]()
    for key in keys:
        left = left.with_columns(_rank=_rank(key, missing))
        best = pl.col("_rank").max() if key.order in _LARGEST else pl.col("_rank").min()
        left = left.filter(pl.col("_rank").eq_missing(best.over(by)))
        if key.prefer:
            without = left.filter(pl.col("_rank").is_null())[by].unique()
            unlisted |= dict.fromkeys(without, f"{key.column} is none of {', '.join(value or 'missing' for value in key.prefer)}")
            left = left.filter(pl.col("_rank").is_not_null())
    left = left.drop("_rank", strict=False)
    others = rows.join(left, on="_row", how="anti", maintain_order="left")
    columns = dict.fromkeys(key.column for key in keys)
    shown = pl.concat_str([pl.col(name).fill_null("missing") for name in columns], separator=", ")
    counting = left.group_by(by, maintain_order=True).agg(_counting=shown.first())
    others = (
        others.join(counting, on=by, how="left", maintain_order="left")
        .with_columns(_unlisted=pl.col(by).replace_strict(unlisted, default=None, return_dtype=pl.String))
        .with_columns(
            pl.when(pl.col("_counting").is_null()).then(pl.lit("rejected")).otherwise(pl.lit("left_out")).alias(EFFECT),
            pl.coalesce("_unlisted", pl.lit("another of the case counts")).alias(REASON),
            pl.concat_str(shown, pl.lit(" (counts: ") + pl.col("_counting") + ")", ignore_nulls=True).alias(SHOWN),
        )
    )
    return left.drop("_row"), others.drop("_row", "_counting", "_unlisted")


def _rank(key: PickKey, missing: tuple[str, ...]) -> pl.Expr:
    """Return what a key compares: the place in `prefer`, a number, or the text; null where there is none."""
    value = present(key.column, missing)
    if key.extract is not None:
        value = value.str.extract(key.extract, 1)
    if key.prefer:
        places = {text: place for place, text in enumerate(key.prefer)}
        return value.fill_null("").replace_strict(places, default=None, return_dtype=pl.Int32)
    if key.order in {"first", "last"}:
        return value
    number = value.cast(pl.Float64, strict=False).fill_nan(None)
    return -number if key.order == "highest" else number
