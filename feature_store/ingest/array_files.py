"""Arrays in safetensors, .npz and .npy files.

Nothing is ever unpickled, and sizes are held against the file before a value is read.
"""

import ast
import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from feature_store.errors import BagInputError
from feature_store.ingest.patch_arrays import Declared, Opened, declared, refuse_claim

_SAFETENSORS_TYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "U8": "u1",
    "U16": "u2",
    "U32": "u4",
}
_MAX_MEMBERS = 100_000
# Of npy's versions; version 3 differs from 2 in names of fields only, which no plain array has.
_HEADER_LENGTH_BYTES = {1: 2, 2: 4}
_MAX_HEADER_BYTES = 10_000


@contextmanager
def open_safetensors(path: Path, names: tuple[str, ...], attributes: tuple[str, ...]) -> Iterator[Opened]:
    """Yield the tensors of `names`, and the metadata of `attributes`; the format itself holds offsets against the file's size."""
    num_bytes = path.stat().st_size
    with safe_open(path, framework="numpy") as file:
        said = {name: value for name, value in (file.metadata() or {}).items() if name in attributes}
        there = [name for name in file.keys() if name in names]  # noqa: SIM118 - it is no mapping
        yield Opened({name: _tensor(file, name, num_bytes) for name in there}, said)


def _tensor(file: safe_open, name: str, num_bytes: int) -> Declared:
    view = file.get_slice(name)
    kind = view.get_dtype()
    if kind not in _SAFETENSORS_TYPES:
        raise BagInputError(f"{name} is of type {kind}, expected one of {', '.join(_SAFETENSORS_TYPES)}. Convert it to F16.")
    return declared(name, tuple(view.get_shape()), np.dtype(_SAFETENSORS_TYPES[kind]), num_bytes, lambda: file.get_tensor(name))


@contextmanager
def open_npy(path: Path, names: tuple[str, ...], _attributes: tuple[str, ...]) -> Iterator[Opened]:
    """Yield the file's one array under the first of `names`: the file gives it none."""
    with path.open("rb") as stream:
        yield Opened({names[0]: _npy(path.name, stream, path.stat().st_size)}, {})


@contextmanager
def open_npz(path: Path, names: tuple[str, ...] | None, _attributes: tuple[str, ...]) -> Iterator[Opened]:
    """Yield the members of `names` (None: all), without their ending; one is unpacked no further than it says it is long."""
    with ExitStack() as streams:
        archive = streams.enter_context(zipfile.ZipFile(path))
        members = archive.infolist()
        found = [member.filename.removesuffix(".npy") for member in members]
        if len(members) > _MAX_MEMBERS or len(set(found)) != len(found):
            raise BagInputError(f"{len(members)} arrays of {len(set(found))} names, expected at most {_MAX_MEMBERS}, each once.")
        arrays = {
            name: _member(archive, member, name)
            for name, member in zip(found, members, strict=True)
            if names is None or name in names
        }
        yield Opened(arrays, {})


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Declared:
    """Return a member's declaration, read from its first bytes; its values are unpacked when they are asked for."""
    refuse_claim(name, member.file_size, member.compress_size)  # a header may be long, too
    with archive.open(member) as stream:
        header = _npy(name, stream, member.file_size)

    def read() -> NDArray:
        with archive.open(member) as again:
            return _npy(name, again, member.file_size).read()

    return Declared(header.shape, header.dtype, read)


def _npy(name: str, stream: IO[bytes], num_bytes: int) -> Declared:
    """Return the array of an npy stream, whose values begin where the stream stands afterwards."""
    shape, dtype, order = _header(name, stream)
    start = stream.tell()
    wanted = dtype.itemsize * math.prod(shape)

    def read() -> NDArray:
        return np.frombuffer(stream.read(wanted), dtype).reshape(shape, order=order)

    array = declared(name, shape, dtype, num_bytes, read)
    if start + wanted != num_bytes:
        raise BagInputError(f"{name} claims {wanted:,} bytes where {num_bytes - start:,} are stored. Refused.")
    return array


def _header(name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """Return (shape, type, order of the values) as an npy stream has them.

    Not by numpy's own reader, which warns of old headers and raises what Python's tokenizer raises over damaged ones.
    """
    major, _ = np.lib.format.read_magic(stream)
    if major not in _HEADER_LENGTH_BYTES:
        raise BagInputError(f"{name} is of npy version {major}, expected 1 or 2. Save it again.")
    length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES[major]), "little")
    if length > _MAX_HEADER_BYTES:
        raise BagInputError(f"{name} has a header of {length:,} bytes, expected at most {_MAX_HEADER_BYTES:,}. Refused.")
    try:
        said = ast.literal_eval(stream.read(length).decode("latin1").strip())
        shape, descr, is_fortran = said["shape"], said["descr"], said["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError(f"{name} has no npy header ({type(error).__name__})") from error
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{name} has shape {str(shape)[:40]}")
    return shape, np.dtype(np.lib.format.descr_to_dtype(descr)), "F" if is_fortran else "C"
