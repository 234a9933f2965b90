"""Writing values of thrift's compact protocol, as far as Parquet's page headers and footers need them.

Source: thrift's compact protocol description. Reading page headers is bag_page.py's business.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

_LONGEST_STEP, _SHORT_LIST = 15, 15


class Value(NamedTuple):
    """An encoded value and its type in the protocol."""

    kind: int
    data: bytes


def varint(number: int) -> bytes:
    """Return a non-negative integer, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@lru_cache(maxsize=4096)
def i32(number: int) -> Value:
    """Return an integer of at most 32 bits; an enumeration's value is one."""
    return Value(5, varint(_zigzag(number)))


def i64(number: int) -> Value:
    """Return an integer of at most 64 bits."""
    return Value(6, varint(_zigzag(number)))


def binary(data: bytes | str) -> Value:
    """Return bytes, or a text in UTF-8."""
    encoded = data.encode() if isinstance(data, str) else data
    return Value(8, varint(len(encoded)) + encoded)


def listed(values: Iterable[Value]) -> Value:
    """Return a list of values of one type, of which there is at least one."""
    items = list(values)
    kind, size = items[0].kind, len(items)
    header = bytes([size << 4 | kind]) if size < _SHORT_LIST else bytes([0xF0 | kind]) + varint(size)
    return Value(9, header + b"".join(item.data for item in items))


def struct(fields: Mapping[int, Value]) -> Value:
    """Return a struct, or a union, of these fields by their ids."""
    encoded, last = bytearray(), 0
    for field_id, value in sorted(fields.items()):
        if not 0 < field_id - last <= _LONGEST_STEP:
            raise ValueError(f"field {field_id} after {last}, expected a step of 1 to {_LONGEST_STEP}")
        encoded.append((field_id - last) << 4 | value.kind)
        encoded += value.data
        last = field_id
    encoded.append(0)
    return Value(12, bytes(encoded))


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1
