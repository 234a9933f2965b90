"""Keyed pseudonyms: what an identifier becomes, the same each time, and what the person's tombstones are asked for.

A pseudonym is a prefix for its kind and ten base32 characters of HMAC-SHA256: `P1-7QK2MZ4XAB`. The prefix has a letter and a
digit, so that erasure can tell any pseudonym from other text. Originals are kept in memory while an ingest runs, nowhere else.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import polars as pl

from feature_store.deidentify.key import key_id
from feature_store.deidentify.messages import runs
from feature_store.erase.identity import is_distinctive, normal
from feature_store.erase.tombstones import Tombstones
from feature_store.errors import DeidentifyError

# A case's identifier and an alias are of one kind: an alias may be another case's identifier. Of kind "found" is what should have
# been an identifier.
Kind = Literal["case", "slide", "report", "sample", "site", "found"]
_PREFIX: dict[Kind, str] = {"case": "P1", "slide": "S1", "report": "R1", "sample": "B1", "site": "H1", "found": "X1"}
_NUM_CHARACTERS = 10


@dataclass
class Pseudonyms:
    """The pseudonyms that one key gives. `known`: distinctive originals in common spelling -> pseudonym, to search texts for."""

    key: bytes = field(repr=False)
    known: dict[str, str] = field(default_factory=dict, repr=False)
    _made: dict[tuple[Kind, str], str] = field(default_factory=dict, repr=False)
    _original_of: dict[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def key_id(self) -> str:
        """Which key it is."""
        return key_id(self.key)

    def of(self, kind: Kind, original: str) -> str:
        """Return the pseudonym; one that was made here before is returned as it is.

        Raises DeidentifyError where another original has the same.
        """
        if original in self._original_of:
            return original
        made = self._made.get((kind, original))
        if made is None:
            made = self._made[kind, original] = f"{_PREFIX[kind]}-{self._digest(kind, original)[:_NUM_CHARACTERS]}"
            if self._original_of.setdefault(made, original) != original:
                raise DeidentifyError(
                    f"pseudonym {made}: of two different identifiers, expected one each. This happens once in millions of "
                    "cohorts: leave one of the two out, or start a new installation with another key."
                )
            if kind not in {"site", "found"} and is_distinctive(original):
                self.known[normal(original)] = made
        return made

    def column(self, kind: Kind, originals: pl.Series) -> pl.Series:
        """Return the pseudonyms of a column."""
        made = {original: self.of(kind, original) for original in originals.unique().drop_nulls()}
        return originals.replace_strict(made, default=None, return_dtype=pl.String) if made else originals

    def of_found(self, text: str) -> str:
        """Return the pseudonym of the case that a text names; where it names none that is known, one of kind "found"."""
        case = self._made.get(("case", text.strip())) or next((self.known[run] for run in runs(text) if run in self.known), None)
        return case or self.of("found", text)

    def shift_days(self, case_id: str, most_days: int) -> int:
        """Return the days by which a case's calendar is moved: from -most_days to most_days, never 0. Takes either identifier."""
        original = self._original_of.get(case_id, case_id)
        digest = hmac.digest(self.key, b"shift\0" + original.encode(), "sha256")
        days = int.from_bytes(digest[:8], "big") % (2 * most_days) + 1
        return days if days <= most_days else most_days - days

    def _digest(self, kind: Kind, original: str) -> str:
        return base64.b32encode(hmac.digest(self.key, f"{kind}\0{original}".encode(), "sha256")).decode()


@dataclass(frozen=True)
class PseudonymTombstones(Tombstones):
    """Tombstones of people who were erased by a pseudonym or, before the store was de-identified, by their own identifier.

    Every identifier of a person that ingest reads is asked for here, and so gets its pseudonym.
    """

    pseudonyms: Pseudonyms = field(default_factory=lambda: Pseudonyms(b""))

    def __bool__(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        """Return a hash over all tombstones and the key."""
        return hashlib.sha256(f"{super().digest} {self.pseudonyms.key_id}".encode()).hexdigest()

    def erased(self, identifiers: Iterable[str | None]) -> set[str]:
        """Return those of the identifiers that were erased, as given."""
        made = {name: self.pseudonyms.of("case", name) for name in set(identifiers) if name is not None}
        gone = super().erased([*made, *made.values()])
        return {name for name, pseudonym in made.items() if name in gone or pseudonym in gone}

    def mentioned(self, texts: pl.Series) -> set[str]:
        """Return the erased identifiers that texts name anywhere; the texts' other words get no pseudonym."""
        return Tombstones(self.marks, self.key).mentioned(texts)
