"""Files that several sources read (a wide table has several modalities side by side), parsed once."""

from collections import Counter
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
        self._num_readers = Counter(map(_form, sources))
        self._held: dict[tuple[str, _Form], _Held] = {}
        self._num_bytes = 0
        self._lock = Lock()

    def read(self, file: SourceFile, spec: Source, missing: tuple[str, ...]) -> pl.DataFrame:
        """Return the file's rows as `read_rows` does."""
        key = file.sha256, _form(spec)
        with self._lock:
            is_first = key not in self._held
            held = self._held.setdefault(key, _Held(self._num_readers[key[1]]))
            held.num_to_come -= 1
            if held.num_to_come <= 0:
                self._drop(key)
        if is_first:
            try:
                frame = read_rows(file, spec, missing)
            except BaseException as error:
                held.frame.set_exception(error)
                raise
            held.frame.set_result(frame)
            self._keep(key, held, int(frame.estimated_size()) + frame.height * frame.width * _BYTES_PER_CELL)
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
    rows = (spec.nested, spec.columns_read) if isinstance(spec, RowSource) else None
    return spec.path, f"{spec.model_dump_json(include=set(TableFormat.model_fields))} {rows}"
