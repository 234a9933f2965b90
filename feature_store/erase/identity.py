"""How an erased case is recognised: its identifiers, the spellings that count as it, and what is put in their place.

What belongs here: patterns for Python, for DuckDB and for raw bytes. Which rows and files are searched: rows.py, scan.py.
"""

import mmap
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

ERASED = "[erased]"

# What stands between the parts of an identifier: hyphens, the dashes that word processors make of them (in JSON too), and the
# dots and underscores that R and file names have instead.
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"
_SEPARATOR = rf"(?:[-._{_DASHES}]|\\[uU]201[0-5]|\\[uU]2212|\\[uU][fF][fF]0[dD])"
_SEPARATOR_BYTES = rb"(?:[-._]|\xe2\x80[\x90-\x95]|\xe2\x88\x92|\xef\xbc\x8d)"
_TO_HYPHEN = str.maketrans(dict.fromkeys(f"._{_DASHES}", "-"))
# The further parts of a longer barcode: sample, portion, slide.
_PARTS = rf"(?:[-{_DASHES}][0-9A-Za-z]+)*"
_FEWEST_CHARACTERS = 6
_WORD = re.compile(r"[0-9A-Za-z]*")

# A longer word that an identifier is part of (CASE-10 of CASE-1), in capitals, and where in it the identifier begins.
Longer = tuple[bytes, int]


def normal(identifier: str) -> str:
    """Return the spelling that all spellings of an identifier share: upper case, hyphens, no spaces around it."""
    return identifier.strip().upper().translate(_TO_HYPHEN)


def is_distinctive(identifier: str) -> bool:
    """Say whether an identifier can be told from other text wherever it stands: six letters and digits, both among them."""
    characters = [character for character in identifier if character.isalnum()]
    kinds = {character.isdigit() for character in characters}
    return len(characters) >= _FEWEST_CHARACTERS and len(kinds) == 2


@dataclass(frozen=True)
class Identity:
    """A person and all identifiers of theirs, the asked one first.

    A text names the person if one of them stands in it, in any letter case and with any dash, not continued by a letter or digit:
    so barcodes that begin with it count (a sample, a slide), and CASE-10 does not count as CASE-1. An identifier that is not
    distinctive (a bare number) counts only where a column holds identifiers: nothing tells it from other text.
    """

    names: tuple[str, ...]

    @property
    def sql_whole(self) -> str:
        """RE2: a value that is one of the identifiers."""
        return rf"(?i)^\s*{_any_of(self.names)}\s*$"

    @property
    def sql_named(self) -> str:
        """RE2: a value of a column of identifiers that names the person."""
        return rf"(?i)(^|[^0-9A-Za-z]){_any_of(self.names)}($|[^0-9A-Za-z])"

    @property
    def sql_mention(self) -> str:
        """RE2: the person in a text, with what stands on either side as groups 1 and 2."""
        return rf"(?i)(^|[^0-9A-Za-z]){_any_of(self.searchable)}{_PARTS}($|[^0-9A-Za-z])"

    @cached_property
    def normals(self) -> frozenset[str]:
        """The identifiers in their common spelling."""
        return frozenset(map(normal, self.names))

    @cached_property
    def searchable(self) -> tuple[str, ...]:
        """The identifiers that text and bytes can be searched for."""
        return tuple(filter(is_distinctive, self.names))

    @cached_property
    def _text(self) -> re.Pattern[str]:
        return re.compile(rf"(?i)(?<![0-9A-Za-z]){_any_of(self.searchable)}{_PARTS}(?![0-9A-Za-z])")

    @cached_property
    def _capitals(self) -> list[re.Pattern[str]]:
        # of text in capitals, and nothing before the first literal: re.IGNORECASE is 20 times slower
        return [re.compile(_spelled(name)) for name in sorted(map(normal, self.searchable))]

    @cached_property
    def _bytes(self) -> list[re.Pattern[bytes]]:
        forms = {form for name in self.searchable for form in (name, name.upper(), name.lower())}
        split = [re.split(f"[-._{_DASHES}]", form) for form in sorted(forms)]
        return [re.compile(_SEPARATOR_BYTES.join(re.escape(part.encode()) for part in parts)) for parts in split]

    def is_it(self, identifier: str | None) -> bool:
        """Say whether an identifier is this person's."""
        return identifier is not None and normal(identifier) in self.normals

    def is_named_in(self, text: str, longer: set[Longer] | None = None) -> bool:
        """Say whether a text names the person; add to `longer` the longer words met before that."""
        text = text.upper()
        for pattern in self._capitals:
            for match in pattern.finditer(text):
                begin = match.start()
                while begin and text[begin - 1].isascii() and text[begin - 1].isalnum():
                    begin -= 1
                word = _WORD.match(text, match.end())
                end = word.end() if word else match.end()
                if (begin, end) == match.span():
                    return True
                if longer is not None:
                    longer.add((text[begin:end].encode(), len(text[begin : match.start()].encode())))
        return False

    def redacted(self, text: str) -> str:
        """Return the text with every mention of the person, longer barcodes as a whole, replaced."""
        return self._text.sub(ERASED, text)

    def is_in_bytes(self, data: bytes | mmap.mmap, longer: Collection[Longer] = ()) -> bool:
        """Say whether raw bytes hold an identifier, whatever stands around it, unless it is a part of one of `longer`."""
        return any(
            not any(data[match.start() - at : match.start() - at + len(word)].upper() == word for word, at in longer)
            for pattern in self._bytes
            for match in pattern.finditer(data)
        )


def _any_of(names: Collection[str]) -> str:
    """Return a regular expression of identifiers, in the syntax that Python and RE2 share; of none, one that matches nothing."""
    return "(?:" + "|".join(sorted({_spelled(normal(name)) for name in names}) or [r"[^\s\S]"]) + ")"


def _spelled(name: str) -> str:
    return "".join(_SEPARATOR if character == "-" else re.escape(character) for character in name)
