"""What lies in a landing folder, for whoever is about to write a contract: kinds of files, and names of columns. Never a value.

What belongs here: looking, with little reading. A header that looks like data is not shown, and neither are the names of arrays
or of many files: both may be patients'. What a contract makes of the files is ingest/.
"""

import csv
import gzip
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fastexcel
import h5py
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from feature_store.contract.slide_sources import PICKLED, UNPICKLING
from feature_store.errors import LandingMissingError

_MAX_FILES = 200_000
_MAX_ALIKE = 5  # more files of one ending in a folder, or more folders in one, are shown as one
_HEAD_BYTES = 1 << 20
_MAX_JSON_BYTES = 64 << 20
_TEXT = (".csv", ".tsv", ".txt", ".maf")
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, csv.Error, zipfile.BadZipFile, fastexcel.FastExcelError,
    pa.ArrowException, pl.exceptions.PolarsError, SafetensorError, RecursionError,
)  # fmt: skip
# What a name of a column is not: a number, a date, a text with digits only for letters.
_DATA = re.compile(r"[-+]?[\d.,]+|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}.*")


@dataclass(frozen=True)
class Seen:
    """A file, or several of one ending in one folder: `path` (a glob where there are several), and lines about the first."""

    path: str
    num_files: int
    about: tuple[str, ...]


def survey(landing: Path) -> list[Seen]:
    """Return what there is, by path. Raises LandingMissingError where `landing` is no folder, or holds nothing."""
    paths: list[Path] = []
    for folder, folders, names in os.walk(landing):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        if len(paths) > _MAX_FILES:
            break
    if not paths:
        raise LandingMissingError(f"landing folder {landing}: no files, expected the cohort's sources. Pass the right folder.")
    places = _shared({path.parent.relative_to(landing).parts for path in paths})
    alike: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        alike.setdefault((places[path.parent.relative_to(landing).parts], _ending(path)), []).append(path)
    seen = []
    for (place, ending), group in alike.items():
        is_shown = ending.removesuffix(".gz").removesuffix(".zip") in (*_TEXT, *_READ) and len(group) <= _MAX_ALIKE
        seen += [_seen(place, part, ending) for part in ([[path] for path in group] if is_shown else [group])]
    return sorted(seen, key=lambda one: one.path)


def _shared(folders: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return each folder's place as it is shown: where many lie side by side, a folder per patient, say, `*` stands for them."""
    shown = {folder: folder for folder in folders}
    for depth in range(max(map(len, folders))):
        beside: dict[tuple[str, ...], set[str]] = {}
        for place in shown.values():
            if len(place) > depth:
                beside.setdefault(place[:depth], set()).add(place[depth])
        many = {start for start, names in beside.items() if len(names) > _MAX_ALIKE}
        for folder, place in shown.items():
            if len(place) > depth and place[:depth] in many:
                shown[folder] = (*place[:depth], "*", *place[depth + 1 :])
    return {folder: "/".join(place) for folder, place in shown.items()}


def _seen(place: str, paths: list[Path], ending: str) -> Seen:
    name = paths[0].name if len(paths) == 1 and ending not in _HELD and "*" not in place else f"*{ending}"
    return Seen(f"{place}/{name}" if place else name, len(paths), tuple(_about(paths[0], ending)))


def _about(path: Path, ending: str) -> list[str]:
    if ending in PICKLED:
        return [f"pickled. {UNPICKLING}"]
    try:
        if (plain := ending.removesuffix(".gz").removesuffix(".zip")) in _TEXT:
            return _text_columns(_head(path), plain)
        return _HELD.get(ending, _READ.get(ending, lambda _: []))(path)
    except _UNREADABLE as error:
        return [f"cannot be read: {type(error).__name__}"]


def _ending(path: Path) -> str:
    name = PurePosixPath(path.name.lower())
    return "".join(name.suffixes[-2:]) if name.suffix in {".gz", ".zip"} else name.suffix


def _head(path: Path) -> bytes:
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as stream:
            return stream.read(_HEAD_BYTES)
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.infolist()[0]) as stream:
            return stream.read(_HEAD_BYTES)
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)


def _text_columns(head: bytes, ending: str) -> list[str]:
    said = []
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else it is the cut
            said.append("encoding: not utf-8")
        text = head.decode("cp1252", errors="replace")
    lines = text.splitlines() or [""]
    if lines[0].startswith("#"):
        said.append("comments begin with #")
    line = next((line for line in lines if not line.startswith("#")), "")
    separator = max(",;\t|", key=line.count)
    if separator == "\t":
        return [*said, _shown(line.split("\t"))]
    if ending == ".txt":
        return []  # a report, as a rule
    names = next(csv.reader(io.StringIO(line), delimiter=separator), [])
    return [*said, *([] if separator == "," else [f"separator: {separator!r}"]), _shown(names)]


def _shown(names: list[str]) -> str:
    """Return a line of column names, or that there seem to be none: a value is never shown for a name."""
    if not names or any(not name.strip() or _DATA.fullmatch(name.strip()) for name in names):
        return f"{len(names)} columns; the first line looks like data, or has empty names: not shown"
    return f"{len(names)} columns: {', '.join(names[:60])}{', ...' if len(names) > 60 else ''}"


def _sheets(path: Path) -> list[str]:
    book = fastexcel.read_excel(path)
    return [
        f"sheet {name!r}: {_shown([column.name for column in book.load_sheet(name, n_rows=0).available_columns()])}"
        for name in book.sheet_names
    ]


def _json_keys(path: Path) -> list[str]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        return ["too large to look into"]
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    is_list = isinstance(found, list)
    # the keys of an object of objects may be patients
    records = found if is_list else list(found.values()) if isinstance(found, dict) else []
    if not records or not isinstance(records[0], dict):
        return ["no list of records"]
    return [f"{'a list' if is_list else 'an object'} of {len(records)} records; {_shown(list(records[0]))}"]


def _h5_contents(path: Path) -> list[str]:
    with h5py.File(path, "r") as file:
        lines = []
        for name in list(file)[:8]:
            if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Dataset):
                attributes = ", ".join(file[name].attrs)
                lines.append(f"{name} {file[name].shape} {file[name].dtype}{f'; attributes {attributes}' if attributes else ''}")
        return lines


def _tensors(path: Path) -> list[str]:
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        return [f"{name} {tuple(file.get_slice(name).get_shape())}" for name in names[:8]]


def _archive(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [f"{len(archive.infolist())} arrays, whose names are not shown"]


_READ: dict[str, Callable[[Path], list[str]]] = {
    ".xlsx": _sheets,
    ".xls": _sheets,
    ".json": _json_keys,
    ".parquet": lambda path: [_shown(pq.read_schema(path).names)],
}
# One per slide or case, as a rule: shown as a glob even where there is one.
_HELD: dict[str, Callable[[Path], list[str]]] = {
    ".h5": _h5_contents,
    ".hdf5": _h5_contents,
    ".safetensors": _tensors,
    ".npz": _archive,
}
