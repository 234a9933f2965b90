"""Comparing what was fitted: trees of dataclasses, tuples and mappings, whose arrays have to be equal to the bit."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def assert_same(found: Any, expected: Any, place: str = "") -> None:
    """Fail, naming the first place, unless both trees are of the same types and values."""
    assert type(found) is type(expected), place
    if is_dataclass(expected):
        for field in fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name), f"{place}.{field.name}")
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), place
        assert found.tobytes() == expected.tobytes(), place
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), place
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{place}.{index}")
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_same(found[key], value, f"{place}.{key}")
    else:
        assert found == expected, place
