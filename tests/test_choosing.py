"""Which of several rows of a case counts: keys in turn, ties, missing values, and what is said of the others."""

import polars as pl
import pytest

from feature_store.contract.rules import PickKey
from feature_store.ingest.choosing import chosen

FRAME = pl.DataFrame(
    {
        "case": ["a", "a", "a", "b", "b", "c", "d"],
        "kind": ["primary", "metastasis", "primary", "normal", "", "", None],
        "day": ["9", "1", "100", "x", "-5", None, "7"],
        "plate": ["A1", "A9", "A2", None, "B1", "C1", "D1"],
    }
)


def kept(*keys: PickKey) -> list[int]:
    frame = FRAME.with_row_index("n")
    rows, others = chosen(frame, "case", keys, ("",))
    assert sorted([*rows["n"], *others["n"]]) == list(range(FRAME.height))
    assert rows.columns == frame.columns
    return rows["n"].to_list()


def by(column: str, order: str) -> PickKey:
    return PickKey.model_validate({"column": column, "order": order})


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (by("day", "lowest"), [1, 4, 5, 6]),  # as numbers; what is no number comes last
        (by("day", "highest"), [2, 4, 5, 6]),
        (by("plate", "first"), [0, 4, 5, 6]),
        (by("plate", "last"), [1, 4, 5, 6]),
        (PickKey(column="kind", prefer=("metastasis", "primary", "normal", "")), [1, 3, 5, 6]),
        (PickKey(column="kind", prefer=("primary", "normal")), [0, 2, 3]),  # a tie stays, c and d have none of them
        (PickKey(column="plate", extract="([0-9])", order="last"), [1, 4, 5, 6]),
    ],
)
def test_one_key(key: PickKey, rows: list[int]) -> None:
    assert kept(key) == rows


def test_keys_in_turn_break_ties() -> None:
    assert kept(PickKey(column="kind", prefer=("primary", "")), by("day", "highest")) == [2, 4, 5, 6]


def test_what_is_said_of_the_others() -> None:
    keys = (PickKey(column="kind", prefer=("primary", "normal")), by("day", "lowest"))
    _, others = chosen(FRAME, "case", keys, ("",))
    assert others.select("case", "_effect", "_reason", "_shown").rows() == [
        ("a", "left_out", "another of the case counts", "metastasis, 1 (counts: primary, 9)"),
        ("a", "left_out", "another of the case counts", "primary, 100 (counts: primary, 9)"),
        ("b", "left_out", "another of the case counts", ", -5 (counts: normal, x)"),
        ("c", "rejected", "kind is none of primary, normal", ", missing"),
        ("d", "rejected", "kind is none of primary, normal", "missing, 7"),
    ]
