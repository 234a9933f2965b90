"""Manifests: the GDC's own list of files to download (tab-separated: id, filename, md5, size, state), checked before use.

What belongs here: a file's identity, and reading and writing lists of them. They come from outside, and their names become paths.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from feature_store.durable import sync_file
from feature_store.errors import ManifestError

COLUMNS = ("id", "filename", "md5", "size", "state")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_SIZE = re.compile(r"[0-9]{1,15}")
MAX_NAME_BYTES = 200  # of the 255 that a file system takes: a partial's name is longer
_MAX_LINE_CHARACTERS = 1 << 20  # the GDC's own catalogue has lines of some 80,000, of files with a thousand cases


@dataclass(frozen=True)
class RemoteFile:
    """A file of the GDC, as announced. Its id names a folder and its name a file in it: make one through `checked`."""

    file_id: str
    file_name: str
    md5: str
    num_bytes: int
    state: str = "released"

    @property
    def path(self) -> str:
        """Return where the file lies below the folder that files are downloaded to."""
        return f"{self.file_id}/{self.file_name}"


def checked(file_id: str, file_name: str, md5: str, size: str, state: str = "released") -> RemoteFile:
    """Return the file. Raises ManifestError for an id, name, checksum or size that cannot be one."""
    problem = (
        f"id {file_id[:80]!r}, expected a UUID"
        if _UUID.fullmatch(file_id) is None
        else f"file name {file_name[:80]!r}, expected a plain name of at most {MAX_NAME_BYTES} bytes, without a folder"
        if not _is_plain(file_name)
        else f"md5 {md5[:80]!r}, expected 32 hexadecimal digits"
        if _MD5.fullmatch(md5) is None
        else f"size {size[:80]!r}, expected a number of bytes"
        if _SIZE.fullmatch(size) is None
        else None
    )
    if problem:
        raise ManifestError(problem)
    return RemoteFile(file_id, file_name, md5, int(size), state)


def _is_plain(name: str) -> bool:
    is_short = 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES
    return is_short and name.isprintable() and name == name.strip() and not name.startswith(".") and not set(name) & set("/\\")


def read_manifest(path: Path) -> list[RemoteFile]:
    """Return a manifest's files in its order, each once; columns beyond the GDC's own are passed over.

    Raises ManifestError naming the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            return parsed(_lines(file, str(path)), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest {path}: unreadable ({error}), expected a text file. Download it again.") from error


def _lines(file: Iterable[str], where: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if len(line) > _MAX_LINE_CHARACTERS:
            raise ManifestError(f"manifest {where}, line {number}: {len(line):,} characters, expected a file's line.")
        yield line.rstrip("\n")


def parsed(lines: Iterable[str], where: str) -> list[RemoteFile]:
    """Return the files that the lines of a manifest name. `where` is what errors call it."""
    numbered = ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line)
    _, header = next(numbered, (0, []))
    if absent := [name for name in COLUMNS[:4] if header.count(name) != 1]:
        raise ManifestError(
            f"manifest {where}: header {header[:6]}, expected {list(COLUMNS)} once each (state may lack); not so: {absent}. "
            "Download the manifest again."
        )
    at = [header.index(name) for name in COLUMNS if name in header]
    files: dict[str, RemoteFile] = {}
    for number, values in numbered:
        try:
            file = _of_values(values, at, len(header))
        except ManifestError as error:
            raise ManifestError(f"manifest {where}, line {number}: {error}. Nothing was downloaded; correct the line.") from None
        if files.setdefault(file.file_id, file) != file:
            raise ManifestError(
                f"manifest {where}, line {number}: id {file.file_id} with other values than before, expected it once. "
                "Nothing was downloaded; find out which is right."
            )
    return list(files.values())


def _of_values(values: list[str], at: list[int], num_columns: int) -> RemoteFile:
    if len(values) != num_columns:
        raise ManifestError(f"{len(values)} values, expected {num_columns}")
    return checked(*(values[i] for i in at))


def write_manifest(path: Path, files: Iterable[RemoteFile]) -> None:
    """Write a manifest that the GDC's own client reads as well."""
    rows = ((file.file_id, file.file_name, file.md5, str(file.num_bytes), file.state) for file in files)
    path.write_text("".join("\t".join(row) + "\n" for row in (COLUMNS, *rows)), encoding="utf-8")
    sync_file(path)
