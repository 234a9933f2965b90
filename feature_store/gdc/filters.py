"""The GDC's filter JSON, readable: `all_of(one_of("cases.project.project_id", ids), equals("access", "open"))`."""

from collections.abc import Iterable
from typing import Any

Filter = dict[str, Any]


def equals(field: str, value: str | float) -> Filter:
    """Return what holds where `field` is `value`."""
    return {"op": "=", "content": {"field": field, "value": value}}


def one_of(field: str, values: Iterable[str]) -> Filter:
    """Return what holds where `field` is any of `values`."""
    return {"op": "in", "content": {"field": field, "value": list(values)}}


def all_of(*filters: Filter) -> Filter:
    """Return what holds where all `filters` do."""
    return {"op": "and", "content": list(filters)}


def any_of(*filters: Filter) -> Filter:
    """Return what holds where any of `filters` does."""
    return {"op": "or", "content": list(filters)}
