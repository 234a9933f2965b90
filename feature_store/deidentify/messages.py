"""What an ingest says (log lines, errors, reasons, names of files) without the identifiers and values that it found.

What the contract itself says is no secret. Of all else only the shape is shown: `TCGA-02-0001` is `AAAA-99-9999`. This needs no
key, so it holds for whoever looks into a landing folder.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from feature_store.contract import Contract
from feature_store.erase.identity import is_distinctive, normal
from feature_store.errors import DeidentifyError, MiceError

_QUOTED = re.compile(r"""(?<!\w)(['"])(.*?)\1(?!\w)""", re.DOTALL)
_TOKEN = re.compile(r"[^\W_]+(?:[-._][^\W_]+)*")
# What the code's own messages put an identifier after, and words of theirs that look like one.
_NAMED = re.compile(r"(?<=\bslide )[^\s:]+(?=:)|(?<=\bcase )[^\s:]+(?=:)|(?<=\bno file )\S+")
_OUR_WORDS = frozenset({"sha256", "float16", "float32", "int32", "SHA256SUMS"})
_SHORTEST_NAME, _MOST_PARTS = 3, 12
T = TypeVar("T")
_LONGEST_SHAPE = 60


def shape(text: str) -> str:
    """Return what a text looks like: letters as A or a, digits as 9, all else as it is."""
    text = re.sub(r"[^\W\d_]", lambda letter: "A" if letter[0].isupper() else "a", text[:_LONGEST_SHAPE])
    return re.sub(r"\d", "9", text)


def runs(token: str) -> Iterator[str]:
    """Yield every run of up to 12 of a token's parts that could be an identifier, the longest first, in the common spelling."""
    parts = normal(token).split("-")
    for length in range(min(len(parts), _MOST_PARTS), 0, -1):
        for begin in range(len(parts) - length + 1):
            run = "-".join(parts[begin : begin + length])
            if is_distinctive(run):
                yield run


@dataclass(frozen=True)
class Messages:
    """What may be said of a contract's ingest. `known`: identifiers in common spelling, more of which may come while it lasts."""

    contract: Contract
    landing: Path | None = None
    known: Collection[str] = ()

    def without_identifiers(self, message: str) -> str:
        """Return a message in which what the contract does not say is shapes: values, names of files, whatever may identify."""
        message = _QUOTED.sub(lambda found: found[1] + self._said(found[2]) + found[1], message)
        message = _NAMED.sub(lambda found: shape(found[0]), message)
        message = self._case_id.sub(lambda found: shape(found[0]) if any(map(str.isdigit, found[0])) else found[0], message)
        return _TOKEN.sub(lambda found: shape(found[0]) if self._names(found[0]) else found[0], message)

    def path(self, relative: str, sha256: str = "") -> str:
        """Return a source's path as it may be recorded: what the contract says of it, and the content's hash for the rest."""
        if relative in self._public:
            return relative
        path = PurePosixPath(relative)
        folders = [part if part in self._parts else "*" for part in path.parts[:-1]]
        endings = ["".join(path.suffixes[-2:]), path.suffix]
        ending = next((end for end in endings if end and any(text.endswith(end) for text in self._public)), "")
        return "/".join([*folders, f"{sha256[:12] or '*'}{ending}"])

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a log record; the name is what `logging` calls."""
        record.msg, record.args, record.exc_info = self.without_identifiers(record.getMessage()), None, None
        return True

    def of_error(self, error: Exception) -> MiceError:
        """Return an error that says the same without identifiers, and does not remember the one that said them."""
        said = self.without_identifiers(str(error))
        if isinstance(error, MiceError):
            return type(error)(said).with_traceback(error.__traceback__)
        found = f"contract {self.contract.name}: {type(error).__name__} ({said}), expected its sources to be read."
        return DeidentifyError(f"{found} Correct the source or the contract.").with_traceback(error.__traceback__)

    @classmethod
    def of(cls, contract: Contract, landing: Path) -> "Messages | None":
        """Return how to speak of a landing folder, None where the contract asks for no de-identification."""
        return cls(contract, landing) if contract.deidentify else None

    @cached_property
    def _public(self) -> frozenset[str]:
        return frozenset(_texts(self.contract.model_dump()))

    @cached_property
    def _public_words(self) -> frozenset[str]:
        return frozenset(word for text in self._public for word in (text, *_TOKEN.findall(text)))

    @cached_property
    def _parts(self) -> frozenset[str]:
        return frozenset(part for text in self._public for part in text.split("/"))

    @cached_property
    def _case_id(self) -> re.Pattern[str]:
        flags = re.IGNORECASE if self.contract.case_id.upper else 0
        return re.compile(rf"(?<![0-9A-Za-z])(?:{self.contract.case_id.pattern})(?![0-9A-Za-z])", flags)

    @cached_property
    def _file_words(self) -> frozenset[str]:
        """The words of the names of files and folders, with and without ending, that the contract does not say."""
        names = {path.name for path in self.landing.rglob("*")} - self._parts if self.landing else set()
        words = {word for name in names for text in (name, PurePosixPath(name).stem) for word in _TOKEN.findall(text)}
        return frozenset(word for word in words if len(word) >= _SHORTEST_NAME)

    def _said(self, quoted: str) -> str:
        return quoted if quoted in self._public else shape(quoted)

    def _names(self, token: str) -> bool:
        if token in self._public_words or token in _OUR_WORDS:
            return False
        is_file = not self._file_words.isdisjoint({token, PurePosixPath(token).stem})
        return is_file or is_distinctive(token) or any(run in self.known for run in runs(token))


def hidden(messages: Messages | None, work: Callable[[], T]) -> T:
    """Return what `work` returns, and let no log line of the store's code and no error out but as `messages` would say it.

    None lets all out. Any error but the store's own comes as a DeidentifyError: libraries quote values in theirs.
    """
    if messages is None:
        return work()
    loggers = [logging.getLogger(name) for name in ["feature_store", *logging.root.manager.loggerDict] if _is_ours(name)]
    for logger in loggers:
        logger.addFilter(messages)
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - any of them may quote a value
        failure = messages.of_error(error)
    finally:
        for logger in loggers:
            logger.removeFilter(messages)
    raise failure  # here, where nothing remembers the error that it stands for


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "feature_store"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (*_texts(key), *_texts(each))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _texts(each)
