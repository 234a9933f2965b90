"""Synthetic whole-slide images for tests, benchmarks and faults: a pyramid of JPEG tiles in a tiled TIFF, as scanners write it.

Belongs here: writing such files, quickly and small on disk whatever their size in pixels: a few tiles are encoded, and many
places of the picture name the same one. No patient is in them.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

TILE = 256
_GLASS = (243, 242, 244)
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_NUM_KINDS = 24


@dataclass(frozen=True)
class Blob:
    """A piece of tissue: an ellipse, in parts of the slide's width and height."""

    x: float
    y: float
    rx: float
    ry: float


PIECES = (Blob(0.32, 0.4, 0.22, 0.28), Blob(0.72, 0.62, 0.18, 0.25))


def tissue_tile(rng: np.random.Generator, size: int = TILE) -> NDArray[np.uint8]:
    """Return an H&E-like picture (size, size, 3): pink ground, and purple nuclei whose number differs from tile to tile."""
    ground = ndimage.gaussian_filter(rng.normal(size=(size, size)), 6, mode="wrap")
    ground /= np.abs(ground).max()
    eosin = np.array([226, 160, 192]) + ground[..., None] * np.array([14, 26, 18])
    rows, columns = np.mgrid[:size, :size]
    nuclei = np.zeros((size, size))
    for _ in range(int(rng.integers(size // 16, size // 4))):
        y, x, ry, rx = *rng.uniform(0, size, 2), *rng.uniform(3, 8, 2)
        nuclei = np.maximum(nuclei, ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1)
    nuclei = ndimage.gaussian_filter(nuclei, 0.8)[..., None]
    colour = eosin * (1 - nuclei) + np.array([92, 62, 140]) * nuclei + rng.normal(0, 3, (size, size, 1))
    return np.clip(colour, 0, 255).astype(np.uint8)


def write_pyramid(
    path: Path,
    width: int,
    height: int,
    *,
    mpp: float | None = 0.25,
    pieces: tuple[Blob, ...] = PIECES,
    downsamples: tuple[int, ...] = (1, 4, 16),
    seed: int = 0,
) -> Path:
    """Write a tiled TIFF with tissue where `pieces` are; `mpp` None leaves the resolution out. Levels from 16 on are drawn."""
    rng = np.random.default_rng(seed)
    kinds = [_jpeg(tissue_tile(rng)) for _ in range(_NUM_KINDS)]
    glass = _jpeg(np.full((TILE, TILE, 3), _GLASS, np.uint8))
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 0))
        places = [_put(file, data) for data in (*kinds, glass)]
        link = 4
        for downsample in downsamples:
            level_w, level_h = -(-width // downsample), -(-height // downsample)
            across, down = -(-level_w // TILE), -(-level_h // TILE)
            if downsample < 16:
                is_tissue = _drawn(across, down, pieces, across * TILE / level_w, down * TILE / level_h)
                choice = np.where(is_tissue, rng.integers(_NUM_KINDS, size=is_tissue.shape), _NUM_KINDS).ravel()
                tiles = [places[index] for index in choice]
            else:
                full = _drawn(across * TILE, down * TILE, pieces, across * TILE / level_w, down * TILE / level_h)
                picture = np.where(full[..., None], np.array([200, 130, 175]), np.array(_GLASS)).astype(np.uint8)
                tiles = [
                    _put(file, _jpeg(picture[y : y + TILE, x : x + TILE]))
                    for y in range(0, down * TILE, TILE)
                    for x in range(0, across * TILE, TILE)
                ]
            link = _directory(file, link, (level_w, level_h), tiles, mpp and mpp * downsample, is_reduced=downsample > 1)
    return path


def _drawn(width: int, height: int, pieces: tuple[Blob, ...], over_x: float, over_y: float) -> NDArray[np.bool_]:
    """Return (height, width): which pixels' middles lie in a piece; `over_*`: how far the tiles reach beyond the picture."""
    x = ((np.arange(width) + 0.5) / width * over_x)[None]
    y = ((np.arange(height) + 0.5) / height * over_y)[:, None]
    inside = [((x - blob.x) / blob.rx) ** 2 + ((y - blob.y) / blob.ry) ** 2 < 1 for blob in pieces]
    return np.any(inside, axis=0) if inside else np.zeros((height, width), bool)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80)
    return data.getvalue()


def _put(file: io.BufferedWriter, data: bytes) -> tuple[int, int]:
    place = file.tell()
    file.write(data + b"\0" * (len(data) % 2))  # a directory must begin at an even place
    return place, len(data)


def _directory(
    file: io.BufferedWriter,
    link: int,
    size: tuple[int, int],
    tiles: list[tuple[int, int]],
    mpp: float | None,
    *,
    is_reduced: bool,
) -> int:
    """Write an image file directory (TIFF 6.0) and point the one before to it; return where this one's own pointer lies."""
    offsets = _put(file, struct.pack(f"<{len(tiles)}I", *(place for place, _ in tiles)))[0]
    lengths = _put(file, struct.pack(f"<{len(tiles)}I", *(length for _, length in tiles)))[0]
    bits = _put(file, struct.pack("<3H", 8, 8, 8))[0]
    entries = [
        (254, _LONG, 1, int(is_reduced)),
        (256, _LONG, 1, size[0]),
        (257, _LONG, 1, size[1]),
        (258, _SHORT, 3, bits),
        (259, _SHORT, 1, 7),  # JPEG
        (262, _SHORT, 1, 6),  # YCbCr
        (277, _SHORT, 1, 3),
        (284, _SHORT, 1, 1),
        (322, _SHORT, 1, TILE),
        (323, _SHORT, 1, TILE),
        (324, _LONG, len(tiles), offsets if len(tiles) > 1 else tiles[0][0]),
        (325, _LONG, len(tiles), lengths if len(tiles) > 1 else tiles[0][1]),
        (530, _SHORT, 2, 2 | 2 << 16),  # Pillow halves the colour both ways
    ]
    if mpp:
        dots = _put(file, struct.pack("<2I", round(1e7 / mpp), 1000))[0]
        entries += [(282, _RATIONAL, 1, dots), (283, _RATIONAL, 1, dots), (296, _SHORT, 1, 3)]  # per centimetre
    entries.sort()
    start = file.tell()
    file.write(struct.pack("<H", len(entries)))
    file.writelines(struct.pack("<HHII", *entry) for entry in entries)
    pointer = file.tell()
    file.write(struct.pack("<I", 0))
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(0, io.SEEK_END)
    return pointer
