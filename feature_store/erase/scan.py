"""The proof: whether any file still names the erased person, as raw bytes and as what the bytes mean.

Decoded are SQLite databases (texts, and blobs that zlib packed), Parquet columns of text, and what gzip and zip files hold; all
else is read as it lies. Nothing here asks the catalog or the plan what there is: every file below the home is opened.
"""

import gzip
import logging
import mmap
import os
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.erase.databases import unpacked
from feature_store.erase.identity import Identity, Longer
from feature_store.home import Home

logger = logging.getLogger(__name__)

SQLITE, PARQUET, GZIP, ZIP = b"SQLite format 3\0", b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
_ROWS = 4096
# What is read whole: larger is searched in pieces, as bytes.
_MOST_TEXT_BYTES = 64 * 2**20
_PIECE_BYTES = 16 * 2**20
_OVERLAP_BYTES = 4096


@dataclass(frozen=True)
class Hit:
    """A file that names the person: `where` says in what part of it."""

    path: Path
    where: str


@dataclass(frozen=True)
class Proof:
    """What a scan found in how much; `unreadable` are files of a known kind that could not be decoded."""

    hits: tuple[Hit, ...]
    unreadable: tuple[Hit, ...]
    num_files: int
    num_bytes: int

    @property
    def is_clean(self) -> bool:
        """Say whether every file was read and none names the person."""
        return not self.hits and not self.unreadable


def files_below(home: Home) -> list[Path]:
    """Return every file of an installation but landing folders, which are sources, and the erasure key.

    The platform's own folders may be links to another disk, and are followed; other links lead to what is not the platform's.
    """
    kept_out = {home.landing, home.root / "erasure.key"}
    own = (home.root / "store", home.tables, home.bags, home.staging, home.cache, home.models, home.reports, home.dagster)
    found: set[Path] = set()
    for top in (home.root, *own):
        for folder, names, files in os.walk(top, followlinks=top != home.root):
            place = Path(folder)
            names[:] = [name for name in names if place / name not in kept_out]
            found |= {place / name for name in files if place / name not in kept_out}
    return sorted(
        path for path in found if path.is_file() and (not path.is_symlink() or any(path.is_relative_to(top) for top in own))
    )


def scan(
    root: Path,
    paths: Collection[Path],
    identity: Identity,
    on_progress: Callable[[int, int], None] | None = None,
    guard: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> Proof:
    """Read every file below `root` twice, decoded and raw, and return those that name the person; so may their names.

    `guard`: what to hold while a file is open.
    """
    hits: list[Hit] = []
    unreadable: list[Hit] = []
    longer: set[Longer] = set()
    num_bytes = 0
    for decoding in (True, False):  # what is decoded tells whose longer identifiers the raw bytes may hold
        for done, path in enumerate(paths):
            if on_progress is not None:
                on_progress(done + (not decoding) * len(paths), 2 * len(paths))
            if not decoding and path in {hit.path for hit in hits}:
                continue
            try:
                with guard(path):
                    if decoding:
                        num_bytes += path.stat().st_size
                        where = _decoded_hit(root, path, identity, longer)
                    else:
                        where = "bytes" if _has_bytes(path, identity, longer) else ""
            except FileNotFoundError:
                continue  # a lock or a journal that another process has put away
            except (OSError, ValueError, EOFError, sqlite3.Error, zipfile.BadZipFile, zlib.error, pa.ArrowException) as error:
                unreadable.append(Hit(path, f"cannot be decoded ({' '.join(str(error).split())[:120]})"))
                continue
            if where:
                hits.append(Hit(path, where))
    return Proof(tuple(hits), tuple(unreadable), len(paths), num_bytes)


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (part of the file, text) for all text that a file holds, decoded; nothing for a large file of an unknown kind."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(SQLITE):
        yield from _sqlite_texts(path)
    elif start.startswith(PARQUET):
        yield from _parquet_texts(path)
    elif start.startswith(GZIP):
        with gzip.open(path) as stream:
            yield from (("inside gzip", text) for text in _pieces(stream))
    elif start.startswith(ZIP):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                yield "names in the archive", member.filename
                with archive.open(member) as stream:
                    yield from ((f"member {archive.infolist().index(member)}", text) for text in _pieces(stream))
    elif path.stat().st_size <= _MOST_TEXT_BYTES and start[:4] != b"\x93NUM":
        data = path.read_bytes()
        if b"\0" not in data[:_OVERLAP_BYTES]:
            yield "text", data.decode("utf-8", errors="replace")


def _decoded_hit(root: Path, path: Path, identity: Identity, longer: set[Longer]) -> str:
    if identity.is_named_in(str(path.relative_to(root))):
        return "name of the file or its folder"
    for where, text in texts_of(path):
        if identity.is_named_in(text, longer):
            return where
    return ""


def _has_bytes(path: Path, identity: Identity, longer: Collection[Longer]) -> bool:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return False
        with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
            return identity.is_in_bytes(data, longer)


def _pieces(stream: "gzip.GzipFile | IO[bytes]") -> Iterator[str]:
    rest = b""
    while piece := stream.read(_PIECE_BYTES):
        yield (rest + piece).decode("utf-8", errors="replace")
        rest = piece[-_OVERLAP_BYTES:]


def _sqlite_texts(path: Path) -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        database.text_factory = lambda data: data.decode("utf-8", errors="replace")
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in database.execute('SELECT * FROM "{}"'.format(table.replace('"', '""'))):
                yield f"table {table}", "\n".join(map(unpacked, row))


def _parquet_texts(path: Path) -> Iterator[tuple[str, str]]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [field.name for field in schema if _has_text(field.type)]
        for pair in (file.metadata.metadata or {}).items():
            yield from (("metadata", part.decode("utf-8", errors="replace")) for part in pair)
        if not names:
            return
        for batch in file.iter_batches(_ROWS, columns=names):
            for name in batch.schema.names:
                column = batch.column(name)
                if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
                    column = pa.array([repr(value) for value in column.to_pylist()])
                # all distinct values at once, apart by what no identifier holds
                yield f"column {name}", "\n".join(value for value in column.unique().to_pylist() if value is not None)


def _has_text(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_text(kind.field(index).type) for index in range(kind.num_fields))
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
