"""Decoding the JPEG tiles of a TIFF slide directly, with libjpeg by way of Pillow.

OpenSlide paints every tile through cairo, which takes several times as long as decoding it. What comes out here is the same,
pixel by pixel, and is used only where a look at the slide's own tiles shows that (decoding.py); all else is left to OpenSlide.
"""

import io
import mmap
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# Tags of TIFF 6.0 and its technical note 2.
_TILE_OFFSETS, _TILE_LENGTHS, _JPEG_TABLES = 324, 325, 347
_JPEG, _RGB = 7, 2
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


class JpegTiles:
    """A TIFF slide's levels of JPEG tiles, mapped into memory. Raises ValueError for a file that is none."""

    def __init__(self, path: Path, levels: tuple[tuple[int, int], ...]) -> None:
        try:
            with tifffile.TiffFile(path) as tiff:
                pages = {(page.imagewidth, page.imagelength): page for page in map(_whole, tiff.pages) if _is_plain(page)}
                self._levels = [_Level(pages[size]) for size in levels]
        except (tifffile.TiffFileError, KeyError, OSError, IndexError) as error:
            raise ValueError(f"no TIFF of JPEG tiles ({error})") from error
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return RGB (height, width, 3) from pixel (x, y) of a level. Raises ValueError where tiles are missing or damaged."""
        at = self._levels[level]
        left, top = x // at.tile_w, y // at.tile_h
        across, down = -(-(x + width) // at.tile_w) - left, -(-(y + height) // at.tile_h) - top
        if left + across > at.across or top + down > at.down or min(x, y) < 0:
            raise ValueError("a region beyond the tiles")
        mosaic = np.empty((down * at.tile_h, across * at.tile_w, 3), np.uint8)
        for row in range(down):
            for column in range(across):
                tile = self._tile(at, (top + row) * at.across + left + column)
                mosaic[row * at.tile_h : (row + 1) * at.tile_h, column * at.tile_w : (column + 1) * at.tile_w] = tile
        dx, dy = x - left * at.tile_w, y - top * at.tile_h
        return mosaic[dy : dy + height, dx : dx + width]

    def _tile(self, at: "_Level", index: int) -> NDArray[np.uint8]:
        offset, length = at.offsets[index], at.lengths[index]
        data = self._map[offset : offset + length]
        if length == 0 or not data.startswith(_SOI):
            raise ValueError("a tile that is missing or no JPEG")
        try:
            with Image.open(io.BytesIO(at.head + data[2:]), formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"a damaged tile ({error})") from error
        if pixels.shape != (at.tile_h, at.tile_w, 3):
            raise ValueError(f"a tile of shape {pixels.shape}")
        return pixels


class _Level:
    """Where a level's tiles lie. `head` begins every tile's JPEG: the tables they share, and whether they are RGB or YCbCr."""

    def __init__(self, page: tifffile.TiffPage) -> None:
        self.tile_w, self.tile_h = page.tilewidth, page.tilelength
        self.across, self.down = -(-page.imagewidth // self.tile_w), -(-page.imagelength // self.tile_h)
        self.offsets, self.lengths = page.tags[_TILE_OFFSETS].value, page.tags[_TILE_LENGTHS].value
        # TIFF says in a tag what JPEG readers look for in Adobe's marker: whether colours were transformed.
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([page.photometric != _RGB])
        tables = page.tags[_JPEG_TABLES].value if _JPEG_TABLES in page.tags else b""
        self.head = _SOI + adobe + bytes(tables).removeprefix(_SOI).removesuffix(_EOI)


def _whole(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    return page.aspage() if isinstance(page, tifffile.TiffFrame) else page


def _is_plain(page: tifffile.TiffPage) -> bool:
    """Say whether a page is of 8-bit RGB or YCbCr JPEG tiles, the three channels together."""
    return (
        page.is_tiled
        and page.compression == _JPEG
        and page.photometric in {_RGB, 6}
        and page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
    )
