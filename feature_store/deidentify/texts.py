"""Scrubbing texts: known identifiers, then what has a form of its own, then names, each replaced by a tag that says its kind."""

import re
from collections import Counter
from collections.abc import Callable, Collection

import polars as pl

from feature_store.deidentify.dates import DATE_PATTERNS, moved_dates
from feature_store.deidentify.messages import runs
from feature_store.deidentify.patterns import AFTER_DATES, BEFORE_DATES, DATES, KINDS, Rule
from feature_store.deidentify.person_names import without_names

# Runs of letters and digits joined by what may stand in an identifier.
_WORDS = r"[0-9A-Za-z]+(?:[-._][0-9A-Za-z]+)*"
IDENTIFIER = "identifier"
FEWEST_CHARACTERS = 6  # of an identifier that texts are searched for (erase/identity.py)


def scrubbed(
    texts: pl.Series,
    known: Collection[str] = (),
    people: Collection[str] = (),
    move_dates: Callable[[pl.Series], pl.Series] | None = None,
) -> tuple[pl.Series, Counter[str]]:
    """Return the texts with tags such as `[date]` for what identifies, and how many of each kind were put in.

    `known`: identifiers in common spelling (erase/identity.py). `people`: names that the texts may hold. `move_dates`: what
    is done to dates instead of removing them.
    """
    before = _tags(texts)
    texts = _without(texts, known)
    texts = _ruled(texts, BEFORE_DATES)
    texts = _ruled(texts, DATES) if move_dates is None else move_dates(texts)
    texts = _ruled(texts, AFTER_DATES)
    counts = _tags(texts) - before
    texts, names = without_names(texts, people)
    return texts, counts + names


def dates_moved(texts: pl.Series, days: pl.Series, *, is_day_first: bool) -> pl.Series:
    """Return the texts with every date in them moved by each text's own number of days."""
    has_date = pl.any_horizontal(pl.col("text").str.contains(pattern) for pattern in DATE_PATTERNS)
    frame = pl.DataFrame({"text": texts, "days": days}).with_columns(has_date=has_date.fill_null(value=False))
    moved = [moved_dates(text, by, is_day_first=is_day_first) if is_dated else text for text, by, is_dated in frame.iter_rows()]
    return pl.Series(texts.name, moved, dtype=pl.String)


def _ruled(texts: pl.Series, rules: Collection[Rule]) -> pl.Series:
    for rule in rules:
        texts = texts.str.replace_all(rule.pattern, rule.replacement)
    return texts


def _tags(texts: pl.Series) -> Counter[str]:
    return Counter({kind: int(texts.str.count_matches(f"[{kind}", literal=True).sum()) for kind in (*KINDS, IDENTIFIER)})


def naming(texts: pl.Series, known: Collection[str]) -> list[str]:
    """Return the words of texts that name something known: an identifier, or a barcode that begins with one."""
    tokens = texts.unique().drop_nulls().str.extract_all(_WORDS).explode(empty_as_null=False, keep_nulls=False).unique()
    tokens = tokens.filter(tokens.str.contains("[0-9]") & (tokens.str.len_bytes() >= FEWEST_CHARACTERS))
    return [token for token in tokens if any(run in known for run in runs(token))]


def _without(texts: pl.Series, known: Collection[str]) -> pl.Series:
    named = naming(texts, known)
    if not named:
        return texts
    frame = pl.DataFrame({"token": texts}).with_row_index("row").with_columns(pl.col("token").str.extract_all(_WORDS))
    of_rows = frame.explode("token").filter(pl.col("token").is_in(named)).group_by("row").agg(pl.col("token").unique())
    changed = texts.to_list()
    for row, tokens in of_rows.iter_rows():
        spelled = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        changed[row] = re.sub(rf"(?<![0-9A-Za-z])(?:{spelled})(?![0-9A-Za-z])", f"[{IDENTIFIER}]", changed[row])
    return pl.Series(texts.name, changed, dtype=pl.String)
