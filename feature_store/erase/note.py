"""The note of an erasure that has begun: who goes, so that a second run finishes what a killed one left, though it may find less.

It holds identifiers in clear, readable by its owner alone, and is removed before the proof. What belongs here: that file only.
"""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from feature_store.durable import sync_folder
from feature_store.erase.identity import normal
from feature_store.home import Home

_PREFIX = ".erasing-"


@dataclass(frozen=True)
class Note:
    """The identifiers, the versions of the models that saw or may have seen the case, and the sources that name it."""

    names: tuple[str, ...]
    models: tuple[str, ...]
    sources: tuple[str, ...]


def is_note(path: Path) -> bool:
    """Say whether a file is such a note, whole or not."""
    return path.name.startswith(_PREFIX)


def read_note(home: Home, case_id: str) -> Note | None:
    """Return what unfinished erasures of a case noted, all together."""
    found = [note for _, note in _notes(home) if normal(case_id) in map(normal, note.names)]
    if not found:
        return None
    names, models, sources = (
        tuple(dict.fromkeys(value for note in found for value in getattr(note, name))) for name in ("names", "models", "sources")
    )
    return Note(names, models, sources)


def write_note(home: Home, note: Note) -> None:
    """Write a note, whole or not at all."""
    path = home.root / f"{_PREFIX}{uuid.uuid4().hex}.json"
    unfinished = path.with_suffix(".tmp")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(note), file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(home.root)


def remove_notes(home: Home, case_id: str) -> None:
    """Remove all notes that name a case, and what a killed process began to write."""
    for path, note in list(_notes(home)):
        if normal(case_id) in map(normal, note.names):
            path.unlink(missing_ok=True)
    for path in home.root.glob(f"{_PREFIX}*.tmp"):
        path.unlink(missing_ok=True)
    sync_folder(home.root)


def _notes(home: Home) -> Iterator[tuple[Path, Note]]:
    for path in sorted(home.root.glob(f"{_PREFIX}*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        yield path, Note(**{name: tuple(values) for name, values in found.items()})
