"""One file: bytes into a hidden partial beside it, gone on with where it broke off, verified as they arrive, then renamed.

What belongs here: what makes a file on disk the announced one. Which files, and how many at a time, is download.py's business.
A partial is a beginning of the file at any moment, so whatever kills the process leaves a whole file or something to go on with.
"""

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from feature_store.durable import sync_folder
from feature_store.errors import DownloadError, GdcUnavailableError
from feature_store.gdc.http import Http, Tries
from feature_store.gdc.manifest import RemoteFile

logger = logging.getLogger(__name__)

OnBytes = Callable[[int], None]
# What is progress enough to start counting tries anew; less, and a server that sends a byte a try would be asked for ever.
_PROGRESS_BYTES = 8 << 20
# A wrong checksum costs the whole file again, and a second one is no accident.
_MAX_MISMATCHES = 2
_HTML_STARTS = (b"<!doctype html", b"<html")
_READ_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def md5_of(path: Path) -> str:
    """Return a file's MD5, the GDC's checksum: it finds damage, it is no defence against forgery."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Say whether the file lies there with the announced size and MD5."""
    return path.is_file() and path.stat().st_size == file.num_bytes and md5_of(path) == file.md5


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


class Partial:
    """What of a file has arrived, in order, with its digest. One process at a time may write it (DownloadError).

    `on_bytes` is told how many bytes there are at first, how many more came, and as a negative number how many were dropped.
    """

    def __init__(self, target: Path, on_bytes: OnBytes) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.partial")
        self.num_bytes = 0
        self.etag = ""
        self._md5, self._on_bytes = _md5(), on_bytes
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(target.parent.parent)
        self._file = self.path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DownloadError(f"{target}: another process is fetching it. Wait for it, or stop it.") from error
        with self.path.open("rb") as before:
            while data := before.read(_READ_BYTES):
                self._count(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if not self.num_bytes:
            self.path.unlink(missing_ok=True)
            with suppress(OSError):
                self.target.parent.rmdir()

    def _count(self, data: bytes) -> None:
        self._md5.update(data)
        self.num_bytes += len(data)
        self._on_bytes(len(data))

    def append(self, data: bytes) -> None:
        """Write what came next."""
        self._file.write(data)
        self._count(data)

    def start(self) -> bytes:
        """Return what a web page would show itself by."""
        self._file.flush()
        with self.path.open("rb") as file:
            return file.read(len(_HTML_STARTS[0]) + 8)

    def restart(self) -> None:
        """Drop all bytes."""
        self._file.flush()
        self._file.truncate(0)
        self._on_bytes(-self.num_bytes)
        self._md5, self.num_bytes, self.etag = _md5(), 0, ""

    def land(self, file: RemoteFile) -> None:
        """Make it the file. Raises DownloadError, dropping all bytes, if they are not the announced ones."""
        found = self._md5.hexdigest()
        if found != file.md5 or self.num_bytes != file.num_bytes:
            what = f"{self.num_bytes:,} bytes with md5 {found}"
            self.restart()
            raise DownloadError(f"{file.path}: {what}, expected {file.num_bytes:,} with {file.md5}. Try later.")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.path.replace(self.target)
        sync_folder(self.target.parent)


def fetch(http: Http, file: RemoteFile, target: Path, on_bytes: OnBytes) -> None:
    """Download a file to `target`, which shows up whole and verified or not at all.

    Raises DownloadError if what came is not what was announced, GdcError if the GDC refuses, its subclass GdcUnavailableError
    if it was asked often enough.
    """
    tries, num_mismatches = Tries(http), 0
    with Partial(target, on_bytes) as partial:
        while True:
            before = partial.num_bytes
            try:
                if partial.num_bytes != file.num_bytes:
                    _receive(http, file, partial)
            except GdcUnavailableError as error:
                if partial.num_bytes - before >= _PROGRESS_BYTES:
                    tries.progressed()
                logger.info("%s; going on from byte %d", error, partial.num_bytes)
                tries.failed(error)
                continue
            try:
                partial.land(file)
            except DownloadError:
                num_mismatches += 1
                if num_mismatches == _MAX_MISMATCHES:
                    raise
            else:
                return


def _receive(http: Http, file: RemoteFile, partial: Partial) -> None:
    """Ask for what is missing, and return once as many bytes as announced came, or more; raise GdcUnavailableError otherwise."""
    if partial.num_bytes > file.num_bytes:
        partial.restart()
    with http.answer("GET", f"data/{file.file_id}", headers=_headers(partial), is_data=True) as answer:
        _match(partial, answer, file)
        for data in http.chunks(answer):
            partial.append(data)
            if partial.num_bytes > file.num_bytes:
                break
    if partial.num_bytes == file.num_bytes:
        return
    if partial.start().lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_STARTS):
        partial.restart()
        raise GdcUnavailableError(f"{file.path}: an HTML page with status 200, expected {file.num_bytes:,} bytes")
    if partial.num_bytes < file.num_bytes:
        raise GdcUnavailableError(f"{file.path}: ended after {partial.num_bytes:,} bytes, expected {file.num_bytes:,}")


def _headers(partial: Partial) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if partial.num_bytes:
        headers["Range"] = f"bytes={partial.num_bytes}-"
        if partial.etag:
            headers["If-Range"] = partial.etag
    return headers


def _match(partial: Partial, answer: requests.Response, file: RemoteFile) -> None:
    """Make the partial end where the answer's body begins. Raises GdcUnavailableError, dropping all bytes, if it cannot."""
    if answer.status_code == 200:  # the whole: nothing had arrived, ranges are not served, or the file has changed
        partial.restart()
    elif problem := _unlike(answer, file, partial):
        partial.restart()
        raise GdcUnavailableError(f"{file.path}: {problem}")
    etag = answer.headers.get("ETag", "")
    partial.etag = "" if etag.startswith("W/") else etag  # a weak one does not vouch for bytes


def _unlike(answer: requests.Response, file: RemoteFile, partial: Partial) -> str | None:
    """Return why an answer does not go on where the partial ends, or None."""
    found = answer.headers.get("Content-Range", "")
    match = _RANGE.fullmatch(found)
    if answer.status_code == 416 or match is None or int(match[1]) != partial.num_bytes:
        return f"status {answer.status_code} with range {found!r}, expected one from byte {partial.num_bytes}"
    if match[2] not in {"*", str(file.num_bytes)}:
        return f"a file of {match[2]} bytes, expected {file.num_bytes}"
    etag = answer.headers.get("ETag", partial.etag)
    return f"ETag {etag}, expected {partial.etag}" if partial.etag and etag != partial.etag else None
