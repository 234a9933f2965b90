"""Opening a bag shard and finding where a slide's values lie in it, by walking the Parquet page headers.

Belongs here: the mapping of a shard, its footer, and our own small decoder of the page header (thrift compact
protocol). Does not belong here: what a bag means, writing (bag_file.py), copying values out (bag_reader.py).

Source: the Parquet format's `parquet.thrift` (PageHeader, DataPageHeader) and thrift's compact protocol description.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.errors import BagFileError

EMBEDDING_COLUMN = "embedding"
FLOAT16_BYTES = 2
_EMBEDDING_LEAF = f"{EMBEDDING_COLUMN}.list.element"
_MAGIC = b"PAR1"
# Magic at both ends and the footer's length: nothing shorter can be Parquet, and no value lies in the last 8 bytes.
_TAIL_BYTES = 8
_MIN_FILE_BYTES = len(_MAGIC) + _TAIL_BYTES
# pyarrow writes 20 to 30 bytes; page statistics, which we do not write, are what could make a header long.
_MAX_HEADER_BYTES = 65_536
_MAX_HEADER_DEPTH = 8
# PageType, Encoding and the field ids of PageHeader and DataPageHeader in parquet.thrift.
_DATA_PAGE_V1, _PLAIN, _RLE = 0, 0, 3
_PAGE_TYPE, _UNCOMPRESSED_BYTES, _COMPRESSED_BYTES, _CRC, _DATA_PAGE_HEADER = 1, 2, 3, 4, 5
_NUM_VALUES, _ENCODING, _DEFINITION_ENCODING, _REPETITION_ENCODING = 1, 2, 3, 4

_Struct = dict[int, object]


@dataclass(frozen=True)
class EmbeddingPage:
    """Where one slide's embedding page lies; offsets and sizes in bytes from the start of the shard.

    The body holds the repetition levels, the definition levels, then `num_values` little-endian float16; `crc32`
    is the checksum over the body that the page header carries.
    """

    body_offset_bytes: int
    body_bytes: int
    values_offset_bytes: int
    num_values: int
    dim: int
    crc32: int


def bag_file_error(which: str, found: str, expected: str) -> BagFileError:
    """Return the error for a shard that is not laid out as docs/bags.md demands."""
    return BagFileError(
        f"{which}: {found}, expected {expected}. Restore the shard from a copy or write it again with write_shards."
    )


def map_shard(path: Path) -> mmap.mmap:
    """Map a shard read-only; refuse (BagFileError) a file that is missing, or has no Parquet magic at both ends."""
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            if size_bytes < _MIN_FILE_BYTES:
                raise bag_file_error(path.name, f"{size_bytes} bytes", f"at least {_MIN_FILE_BYTES}")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise bag_file_error(str(path), f"cannot be opened ({error.strerror})", "a readable bag shard") from error
    footer_bytes = int.from_bytes(mapping[-_TAIL_BYTES : -len(_MAGIC)], "little")
    is_whole = mapping[: len(_MAGIC)] == _MAGIC == mapping[-len(_MAGIC) :]
    if not is_whole or footer_bytes + _MIN_FILE_BYTES > len(mapping):
        mapping.close()
        raise bag_file_error(path.name, "no Parquet start or footer", "a whole Parquet file")
    return mapping


def read_footer(path: Path) -> pq.FileMetaData:
    """Return the shard's Parquet footer; BagFileError where pyarrow cannot read it."""
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise bag_file_error(path.name, f"a footer pyarrow refuses ({error})", "a whole Parquet file") from error


def embedding_column(footer: pq.FileMetaData, which: str) -> tuple[int, int]:
    """Return (index of the embedding's leaf column, dim); BagFileError unless it is a required FixedSizeList<float16>.

    `which` names the shard in the message. Required all through means one repetition and one definition level (those
    of the list itself): with nulls, fewer values than levels would be stored and a row's place would shift.
    """
    try:
        schema = footer.schema.to_arrow_schema()
    except (ValueError, pa.ArrowException) as error:
        raise bag_file_error(which, f"a schema pyarrow refuses ({error})", "a bag's schema") from error
    paths = [footer.schema.column(index).path for index in range(footer.num_columns)]
    if paths.count(_EMBEDDING_LEAF) != 1:
        raise bag_file_error(which, f"columns {', '.join(paths)}", f"one {_EMBEDDING_LEAF}")
    index = paths.index(_EMBEDDING_LEAF)
    found, leaf = schema.field(EMBEDDING_COLUMN), footer.schema.column(index)
    if not pa.types.is_fixed_size_list(found.type) or found.type.value_type != pa.float16():
        raise bag_file_error(which, f"embedding of type {found.type}", "a fixed-size list of float16")
    if leaf.max_definition_level != 1 or leaf.max_repetition_level != 1 or leaf.length != FLOAT16_BYTES:
        levels = f"definition level {leaf.max_definition_level}, repetition level {leaf.max_repetition_level}"
        raise bag_file_error(which, f"embedding with {levels}", "1 and 1 (no nullable field)")
    return index, found.type.list_size


def walk_embedding_page(
    shard: mmap.mmap, footer: pq.FileMetaData, row_group: int, which: str, column: tuple[int, int] | None = None
) -> EmbeddingPage:
    """Return where the values of one row group's embedding lie, as its page header says.

    The footer alone is not enough: it does not tell one page from several, and on a file of several pages offsets
    computed from it gave wrong rows without an error. So the header is decoded and everything the direct read relies
    on is checked: one data page v1, PLAIN, uncompressed, no dictionary, rows * dim values without nulls, a checksum.
    `which` names the bag in the message; `column` is what `embedding_column` says of the footer, where many bags are walked.
    Raises BagFileError.
    """
    index, dim = column or embedding_column(footer, which)
    if not 0 <= row_group < footer.num_row_groups:
        raise bag_file_error(which, f"row group {row_group}", f"one below {footer.num_row_groups}")
    num_rows = footer.row_group(row_group).num_rows
    chunk = footer.row_group(row_group).column(index)
    if chunk.has_dictionary_page or chunk.compression != "UNCOMPRESSED":
        kind = "with a dictionary page" if chunk.has_dictionary_page else f"compressed as {chunk.compression}"
        raise bag_file_error(which, f"embedding {kind}", "PLAIN and UNCOMPRESSED")
    begin, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    if not len(_MAGIC) <= begin < end <= len(shard) - _TAIL_BYTES:
        raise bag_file_error(which, f"page at bytes {begin} to {end}", f"inside the file's {len(shard)} bytes")
    header, header_bytes = _decode_header(shard[begin : min(end, begin + _MAX_HEADER_BYTES)], which)
    page = header.get(_DATA_PAGE_HEADER)
    if header.get(_PAGE_TYPE) != _DATA_PAGE_V1 or not isinstance(page, dict):
        raise bag_file_error(which, f"a page of type {header.get(_PAGE_TYPE)}", "a data page v1")
    if page.get(_ENCODING) != _PLAIN or {page.get(_DEFINITION_ENCODING), page.get(_REPETITION_ENCODING)} != {_RLE}:
        raise bag_file_error(which, f"values in encoding {page.get(_ENCODING)}", "PLAIN (0) with RLE (3) levels")
    num_values = num_rows * dim
    if num_values == 0 or page.get(_NUM_VALUES) != num_values:
        expected = f"one page with all {num_rows} x {dim} = {num_values}"
        raise bag_file_error(which, f"a first page of {page.get(_NUM_VALUES)} values", expected)
    body_offset = begin + header_bytes
    body_bytes = end - body_offset
    sizes = (header.get(_COMPRESSED_BYTES), header.get(_UNCOMPRESSED_BYTES))
    if sizes != (body_bytes, body_bytes):
        raise bag_file_error(which, f"a page of {sizes} bytes", f"one page filling the column's {body_bytes}")
    crc = header.get(_CRC)
    if not isinstance(crc, int):
        raise bag_file_error(which, "a page without checksum", "page checksums on")
    values_offset = _skip_levels(shard, body_offset, end, which)
    if end - values_offset != num_values * FLOAT16_BYTES:
        found = f"{end - values_offset} bytes after the levels"
        raise bag_file_error(which, found, f"{num_values * FLOAT16_BYTES} ({num_rows} x {dim} float16, no nulls)")
    return EmbeddingPage(body_offset, body_bytes, values_offset, num_values, dim, crc & 0xFFFFFFFF)


def _skip_levels(shard: mmap.mmap, begin: int, end: int, which: str) -> int:
    """Return the offset after the repetition and the definition levels, each a 4-byte length and that many bytes."""
    offset = begin
    for _ in ("repetition", "definition"):
        offset += 4 + int.from_bytes(shard[offset : offset + 4], "little")
        if offset > end:
            raise bag_file_error(which, f"levels up to byte {offset}", f"an end before byte {end}")
    return offset


def _decode_header(data: bytes, which: str) -> tuple[_Struct, int]:
    try:
        return _read_struct(data, 0, depth=0)
    except (IndexError, ValueError) as error:
        raise bag_file_error(which, f"a page header that does not decode ({error})", "a Parquet PageHeader") from error


def _read_struct(data: bytes, at: int, depth: int) -> tuple[_Struct, int]:
    if depth > _MAX_HEADER_DEPTH:
        raise ValueError(f"structs nested deeper than {_MAX_HEADER_DEPTH}")
    fields: _Struct = {}
    field_id = 0
    while data[at] != 0:
        step, kind = data[at] >> 4, data[at] & 0x0F
        at += 1
        if step:
            field_id += step
        else:
            field_id, at = _read_zigzag(data, at)
        fields[field_id], at = _read_value(data, at, kind, depth)
    return fields, at + 1


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[object, int]:
    """Read a boolean, integer, string or struct of the compact protocol; nothing else occurs in a PageHeader."""
    match kind:
        case 1 | 2:
            return kind == 1, at
        case 4 | 5 | 6:
            return _read_zigzag(data, at)
        case 8:
            length, at = _read_varint(data, at)
            if at + length > len(data):
                raise ValueError(f"a string of {length} bytes")
            return data[at : at + length], at + length
        case 12:
            return _read_struct(data, at, depth + 1)
        case _:
            raise ValueError(f"thrift type {kind}")


def _read_zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an integer longer than 10 bytes")
