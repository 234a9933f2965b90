"""JSON as tables of texts: a list of records, an object that holds one, or a record a line.

Objects inside a record become columns, their keys joined by dots. Lists inside it are tables of their own: which of their
elements count is a contract's business (ingest/nesting.py). Raises ValueError or RecursionError for other JSON, and hostile one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import polars as pl

# All cases of the largest programme of the GDC with everything that it tells of them are some 500 MB and 15 million values.
MAX_BYTES = 1024**3
MAX_VALUES = 50_000_000  # of some 70 bytes each, once parsed: `[],` is three bytes of text
_BYTES_PER_CELL = 16  # what polars takes at least for a text
RECORD = "_record"

Row = dict[str, str | None]


@dataclass(frozen=True)
class Records:
    """`main` has a row per record, and each of `lists` a row per element; column `_record` says of which record."""

    main: pl.DataFrame
    lists: Mapping[str, pl.DataFrame]


def read_records(
    data: bytes, encoding: str, place: str | None, *, is_lines: bool, lists: Sequence[str], max_bytes: int
) -> Records:
    """Read the records under `place` (keys joined by dots), and of the lists in them those that are asked for.

    `max_bytes`: what a table may take in memory.
    """
    if (num_values := sum(data.count(sign) for sign in (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"{num_values:,} values, over {MAX_VALUES:,}")
    text = data.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding)
    records = [_parsed(line) for line in text.split("\n") if line.strip()] if is_lines else _listed(_parsed(text), place)
    if strange := [record for record in records if not isinstance(record, dict)]:
        raise ValueError(f"{len(strange)} of {len(records)} records are no objects, the first {str(strange[0])[:40]!r}")
    return Records(
        _table(((number, _columns(record)) for number, record in enumerate(records)), len(records), max_bytes),
        {
            path: _table(
                ((number, row) for number, record in enumerate(records) for row in _elements(record, path.split("."))),
                len(records),
                max_bytes,
            )
            for path in lists
        },
    )


def _parsed(text: str) -> Any:
    """Parse JSON with numbers as they are spelled, and no key twice in an object: the first value would be lost."""
    return json.loads(text, object_pairs_hook=_once_keyed, parse_int=str, parse_float=str, parse_constant=str)


def _once_keyed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"keys {sorted({key for key in keys if keys.count(key) > 1})[:5]} given twice in one object")
    return found


def _listed(document: Any, place: str | None) -> list[Any]:
    for key in [] if place is None else place.split("."):
        if not isinstance(document, dict) or key not in document:
            raise ValueError(f"nothing under {place!r}")
        document = document[key]
    if isinstance(document, list):
        return document
    found = f"an object with keys {list(document)[:5]}" if isinstance(document, dict) else f"{str(document)[:40]!r}"
    raise ValueError(f"{found} where a list of records is expected; a contract says under `records` where it is")


def _columns(record: Mapping[str, Any], prefix: str = "") -> Row:
    """Return the plain values of an object and of the objects in it."""
    row: Row = {}
    for key, value in record.items():
        if isinstance(value, list):
            continue
        found = _columns(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: _text(value)}
        if both := row.keys() & found.keys():
            raise ValueError(f"columns {sorted(both)[:5]} occur twice in a record")
        row |= found
    return row


def _elements(node: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> Iterator[Row]:
    """Yield a row for every element of a list, with the values of the elements that it lies in."""
    key, *inner = keys
    child, name = node.get(key), prefix + key
    if isinstance(child, dict) and inner:
        yield from _elements(child, inner, f"{name}.")
    elif isinstance(child, list):
        for element in child:
            if not isinstance(element, dict):
                yield {name: _text(element)}
                continue
            own = _columns(element, f"{name}.")
            below = list(_elements(element, inner, f"{name}.")) if inner else []
            yield from (own | row for row in below or [{}])
    elif child is not None:
        raise ValueError(f"{name} is no list")


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"a list of {type(value).__name__}s inside a list")


def _table(rows: Iterator[tuple[int, Row]], num_records: int, max_bytes: int) -> pl.DataFrame:
    """Return rows as a table of texts; a key that a row lacks is a missing value."""
    numbered = list(rows)
    names = list(dict.fromkeys(chain.from_iterable(row for _, row in numbered)))
    if max(len(numbered), num_records) * len(names) * _BYTES_PER_CELL > max_bytes:
        raise ValueError(f"{len(numbered):,} rows of {len(names):,} columns, over {max_bytes:,} bytes")
    columns = {name: pl.Series(name, [row.get(name) for _, row in numbered], dtype=pl.String) for name in names}
    if RECORD in columns:
        raise ValueError(f"a column is called {RECORD}")
    return pl.DataFrame({RECORD: pl.Series([number for number, _ in numbered], dtype=pl.Int64), **columns})
