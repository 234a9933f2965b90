"""Many small files in one answer: the GDC packs them into a tar.gz, which is unpacked and verified as it arrives.

What belongs here: the archive's way only. It is asked for once; whatever it did not bring is fetched file by file (transfer.py).
"""

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from feature_store.archives import Limits, tar_members
from feature_store.errors import ArchiveError, DownloadError, GdcError
from feature_store.gdc.http import Http
from feature_store.gdc.manifest import RemoteFile
from feature_store.gdc.transfer import OnBytes, Partial

logger = logging.getLogger(__name__)

# A larger file gains nothing from sharing an answer, and cannot be gone on with where it broke off.
MAX_FILE_BYTES = 8 << 20
MAX_BATCH_BYTES = 128 << 20
MAX_BATCH_FILES = 100
_READ_BYTES = 1 << 18


class _Body(io.RawIOBase):
    """An answer's chunks as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return data


def batches(files: Sequence[RemoteFile]) -> list[list[RemoteFile]]:
    """Return the files in their order, small ones together, large ones each alone."""
    grouped: list[list[RemoteFile]] = []
    small: list[RemoteFile] = []
    for file in files:
        if file.num_bytes > MAX_FILE_BYTES:
            grouped.append([file])
            continue
        if len(small) == MAX_BATCH_FILES or sum(one.num_bytes for one in small) + file.num_bytes > MAX_BATCH_BYTES:
            grouped.append(small)
            small = []
        small.append(file)
    return [*grouped, small] if small else grouped


def fetch_together(http: Http, files: Sequence[RemoteFile], folder: Path, on_bytes: OnBytes) -> Iterator[RemoteFile]:
    """Download what one archive brings of `files` to their paths below `folder`; yield each that landed, whole and verified.

    Entries that were not asked for are passed over; whatever goes wrong ends it early.
    """
    wanted = {file.path: file for file in files}
    limits = Limits(max_entries=4 * len(files) + 16, max_bytes=2 * sum(file.num_bytes for file in files) + (64 << 20))
    try:
        with http.answer("POST", "data", {"ids": [file.file_id for file in files]}, is_data=True) as answer:
            for name, size, content in tar_members(_Body(http.chunks(answer)), limits):
                file = wanted.get(name)
                if file is None or size != file.num_bytes:
                    continue
                with Partial(folder / file.path, on_bytes) as partial:
                    partial.restart()
                    while data := content.read(_READ_BYTES):
                        partial.append(data)
                    partial.land(file)
                del wanted[name]
                yield file
    except (ArchiveError, DownloadError, GdcError, OSError) as error:
        logger.info("an archive brought %d of %d files (%s)", len(files) - len(wanted), len(files), error)
