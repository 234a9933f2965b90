"""Unpacking tar (plain or gzip) and zip archives from outside: only plain files below a folder, within limits.

What belongs here: what an archive may hold. Anything else refuses all of it with ArchiveError: `..` and absolute names, links,
devices, names that only letter case tells apart, too many entries, more bytes than their compressed size explains.
"""

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from feature_store.durable import sync_folder
from feature_store.errors import ArchiveError

# What the standard library raises of damaged archives; RuntimeError: encrypted members, or headers nested too deep.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, RuntimeError, ValueError)
_MAX_HEADER_BYTES = 1 << 20  # of a long name or of pax records, which tarfile reads whole into memory
_TAR_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}
_TAR_PLAIN = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE}
_ZIP_PLAIN = {0, stat.S_IFREG, stat.S_IFDIR}
_ZIP_END = struct.Struct("<4s4H2LH")
_READ_BYTES = 1 << 20
_TAR_READ_BYTES = 1 << 15  # tarfile copies what it has read ahead for each header


class Readable(Protocol):
    """What bytes are read from, once."""

    def read(self, size: int = -1, /) -> bytes:
        """Return some bytes, or none at the end."""
        ...


Member = tuple[str, int, Readable]


@dataclass(frozen=True)
class Limits:
    """What an archive may be at most. Beyond `free_bytes`, `max_ratio` holds: text compresses some 20 to 1."""

    max_entries: int = 50_000
    max_bytes: int = 1 << 40
    max_ratio: int = 200
    free_bytes: int = 16 << 20
    max_name_bytes: int = 1_024
    max_depth: int = 32


class _Budget:
    """How many bytes an archive has given so far, of how many compressed ones."""

    def __init__(self, limits: Limits, num_packed: int = 0) -> None:
        self._limits, self._num_packed, self._num_unpacked = limits, num_packed, 0

    def packed(self, num_bytes: int) -> None:
        self._num_packed += num_bytes

    def unpacked(self, num_bytes: int) -> None:
        self._num_unpacked += num_bytes
        allowed = min(self._limits.max_bytes, self._limits.free_bytes + self._limits.max_ratio * self._num_packed)
        if self._num_unpacked > allowed:
            raise ArchiveError(
                f"archive: {self._num_packed:,} bytes unpack to more than {allowed:,}, expected less. Do not use it."
            )


class _Told(io.RawIOBase):
    """A stream that tells how much is read of it, gives little at a time, and names damage."""

    def __init__(self, stream: Readable, on_read: Callable[[int], None]) -> None:
        self._stream, self._on_read = stream, on_read

    def read(self, size: int = -1, /) -> bytes:
        with _damage_named("archive"):
            data = self._stream.read(_READ_BYTES if size < 0 else min(size, _READ_BYTES))
        self._on_read(len(data))
        return data


class _Names:
    """The entries of an archive so far, each under the name that a file system which ignores letter case takes it for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._num_entries = 0
        self._spelled: dict[str, str] = {}

    def add(self, name: str, *, is_folder: bool) -> None:
        """Raise ArchiveError for one entry too many, one that is not below the target, or one that is there already."""
        self._num_entries += 1
        if self._num_entries > self._limits.max_entries:
            raise ArchiveError(f"archive: more than {self._limits.max_entries:,} entries, expected fewer. Do not use it.")
        parts = name.removesuffix("/").split("/")
        is_long = len(name.encode(errors="replace")) > self._limits.max_name_bytes or len(parts) > self._limits.max_depth
        if is_long or not name.isprintable() or set(parts) & {"", ".", ".."} or set(name) & set("\\:"):
            raise ArchiveError(f"archive: entry {name[:120]!r}, expected a plain name below the target. Do not use it.")
        num_folders = len(parts) if is_folder else len(parts) - 1
        claimed = ["/".join(parts[: depth + 1]) + "/" for depth in range(num_folders)]
        if not is_folder:
            claimed.append(name)
        for path in claimed:
            folded = unicodedata.normalize("NFC", path.removesuffix("/")).casefold()
            seen = self._spelled.get(folded)
            if seen is not None and (seen != path or not path.endswith("/")):
                raise ArchiveError(f"archive: entries {seen[:120]!r} and {name[:120]!r}, expected one of them. Do not use it.")
            self._spelled[folded] = path


class _PlainInfo(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Refuse what is no plain file or folder, and headers too long to read, before tarfile acts on them."""
        info = super().frombuf(buf, encoding, errors)
        is_header = info.type in _TAR_HEADERS
        if info.size < 0 or (is_header and info.size > _MAX_HEADER_BYTES) or not (is_header or info.type in _TAR_PLAIN):
            raise ArchiveError(
                f"archive: entry {info.name[:120]!r} of type {info.type!r} and {info.size:,} bytes, expected a plain file or "
                "folder. Do not use it."
            )
        return info


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise ArchiveError(f"{what}: unreadable ({reason}), expected a whole archive. Fetch it again.") from error


def tar_members(stream: Readable, limits: Limits, *, is_gzip: bool = True) -> Iterator[Member]:
    """Yield name, size and bytes of each file of a tar archive that is read once, from its beginning; read each at once.

    Raises ArchiveError as soon as something is in it that must not be.
    """
    budget, names = _Budget(limits), _Names(limits)
    packed = _Told(stream, budget.packed)
    unpacked = _Told(gzip.GzipFile(fileobj=packed) if is_gzip else packed, budget.unpacked)
    with _damage_named("archive"), tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_PlainInfo, bufsize=_TAR_READ_BYTES) as tar:
        while info := tar.next():
            names.add(info.name, is_folder=info.isdir())
            content = tar.extractfile(info)
            if info.issparse():
                raise ArchiveError(f"archive: entry {info.name[:120]!r} is sparse, expected plain files. Do not use it.")
            if content is not None:
                yield info.name, info.size, _Told(content, lambda _num_bytes: None)
        while unpacked.read(_READ_BYTES):
            pass  # to the end, where gzip has its checksum


def zip_members(path: Path, limits: Limits) -> Iterator[Member]:
    """Yield name, size and bytes of each file of a zip archive, all names having been checked before the first.

    Raises ArchiveError as `tar_members` does.
    """
    budget, names = _Budget(limits, path.stat().st_size), _Names(limits)
    _refuse_long_directory(path, limits)
    with _damage_named(f"archive {path}"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in _ZIP_PLAIN:
                raise ArchiveError(f"archive: entry {info.filename[:120]!r} is no plain file, expected only such. Do not use it.")
            names.add(info.orig_filename, is_folder=info.is_dir())
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as content:
                    yield info.filename, info.file_size, _Told(content, budget.unpacked)


def _refuse_long_directory(path: Path, limits: Limits) -> None:
    """Raise ArchiveError for a zip whose directory is too long: zipfile reads it whole, whatever number of entries it claims."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - _ZIP_END.size))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _ZIP_END.size:
        raise ArchiveError(f"archive {path}: no end of a zip archive, expected one. Fetch it again.")
    num_bytes = _ZIP_END.unpack_from(tail, at)[5]
    is_zip64 = b"PK\x06\x07" in tail[max(0, at - 20) : at]
    if is_zip64 or num_bytes > limits.max_entries * (46 + limits.max_name_bytes):
        raise ArchiveError(f"archive {path}: a directory of {num_bytes:,} bytes, or zip64, expected a short one. Do not use it.")


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> int:
    """Unpack an archive into a new folder, which shows up whole or not at all, and return the number of files.

    Raises ArchiveError for what must not be unpacked, and if the folder is there already.
    """
    if target.exists():
        raise ArchiveError(f"folder {target}: there already, expected none. Name another, or remove it.")
    unfinished = target.with_name(f".{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    num_files = 0
    try:
        for _ in _members(archive, limits or Limits()):
            pass  # looked through once, so that what is refused costs the disk nothing
        unfinished.mkdir(parents=True)
        for name, num_bytes, content in _members(archive, limits or Limits()):
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(content, file, _READ_BYTES)
            if path.stat().st_size != num_bytes:
                raise ArchiveError(f"archive {archive}: {name} has not the {num_bytes:,} bytes it claims. Fetch it again.")
            num_files += 1
        os.sync()  # once: thousands of small files would each wait for the disk
        unfinished.rename(target)
    except OSError as error:
        raise ArchiveError(f"archive {archive}: {error}, expected a file to read and room to unpack it. Mend that.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    sync_folder(target.parent)
    return num_files


def _members(archive: Path, limits: Limits) -> Iterator[Member]:
    with archive.open("rb") as file:
        start = file.read(4)
        if start.startswith(b"PK"):
            yield from zip_members(archive, limits)
        else:
            file.seek(0)
            yield from tar_members(file, limits, is_gzip=start.startswith(b"\x1f\x8b"))
