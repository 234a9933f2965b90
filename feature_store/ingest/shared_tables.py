"""Files that several sources read (a wide table has several modalities side by side), parsed once."""

import re
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

import polars as pl

from feature_store.contract.formats import TableFormat
from feature_store.contract.sources import RowSource, Source
from feature_store.ingest.nesting import read_rows
from feature_store.sources import SourceFile

_MAX_BYTES = 2**29
_BYTES_PER_CELL = 16  # what polars takes at least for a text
_Form = tuple[str, str]


@dataclass
class _Held:
    """A table that more readers are to come for, who wait for it while the first reads it."""

    num_to_come: int
    frame: Future[pl.DataFrame] = field(default_factory=Future)
    num_bytes: int = 0


class SharedTables:
    """A table is held from its first reader to its last, where all held together take no more than half a GiB.

    May be asked by several threads at once.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._readers: dict[_Form, list[Source]] = {}
        for source in sources:
            self._readers.setdefault(_form(source), []).append(source)
        self._held: dict[tuple[str, _Form], _Held] = {}
        self._num_bytes = 0
        self._lock = Lock()

    def read(self, file: SourceFile, spec: Source, missing: tuple[str, ...]) -> pl.DataFrame:
        """Return the file's rows as `read_rows` does."""
        key = file.sha256, _form(spec)
        with self._lock:
            is_first = key not in self._held
            held = self._held.setdefault(key, _Held(len(self._readers.get(key[1], ()))))
            held.num_to_come -= 1
            if held.num_to_come <= 0:
                self._drop(key)
        if is_first:
            try:
                frame = read_rows(file, spec, missing, _numbers(self._readers.get(key[1], [spec])))
            except BaseException as error:
                held.frame.set_exception(error)
                raise
            held.frame.set_result(frame)
            self._keep(key, held, _size(frame))
        return held.frame.result()

    def _keep(self, key: tuple[str, _Form], held: _Held, num_bytes: int) -> None:
        with self._lock:
            if self._held.get(key) is held:
                held.num_bytes = num_bytes
                self._num_bytes += num_bytes
                if self._num_bytes > _MAX_BYTES:
                    self._drop(key)

    def _drop(self, key: tuple[str, _Form]) -> None:
        self._num_bytes -= self._held.pop(key).num_bytes


def _form(spec: Source) -> _Form:
    """Return what makes two sources read the same table out of a file."""
    rows = (spec.nested, spec.columns_read) if isinstance(spec, RowSource) else ({}, None)
    return spec.path, f"{spec.model_dump_json(include=set(TableFormat.model_fields))} {rows}"


def _numbers(readers: list[Source]) -> list[str]:
    """Return patterns of the columns that no reader asks for as text; none where one may ask for any."""
    patterns = [reader.number_columns if isinstance(reader, RowSource) else None for reader in readers]
    texts = {name for reader in readers if isinstance(reader, RowSource) for name in reader.columns_of_rows}
    but = "".join(f"(?!{re.escape(name)}$)" for name in sorted(texts))
    return [] if None in patterns else [f"{but}(?:{pattern})" for pattern in patterns]


def _size(frame: pl.DataFrame) -> int:
    """Return the bytes that a frame takes, where polars counts no more of a short text than its letters."""
    texts = sum(kind == pl.String for kind in frame.dtypes)
    return int(frame.estimated_size()) + frame.height * texts * _BYTES_PER_CELL
