"""A cache of plain .npy matrices: what the store's vector tables hold, in files that every process of a machine maps.

What belongs here: naming, making, checking and removing the files. What is in them and who reads them is vectors.py's. Nothing is
lost with a file: it is named by the hash its rows were published with, and made from them again where it is absent or broken.
Shape legend: m cases of a cohort with a panel, g features of the panel.
"""

import io
import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from feature_store.home import Home

logger = logging.getLogger(__name__)

Matrix = NDArray[np.float32]
Read = Callable[[], Iterator[tuple[NDArray[np.int64], Matrix]]]

_PARTIAL = ".partial-"


def path_of(home: Home, table: str, cohort: str, panel_id: str, content_sha256: str) -> Path:
    """Return the file of one cohort and panel as they were published with that hash."""
    return _folder(home, cohort) / f"{table}-{panel_id}-{content_sha256}.npy"


def matrix_of(path: Path, shape: tuple[int, int], read: Read) -> Matrix:
    """Return the matrix (m, g): mapped from the cache, where it is made if need be, or read from the table."""
    found = _mapped(path, shape)
    if found is not None:
        return found
    try:
        _write(path, shape, read)
    except OSError as error:
        logger.warning("%s: not written (%s), vectors are read from the table", path, error)
    else:
        logger.info("%s: made, %d vectors of %d features", path, *shape)
        found = _mapped(path, shape)
        if found is not None:
            return found
    matrix = np.empty(shape, np.float32)
    for rows, values in read():
        matrix[rows] = values
    return matrix


def drop_cohort(home: Home, cohort: str) -> int:
    """Remove a cohort's files from the cache (a case of it was erased); return how many. Processes that map them keep them."""
    return _remove(_folder(home, cohort).glob("*"))


def collect_cache(home: Home, live: Collection[str]) -> int:
    """Remove the files whose publication's `content_sha256` is not in `live`, and what killed processes left; return how many."""
    files = (home.cache / "vectors").glob("*/*")
    return _remove(path for path in files if path.stem.rpartition("-")[2] not in live or path.name.startswith(_PARTIAL))


def _mapped(path: Path, shape: tuple[int, int]) -> Matrix | None:
    """Return the file's matrix if the file is there, with the header and the size that belong to this shape."""
    header, num_bytes = _header(shape), shape[0] * shape[1] * 4
    try:
        with path.open("rb") as file:
            if file.read(len(header)) == header and os.fstat(file.fileno()).st_size == len(header) + num_bytes:
                # a plain array over the map: indexing a memmap costs more than copying a row
                return np.asarray(np.memmap(file, "<f4", "r", len(header), shape))
        found = f"not {len(header) + num_bytes} bytes of an array of shape {shape}"
    except FileNotFoundError:
        return None
    except OSError as error:
        found = str(error)
    logger.warning("%s: broken (%s), made again", path, found)
    return None


def _write(path: Path, shape: tuple[int, int], read: Read) -> None:
    """Write the file beside its place and rename it. By writes, not through a map: a full disk is then an error, not a signal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    header = _header(shape)
    try:
        with partial.open("xb") as file:
            file.write(header)
            for rows, values in read():
                for row, vector in zip(rows, np.ascontiguousarray(values, "<f4"), strict=True):
                    file.seek(len(header) + int(row) * vector.nbytes)
                    file.write(vector.data)
            file.flush()
            os.fsync(file.fileno())  # else a crash of the machine could leave a file of this size without its values
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _header(shape: tuple[int, int]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _folder(home: Home, cohort: str) -> Path:
    return home.cache / "vectors" / f"cohort={quote(cohort, safe='')}"


def _remove(paths: Iterable[Path]) -> int:
    removed = 0
    for path in paths:
        path.unlink(missing_ok=True)
        removed += 1
    return removed
