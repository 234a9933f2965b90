"""Tombstones: what is kept of an erased case so that it is not taken in again, without its identifier.

A tombstone is HMAC-SHA256 of the identifier under a key that lies outside the store (home.erasure_key): who has the tables
alone cannot try identifiers. What belongs here: the key, the table, and the question whether an identifier was erased.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl

from feature_store.durable import sync_folder
from feature_store.erase.identity import Identity, is_distinctive, normal
from feature_store.errors import ErasureError
from feature_store.home import Home
from feature_store.lake import Lake

logger = logging.getLogger(__name__)

KEY_NAME = "erasure.key"
_KEY_BYTES = 32
# Runs of letters and digits joined by what may stand in an identifier; the most parts that a token is cut into.
_TOKENS = r"[0-9A-Za-z]+(?:[-._\x{2010}-\x{2015}\x{2212}\x{ff0d}][0-9A-Za-z]+)*"
_MOST_PARTS = 12


@dataclass(frozen=True)
class Tombstones:
    """All tombstones of a store, and the key that made them."""

    marks: frozenset[str] = frozenset()
    key: bytes = b""

    def __bool__(self) -> bool:
        return bool(self.marks)

    @property
    def digest(self) -> str:
        """Return a hash over all tombstones: what is staged depends on them."""
        return hashlib.sha256("\n".join(sorted(self.marks)).encode()).hexdigest() if self.marks else ""

    def erased(self, identifiers: Iterable[str | None]) -> set[str]:
        """Return those of the identifiers that were erased, as given."""
        if not self.marks:
            return set()
        return {name for name in set(identifiers) if name is not None and mark(self.key, name) in self.marks}

    def mentioned(self, texts: pl.Series) -> set[str]:
        """Return the erased identifiers, in their common spelling, that texts name anywhere."""
        if not self.marks or texts.is_empty():
            return set()
        tokens = texts.unique().drop_nulls().str.extract_all(_TOKENS).explode(empty_as_null=False, keep_nulls=False).unique()
        candidates = {candidate for token in tokens for candidate in _candidates(token)}
        return self.erased(candidates)

    def redacted(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with every mention of an erased case in a text column replaced."""
        for name, kind in frame.schema.items() if self.marks else ():
            if kind == pl.String and (found := self.mentioned(frame[name])):
                identity = Identity(tuple(sorted(found)))
                frame = frame.with_columns(pl.col(name).map_elements(identity.redacted, return_dtype=pl.String))
        return frame


def mark(key: bytes, identifier: str) -> str:
    """Return an identifier's tombstone."""
    return hmac.digest(key, normal(identifier).encode(), "sha256").hex()


def key_id(key: bytes) -> str:
    """Return what tells one key from another, and nothing of the key."""
    return hashlib.sha256(b"mice erasure key\0" + key).hexdigest()[:16]


def load_tombstones(home: Home) -> Tombstones:
    """Return the tombstones of the newest snapshot; none where there is no store. Raises ErasureError, see `read_tombstones`."""
    lake = Lake(home)
    if not lake.exists:
        return Tombstones()
    with lake.reader() as connection:
        return read_tombstones(connection, home)


def read_tombstones(connection: duckdb.DuckDBPyConnection, home: Home) -> Tombstones:
    """Return the tombstones in a connection's snapshot.

    Raises ErasureError where there are some and the key is missing, damaged or another: they would refuse nobody.
    """
    query = "SELECT 1 FROM duckdb_tables() WHERE database_name = 'lake' AND table_name = 'tombstones'"
    if connection.execute(query).fetchone() is None:  # a store made before there were any
        return Tombstones()
    rows = connection.execute("SELECT tombstone, key_id FROM tombstones").fetchall()
    if not rows:
        return Tombstones()
    key = _read_key(home)
    others = {found for _, found in rows} - {key_id(key)}
    if others:
        raise ErasureError(
            f"erasure key {_path(home)}: another key than made {len(others)} of the tombstones' keys, expected the one. "
            "Restore the file from a backup; without it erased cases cannot be refused."
        )
    return Tombstones(frozenset(row[0] for row in rows), key)


def bury(lake: Lake, identity: Identity) -> datetime:
    """Write the tombstones of all the person's identifiers, if they are not there; return when that was first done."""
    with lake.transaction("erase a case", "") as transaction:
        connection = transaction.connection
        read_tombstones(connection, lake.home)  # a lost key is an error before anything is changed, not made anew
        key = erasure_key(lake.home)
        marks = [mark(key, name) for name in identity.names]
        rows = connection.execute("SELECT tombstone, erased_at FROM tombstones").fetchall()
        known = {found: datetime.fromisoformat(at) for found, at in rows}
        now = datetime.now(UTC).replace(microsecond=0)
        new = [(found, key_id(key), now.isoformat()) for found in dict.fromkeys(marks) if found not in known]
        if new:
            connection.executemany("INSERT INTO tombstones VALUES (?, ?, ?)", new)
    return known.get(marks[0], now)


def erasure_key(home: Home) -> bytes:
    """Return the home's key, made on first use, readable by its owner alone; of several that come first, one makes it.

    The caller has read the tombstones: where there are some, a lost key is an error and not made anew.
    """
    path = _path(home)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{KEY_NAME}.{uuid.uuid4().hex}.tmp")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(unfinished, path)
            logger.info("made %s: keep a backup of it, apart from the store's", path)
        unfinished.unlink()
        sync_folder(path.parent)
    return _read_key(home)


def existing_key(home: Home) -> bytes | None:
    """Return the home's key, None where none was made yet. Raises ErasureError for one that cannot be read or is damaged."""
    return _read_key(home) if _path(home).exists() else None


def _path(home: Home) -> Path:
    return home.root / KEY_NAME


def _read_key(home: Home) -> bytes:
    path = _path(home)
    try:
        key = path.read_bytes()
    except OSError as error:
        raise ErasureError(
            f"erasure key {path}: cannot be read ({error.strerror}), expected the key that made the store's tombstones. "
            "Restore it from a backup; without it erased cases cannot be refused."
        ) from error
    if len(key) != _KEY_BYTES:
        raise ErasureError(
            f"erasure key {path}: {len(key)} bytes, expected {_KEY_BYTES}. Restore it from a backup; if there is no tombstone "
            "yet, delete it and it is made anew."
        )
    return key


def _candidates(token: str) -> Iterator[str]:
    """Yield what could be an identifier in a token: every run of its parts that could be told from other text."""
    parts = re.split("-", normal(token))
    for begin in range(len(parts)):
        for end in range(begin + 1, min(len(parts), begin + _MOST_PARTS) + 1):
            candidate = "-".join(parts[begin:end])
            if is_distinctive(candidate):
                yield candidate
