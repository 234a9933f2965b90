"""The key behind all pseudonyms: a file outside the store, and the mark in the store that says which key it was.

Who has the store alone cannot try identifiers; who has key and identifiers gets the same pseudonyms again.
"""

import hashlib
import json
import logging
import os
import secrets
from pathlib import Path

from filelock import FileLock

from feature_store.durable import sync_file, sync_folder
from feature_store.errors import DeidentifyError
from feature_store.home import Home

logger = logging.getLogger(__name__)

ENVIRONMENT = "MICE_DEIDENTIFY_KEY"
KEY_NAME = "deidentify.key"
MARK_NAME = "deidentified.json"
_KEY_BYTES = 32
_LOST = "Restore it from a backup: with another key every case would get another pseudonym."


def load_key(home: Home) -> bytes:
    """Return the installation's key, made on first use and readable by its owner alone.

    It lies where MICE_DEIDENTIFY_KEY says, or in the home beside the store. Raises DeidentifyError where the store was
    de-identified before and the key is gone, damaged or another.
    """
    path, mark = key_path(home), home.root / "store" / MARK_NAME
    home.staging.mkdir(parents=True, exist_ok=True)
    with FileLock(home.staging / "deidentify.lock"):
        if not path.exists() and not mark.exists():
            _write(path, secrets.token_bytes(_KEY_BYTES))
            logger.info("made %s: keep a backup of it, apart from the store's", path)
        key = _read(path)
        if not mark.exists():
            mark.parent.mkdir(parents=True, exist_ok=True)
            _write(mark, json.dumps({"key_id": key_id(key)}).encode())
        found = json.loads(mark.read_text(encoding="utf-8"))["key_id"]
    if found != key_id(key):
        raise DeidentifyError(f"de-identification key {path}: {key_id(key)}, expected {found}, which made the store's. {_LOST}")
    return key


def key_path(home: Home) -> Path:
    """Return where the key lies, whether or not it is there."""
    return Path(os.environ.get(ENVIRONMENT) or home.root / KEY_NAME)


def key_id(key: bytes) -> str:
    """Return what tells one key from another, and nothing of the key."""
    return hashlib.sha256(b"mice de-identification key\0" + key).hexdigest()[:16]


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise DeidentifyError(
            f"de-identification key {path}: cannot be read ({error.strerror}), expected the key that made the store's. {_LOST}"
        ) from error
    if len(key) != _KEY_BYTES:
        raise DeidentifyError(f"de-identification key {path}: {len(key)} bytes, expected {_KEY_BYTES}. {_LOST}")
    return key


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, readable by its owner alone."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    sync_file(unfinished)
    unfinished.replace(path)
    sync_folder(path.parent)
