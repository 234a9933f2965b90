"""A bag shard's bytes: standard Parquet with one row group a slide and one page a column, the embeddings copied as they are.

Written here and not by a library because pyarrow takes the values of a float16 list one by one, longer than all else that ingest
does to a slide (docs/decisions.md). What belongs here: pages, chunks, footer. What a shard is: bag_file.py. Finding the values
again: bag_page.py.

Source: the Parquet format's `parquet.thrift` and its Encodings (RLE/bit-packing hybrid, dictionary pages).
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_store.bag_page import EMBEDDING_COLUMN, FLOAT16_BYTES
from feature_store.thrift_compact import Value, binary, i32, i64, listed, struct, varint

_MAGIC = b"PAR1"
_CREATED_BY = "mice-platform"
# parquet.thrift: Type, Encoding, CompressionCodec, FieldRepetitionType, ConvertedType, PageType, fields of LogicalType.
_INT32, _BYTE_ARRAY, _FIXED_LEN_BYTE_ARRAY = 1, 6, 7
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_UNCOMPRESSED, _ZSTD = 0, 6
_REQUIRED, _REPEATED = 0, 2
_UTF8, _LIST = 0, 3
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_LOGICAL_STRING, _LOGICAL_LIST, _LOGICAL_FLOAT16 = 1, 3, 15
_NUM_COLUMNS = 5
_MIN_PACKED_BYTES = 64  # fewer only grow
_GROUP = 8  # values of one bit that are packed into a byte


@dataclass(frozen=True)
class _Chunk:
    """A column's pages, in order, as a row group holds them; `uncompressed_bytes` counts headers too."""

    path: tuple[str, ...]
    kind: int
    encodings: tuple[int, ...]
    codec: int
    num_values: int
    pages: tuple[bytes | memoryview, ...]
    uncompressed_bytes: int
    dictionary_bytes: int = 0
    bounds: bytes | None = None  # the one value, where statistics are kept

    @property
    def num_bytes(self) -> int:
        return sum(len(page) for page in self.pages)

    def metadata(self, offset: int) -> Value:
        """Return ColumnChunk, of a chunk that begins at `offset`."""
        fields = {
            1: i32(self.kind),
            2: listed(i32(encoding) for encoding in self.encodings),
            3: listed(binary(name) for name in self.path),
            4: i32(self.codec),
            5: i64(self.num_values),
            6: i64(self.uncompressed_bytes),
            7: i64(self.num_bytes),
            9: i64(offset + self.dictionary_bytes),
        }
        if self.dictionary_bytes:
            fields[11] = i64(offset)
        if self.bounds is not None:
            fields[12] = struct({3: i64(0), 5: binary(self.bounds), 6: binary(self.bounds)})
        return struct({2: i64(offset), 3: struct(fields)})


class ShardFile:
    """A shard's file, open for adding slides; whole only once `finish` has returned. Raises OSError as files do."""

    def __init__(self, path: Path, dim: int) -> None:
        self._dim = dim
        self._zstd = pa.Codec("zstd")
        self._row_groups: list[Value] = []
        self._num_rows = 0
        self._file = path.open("xb")
        self._file.write(_MAGIC)
        self._offset = len(_MAGIC)

    def add(self, slide_id: str, case_id: str, xy: npt.NDArray[np.int32], embedding: npt.NDArray[np.float16]) -> None:
        """Append a row group: `xy` (N, 2) and `embedding` (N, dim), both little-endian and C-contiguous, N at least 1."""
        num_rows = len(embedding)
        chunks = (
            _same_text("slide_id", slide_id, num_rows),
            _same_text("case_id", case_id, num_rows),
            self._integers("x", xy[:, 0]),
            self._integers("y", xy[:, 1]),
            _embeddings(embedding),
        )
        begin, columns = self._offset, []
        for chunk in chunks:
            columns.append(chunk.metadata(self._offset))
            for page in chunk.pages:
                self._file.write(page)
            self._offset += chunk.num_bytes
        self._row_groups.append(
            struct(
                {
                    1: listed(columns),
                    2: i64(sum(chunk.uncompressed_bytes for chunk in chunks)),
                    3: i64(num_rows),
                    5: i64(begin),
                    6: i64(self._offset - begin),
                }
            )
        )
        self._num_rows += num_rows

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the footer with key/value `metadata`, and close the file."""
        arrow = base64.b64encode(self._arrow_schema().serialize().to_pybytes()).decode()
        pairs = {**metadata, "ARROW:schema": arrow}
        footer = struct(
            {
                1: i32(2),
                2: listed(_schema()),
                3: i64(self._num_rows),
                4: listed(self._row_groups),
                5: listed(struct({1: binary(key), 2: binary(value)}) for key, value in pairs.items()),
                6: binary(_CREATED_BY),
                7: listed([struct({1: struct({})})] * _NUM_COLUMNS),
            }
        ).data
        self._file.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)
        self._file.close()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _arrow_schema(self) -> pa.Schema:
        """Return the schema that Arrow is to see: Parquet's own lists do not say that their size is fixed."""
        embedding = pa.list_(pa.field("element", pa.float16(), nullable=False), self._dim)
        kinds = {"slide_id": pa.string(), "case_id": pa.string(), "x": pa.int32(), "y": pa.int32(), EMBEDDING_COLUMN: embedding}
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])

    def _integers(self, name: str, values: npt.NDArray[np.int32]) -> _Chunk:
        plain = np.ascontiguousarray(values, "<i4").tobytes()
        is_packed = len(plain) >= _MIN_PACKED_BYTES
        stored = self._zstd.compress(plain, asbytes=True) if is_packed else plain
        header = _data_page(len(values), _PLAIN, len(plain), len(stored), zlib.crc32(stored))
        codec = _ZSTD if is_packed else _UNCOMPRESSED
        return _Chunk((name,), _INT32, (_PLAIN,), codec, len(values), (header, stored), len(header) + len(plain))


def _embeddings(embedding: npt.NDArray[np.float16]) -> _Chunk:
    num_rows, dim = embedding.shape
    levels = _repetition_levels(num_rows, dim) + _definition_levels(embedding.size)
    values = np.ascontiguousarray(embedding, "<f2").data.cast("B")
    num_bytes = len(levels) + len(values)
    header = _data_page(embedding.size, _PLAIN, num_bytes, num_bytes, zlib.crc32(values, zlib.crc32(levels)))
    path = (EMBEDDING_COLUMN, "list", "element")
    pages = (header, levels, values)
    return _Chunk(path, _FIXED_LEN_BYTE_ARRAY, (_PLAIN, _RLE), _UNCOMPRESSED, embedding.size, pages, len(header) + num_bytes)


def _same_text(name: str, text: str, num_rows: int) -> _Chunk:
    """Return a column of one text throughout: a dictionary of it, and one run of its index."""
    encoded = text.encode()
    entry = len(encoded).to_bytes(4, "little") + encoded
    indices = b"\x01" + varint(num_rows << 1) + b"\x00"  # indices of one bit, a run of zeros
    dictionary = struct(
        {
            1: i32(_DICTIONARY_PAGE),
            2: i32(len(entry)),
            3: i32(len(entry)),
            4: i32(_signed(zlib.crc32(entry))),
            7: struct({1: i32(1), 2: i32(_PLAIN)}),
        }
    ).data
    header = _data_page(num_rows, _RLE_DICTIONARY, len(indices), len(indices), zlib.crc32(indices))
    pages = (dictionary, entry, header, indices)
    num_bytes = sum(len(page) for page in pages)
    encodings = (_PLAIN, _RLE, _RLE_DICTIONARY)
    dictionary_bytes = len(dictionary) + len(entry)
    return _Chunk((name,), _BYTE_ARRAY, encodings, _UNCOMPRESSED, num_rows, pages, num_bytes, dictionary_bytes, bounds=encoded)


def _data_page(num_values: int, encoding: int, num_bytes: int, num_stored: int, crc32: int) -> bytes:
    about = struct({1: i32(num_values), 2: i32(encoding), 3: i32(_RLE), 4: i32(_RLE)})
    return struct({1: i32(_DATA_PAGE), 2: i32(num_bytes), 3: i32(num_stored), 4: i32(_signed(crc32)), 5: about}).data


def _signed(crc32: int) -> int:
    return crc32 - (1 << 32) if crc32 >> 31 else crc32


def _repetition_levels(num_rows: int, dim: int) -> bytes:
    """Return the repetition levels: 0 at a row's first value, 1 at the others."""
    if dim % _GROUP == 0 and dim > _GROUP:  # the same bytes for each row: a packed group, and a run of ones
        return _with_length((b"\x03\xfe" + varint((dim - _GROUP) << 1) + b"\x01") * num_rows)
    levels = np.ones((num_rows, dim), np.bool_)
    levels[:, 0] = False
    packed = np.packbits(levels, axis=None, bitorder="little").tobytes()
    return _with_length(varint(len(packed) << 1 | 1) + packed)


def _definition_levels(num_values: int) -> bytes:
    """Return the definition levels, of which every one is 1: nothing is null and no list is empty."""
    return _with_length(varint(num_values << 1) + b"\x01")


def _with_length(levels: bytes) -> bytes:
    return len(levels).to_bytes(4, "little") + levels


def _schema() -> list[Value]:
    def leaf(name: str, kind: int, extra: dict[int, Value] | None = None) -> Value:
        return struct({1: i32(kind), 3: i32(_REQUIRED), 4: binary(name), **(extra or {})})

    def group(name: str, repetition: int, num_children: int, extra: dict[int, Value] | None = None) -> Value:
        return struct({3: i32(repetition), 4: binary(name), 5: i32(num_children), **(extra or {})})

    text = {6: i32(_UTF8), 10: struct({_LOGICAL_STRING: struct({})})}
    return [
        group("schema", _REQUIRED, _NUM_COLUMNS),
        leaf("slide_id", _BYTE_ARRAY, text),
        leaf("case_id", _BYTE_ARRAY, text),
        leaf("x", _INT32),
        leaf("y", _INT32),
        group(EMBEDDING_COLUMN, _REQUIRED, 1, {6: i32(_LIST), 10: struct({_LOGICAL_LIST: struct({})})}),
        group("list", _REPEATED, 1),
        leaf("element", _FIXED_LEN_BYTE_ARRAY, {2: i32(FLOAT16_BYTES), 10: struct({_LOGICAL_FLOAT16: struct({})})}),
    ]
