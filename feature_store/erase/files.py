"""Taking the erased person out of files that are not the lake's: models, reports, Dagster's storage, logs, all in the home.

Staged cohorts that name the person and the whole cache are deleted: both are made again from what is left. What belongs here: one
function per kind of file. Of a Parquet table with case_id the person's rows go; elsewhere a mention becomes `[erased]`.
"""

import gzip
import json
import logging
import shutil
import uuid
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.exc import DatabaseError

from feature_store.durable import sync_file, sync_folder
from feature_store.erase.databases import redact_sqlite
from feature_store.erase.identity import Identity
from feature_store.erase.note import is_note
from feature_store.erase.scan import GZIP, PARQUET, SQLITE, ZIP, files_below, scan
from feature_store.erase.slide_marks import is_mark
from feature_store.explanation_pages import case_of, pages
from feature_store.home import Home

logger = logging.getLogger(__name__)

_SHA256_DIGITS = 64

_DAMAGED = (gzip.BadGzipFile, EOFError, ValueError, zlib.error, pa.ArrowException, pl.exceptions.PolarsError, DatabaseError)


def others_with(home: Home, identity: Identity) -> list[Path]:
    """Return the files outside the store, staging and cache that name the person."""
    own = {home.root / "store", home.staging, home.cache}
    found = scan(home.root, [path for path in files_below(home) if own.isdisjoint(path.parents) and not is_note(path)], identity)
    return sorted({hit.path for hit in found.hits})


def staged_with(home: Home, identity: Identity) -> list[Path]:
    """Return the staging folders (a contract's content, whole or not) that name the person."""
    folders = [folder for folder in home.staging.glob("*/*") if folder.is_dir()]
    return [folder for folder in sorted(folders) if _names(folder, identity)]


def cached(home: Home) -> list[Path]:
    """Return the cache's files: vectors in order of the cases, without identifiers, so any may hold the person."""
    return sorted(path for path in home.cache.rglob("*") if path.is_file())


def embedded(home: Home, digests: set[str]) -> list[Path]:
    """Return what was made of slides with these checksums: nothing in it names anybody, but it is of the person.

    The marks that say so come last, so that whoever removes the files in this order and is killed finds the rest again.
    """
    found = {path for digest in digests if digest for path in home.embeddings.glob(f"*/**/*{digest}*") if path.is_file()}
    return sorted(found, key=lambda path: (is_mark(path), path))


def explained(home: Home, identity: Identity) -> list[Path]:
    """Return the pages about the person, half-written ones too: what they show cannot be redacted, it is the person's own."""
    return [page for page in pages(home) if identity.is_it(case_of(page))]


def forget_slides(home: Home, paths: Sequence[Path]) -> None:
    """Remove what was made of slides, after the lines of reports that show one: from them its checksum goes too."""
    slides = {path.name[:_SHA256_DIGITS] for path in paths if path.suffix == ".jpg"}
    for page in sorted(home.reports.glob("*.html")) if slides else ():
        lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
        left = [line for line in lines if not any(slide in line for slide in slides)]
        if len(left) < len(lines):
            _replace(page, partial(Path.write_text, data="".join(left), encoding="utf-8"))
    for path in paths:
        path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Delete a folder with all that is in it; nothing where it is gone already."""
    if folder.is_dir():
        shutil.rmtree(folder)
        sync_folder(folder.parent)


def redact_file(root: Path, path: Path, identity: Identity) -> bool:
    """Take the person out of one file below `root`, and out of its name; False for a kind not known well enough to change it.

    A file that is not what its first bytes say is of no known kind either.
    """
    try:
        return _redact(root, path, identity)
    except _DAMAGED as error:
        logger.warning("a file that names the case cannot be decoded and was left (%s)", type(error).__name__)
        return False


def _redact(root: Path, path: Path, identity: Identity) -> bool:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(SQLITE):
        redact_sqlite(path, identity)
    elif start.startswith(PARQUET):
        _replace(path, lambda new: _redact_parquet(path, new, identity))
    elif start.startswith(GZIP):
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
        _replace(path, lambda new: new.write_bytes(gzip.compress(identity.redacted(text).encode(), mtime=0)))
    elif path.suffix == ".safetensors":
        _replace(path, lambda new: _redact_header(path, new, identity))
    elif start.startswith(ZIP) or not _is_text(path):
        return False
    else:
        text = path.read_bytes().decode("utf-8")  # not read_text, which would change the ends of lines
        _replace(path, lambda new: new.write_bytes(identity.redacted(text).encode("utf-8")))
    _rename(root, path, identity)
    return True


def _names(folder: Path, identity: Identity) -> bool:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return not scan(folder, files, identity).is_clean or _has_rows(files, identity)


def _has_rows(files: Sequence[Path], identity: Identity) -> bool:
    """Say whether a Parquet file has rows of the person, by an identifier too common to be searched for."""
    for path in files:
        if path.suffix == ".parquet" and "case_id" in pq.read_schema(path).names:
            case_ids = pl.scan_parquet(path).select(pl.col("case_id").unique()).collect()["case_id"]
            if any(map(identity.is_it, case_ids)):
                return True
    return False


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Put a file that `write` makes in the place of another, whole or not at all."""
    path = path.resolve()  # where it is a link: what it leads to
    new = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        write(new)
        shutil.copymode(path, new)
        sync_file(new)
        new.replace(path)
        sync_folder(path.parent)
    finally:
        new.unlink(missing_ok=True)


def _redact_parquet(path: Path, new: Path, identity: Identity) -> None:
    """Write a Parquet file without the person's rows and mentions; its metadata stays, redacted."""
    table = pq.read_table(path)
    rows = pl.DataFrame(table)
    if "case_id" in rows.columns:
        rows = rows.filter(~pl.col("case_id").map_elements(identity.is_it, return_dtype=pl.Boolean, skip_nulls=False))
    texts = [name for name, kind in rows.schema.items() if kind == pl.String]
    rows = rows.with_columns(pl.col(texts).map_elements(identity.redacted, return_dtype=pl.String))
    metadata = {identity.redacted(k.decode()): identity.redacted(v.decode()) for k, v in (table.schema.metadata or {}).items()}
    pq.write_table(rows.to_arrow().cast(table.schema.remove_metadata()).replace_schema_metadata(metadata), new)


def _redact_header(path: Path, new: Path, identity: Identity) -> None:
    """Write a safetensors file with a redacted header: its length is kept with spaces, as the format allows."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = identity.redacted(data[8:end].decode("utf-8")).encode("utf-8")
    json.loads(header)
    padded = header.ljust(-(-max(len(header), end - 8) // 8) * 8)
    new.write_bytes(len(padded).to_bytes(8, "little") + padded + data[end:])


def _is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False


def _rename(root: Path, path: Path, identity: Identity) -> None:
    """Redact the names of a file and its folders."""
    named = str(path.relative_to(root))
    if not identity.is_named_in(named):
        return
    new = root / identity.redacted(named)
    if new.exists():
        new = new.with_name(f"{uuid.uuid4().hex}-{new.name}")
    new.parent.mkdir(parents=True, exist_ok=True)
    path.rename(new)
    for folder in path.parents:
        if folder == root:
            break
        with suppress(OSError):  # others lie in it: they come in their turn
            folder.rmdir()
