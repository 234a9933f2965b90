"""Whose an embedded slide is, so that erasure finds what was made of it though no row names it: embedded, never published.

A mark is an empty file `<embeddings>/marks/<id of the key>/<the slide's SHA-256>.<mark>`, where the mark is the tombstone that
the person would have (tombstones.py): no identifier in clear, nothing to be written by half, and the manifests stay what they
were. It is there before anything else of the slide is. Marks that another key made tell nothing, and count as none.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from feature_store.durable import sync_folder
from feature_store.erase.tombstones import existing_key, key_id, mark
from feature_store.errors import StoreWriteError
from feature_store.home import Home
from feature_store.slides.embeddings import ENCODER_FILE

_FOLDER = "marks"


def keep_marks(home: Home, key: bytes, marks: Iterable[tuple[str, str]]) -> None:
    """Keep (slide's SHA-256, mark) pairs, durably, where they are not kept yet. Raises StoreWriteError."""
    folder = _folder(home, key)
    try:
        new = {f"{slide}.{of}" for slide, of in marks} - _names(folder)
        if new:
            folder.mkdir(parents=True, exist_ok=True)
            for name in new:
                (folder / name).touch()
            for each in (folder, folder.parent, home.embeddings):
                sync_folder(each)
    except OSError as error:
        raise StoreWriteError(
            f"embeddings folder {home.embeddings}: {error}, expected a writable disk with space. Mend that and run again."
        ) from error


def slides_of(home: Home, identifiers: Iterable[str]) -> set[str]:
    """Return the checksums of the embedded slides of a person. Raises ErasureError for a damaged key."""
    key = existing_key(home)
    if key is None:
        return set()
    marks = {mark(key, name) for name in identifiers}
    pairs = (name.partition(".") for name in _names(_folder(home, key)))
    return {slide for slide, _, of in pairs if of in marks}


def is_mark(path: Path) -> bool:
    """Say whether a file below the embeddings is a mark."""
    return path.parent.parent.name == _FOLDER


def unmarked(home: Home) -> tuple[int, int]:
    """Return how many manifests nothing tells the case of, made before there were marks or under a lost key, and of how many."""
    key = existing_key(home)
    known = {name.partition(".")[0] for name in _names(_folder(home, key))} if key is not None else set()
    manifests = [path.stem for path in home.embeddings.glob("*/*.json") if path.name != ENCODER_FILE]
    return sum(slide not in known for slide in manifests), len(manifests)


def _folder(home: Home, key: bytes) -> Path:
    return home.embeddings / _FOLDER / key_id(key)


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - names, and no paths
