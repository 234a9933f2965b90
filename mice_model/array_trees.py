"""Trees of dataclasses that hold arrays, taken apart into arrays by dotted name and JSON, and put together again.

What belongs here: the two directions, driven by the classes' own annotations. What is saved where is artifacts.py's.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def take_apart(value: Any, name: str, arrays: Arrays) -> Any:
    """Move the arrays in a tree of dataclasses to `arrays`, by dotted name; return the rest as JSON types."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return None
    if is_dataclass(value):
        return {f.name: take_apart(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in fields(value)}
    if isinstance(value, tuple):
        return [take_apart(item, f"{name}.{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: take_apart(item, f"{name}.{key}", arrays) for key, item in value.items()}
    return value


def put_together(annotation: Any, plain: Any, name: str, arrays: Arrays) -> Any:
    """Return the tree of type `annotation` that `take_apart` made `plain` and `arrays` of."""
    origin = get_origin(annotation)
    if origin in {UnionType, Union}:  # X | None is the only kind there is
        (wanted,) = (option for option in get_args(annotation) if option is not type(None))
        return None if plain is None and name not in arrays else put_together(wanted, plain, name, arrays)
    if is_dataclass(annotation) and isinstance(annotation, type):
        hints = get_type_hints(annotation)
        return annotation(
            **{f.name: put_together(hints[f.name], plain[f.name], f"{name}.{f.name}", arrays) for f in fields(annotation)}
        )
    if name in arrays:
        return arrays[name]
    if origin is tuple:
        of_item = get_args(annotation)
        kinds = [of_item[0]] * len(plain) if of_item[1:] == (...,) else of_item
        return tuple(
            put_together(kind, item, f"{name}.{i}", arrays) for i, (kind, item) in enumerate(zip(kinds, plain, strict=True))
        )
    if origin is not None and isinstance(plain, dict):
        kind = get_args(annotation)[1]
        return {key: put_together(kind, item, f"{name}.{key}", arrays) for key, item in plain.items()}
    return plain
