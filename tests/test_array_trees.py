"""Trees of dataclasses with arrays: into arrays and JSON, and back to equal trees."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import numpy as np
import pytest
from numpy.typing import NDArray
from trees import assert_same

from mice_model.array_trees import put_together, take_apart
from mice_model.artifacts import load_fitted, save_fitted


@dataclass(frozen=True)
class Leaf:
    name: str
    values: NDArray[np.float32]
    bound: float


@dataclass(frozen=True)
class Branch:
    leaves: tuple[Leaf, ...]
    pair: tuple[str, Leaf]
    maybe: Leaf | None
    maybe_array: NDArray[np.int64] | None
    by_name: Mapping[str, Leaf]
    numbers: Mapping[str, tuple[float, float]]
    named: tuple[tuple[str, int], ...]
    old_style: Optional["Leaf"]
    count: int
    is_on: bool


def leaf(name, *values, bound=1.5):
    return Leaf(name, np.array(values, np.float32), bound)


FULL = Branch(
    leaves=(leaf("first", 1, 2), leaf("second", np.nan, np.inf, -0.0)),
    pair=("word", leaf("third", bound=float("inf"))),
    maybe=leaf("fourth", 3),
    maybe_array=np.arange(6).reshape(2, 3),
    by_name={"a b": leaf("fifth", 4), "c": leaf("sixth", 5)},
    numbers={"x": (1.0, float("inf")), "y": (0.1, 2.5)},
    named=(("p", 1), ("q", 2)),
    old_style=leaf("seventh", 6),
    count=7,
    is_on=True,
)
BARE = Branch((), ("", leaf("only")), None, None, {}, {}, (), None, 0, False)


@pytest.mark.parametrize("tree", [FULL, BARE], ids=["full", "bare"])
def test_a_tree_comes_back_equal(tree):
    arrays = {}
    plain = take_apart(tree, "", arrays)
    assert_same(put_together(Branch, json.loads(json.dumps(plain)), "", arrays), tree)


@pytest.mark.parametrize("tree", [FULL, BARE], ids=["full", "bare"])
def test_a_tree_comes_back_equal_from_disk(tree, tmp_path):
    save_fitted(tmp_path / "folder" / "tree", tree)
    assert_same(load_fitted(tmp_path / "folder" / "tree", Branch), tree)


def test_arrays_are_named_by_their_place():
    arrays = {}
    plain = take_apart(FULL, "top", arrays)
    assert set(arrays) == {
        "top.leaves.0.values", "top.leaves.1.values", "top.pair.1.values", "top.maybe.values", "top.maybe_array",
        "top.by_name.a b.values", "top.by_name.c.values", "top.old_style.values",
    }  # fmt: skip
    assert plain["leaves"][0] == {"name": "first", "values": None, "bound": 1.5}
    assert plain["numbers"]["y"] == [0.1, 2.5]


def test_nothing_or_half_of_a_pair_is_none(tmp_path):
    assert load_fitted(tmp_path / "tree", Branch) is None
    save_fitted(tmp_path / "tree", FULL)
    (tmp_path / "tree.json").unlink()  # which is written last
    assert load_fitted(tmp_path / "tree", Branch) is None
