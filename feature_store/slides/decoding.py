"""Decoding patches: block by block, in the caller's process or in processes of their own, a bounded number of blocks ahead.

Belongs here: pixels out of a slide at a grid's places. Does not belong here: what is made of them.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from feature_store.child_processes import end_with_parent
from feature_store.errors import SlideReadError
from feature_store.slides.grid import Grid, blocks
from feature_store.slides.jpeg_tiles import JpegTiles
from feature_store.slides.slide_file import open_slide
from feature_store.slides.tissue import flattened

# Patches along a block's side: 4 of 256 pixels from a level twice as fine are 12 MiB decoded, which the allocator still reuses.
BLOCK_SIDE = 4
# Blocks ahead of the one in use, for each process: one being made, one waiting.
_AHEAD = 2
# A block with fewer of its places taken than this is read patch by patch.
_DENSE = 0.5


@dataclass(frozen=True, eq=False)
class _Block:
    """Patches of one block of a slide, as a process is told: `xy` (n, 2) their corners at level 0."""

    path: Path
    level: int
    downsample: float
    level_size_px: int
    size_px: int
    xy: NDArray[np.int32]


class Decoders:
    """Processes that decode patches, kept from slide to slide. With none, patches are decoded where they are asked for."""

    def __init__(self, num_processes: int) -> None:
        self._num = num_processes
        self._pool = self._started() if num_processes else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def patches(self, path: Path, grid: Grid, downsample: float) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        """Yield (indices into the grid (n,), RGB patches (n, size, size, 3)), block by block; every patch once.

        The order and the pixels do not depend on the number of processes. `downsample`: of the grid's level. Raises
        SlideReadError for pixels that OpenSlide cannot decode, also where that kills a process.
        """
        parts = blocks(grid, BLOCK_SIDE)
        tasks = [_Block(path, grid.level, downsample, grid.level_size_px, grid.size_px, grid.xy[part]) for part in parts]
        if self._pool is None:
            yield from zip(parts, map(_decoded, tasks), strict=True)
            return
        ahead: deque[Future[NDArray[np.uint8]]] = deque()
        try:
            waiting = iter(tasks)
            for part in parts:
                while len(ahead) < _AHEAD * self._num and (task := next(waiting, None)) is not None:
                    ahead.append(self._pool.submit(_decoded, task))
                yield part, ahead.popleft().result()
        except BrokenProcessPool as error:
            self._pool = self._started()
            raise SlideReadError("a decoder died over it, expected pixels. The file is damaged, or memory ran out.") from error
        finally:
            for future in ahead:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        # spawned, since a forked process would hold the locks of its parent's threads
        return ProcessPoolExecutor(self._num, multiprocessing.get_context("spawn"), initializer=end_with_parent)


def _decoded(block: _Block) -> NDArray[np.uint8]:
    try:
        return _read(_reader(block.path), block)
    except (openslide.OpenSlideError, OSError) as error:
        _reader.cache_clear()  # after an error OpenSlide refuses every further call
        why = str(error).replace(f"Reading {block.path}: ", "").replace(str(block.path), "the file")
        raise SlideReadError(f"pixels that do not decode ({why}), expected a whole file. Fetch it again.") from error


class _Reader:
    """A slide that stays open, read by way of its JPEG tiles where the first region read comes out equal both ways."""

    def __init__(self, path: Path) -> None:
        self._slide = open_slide(path)
        try:
            self._tiles: JpegTiles | None = JpegTiles(path, self._slide.level_dimensions)
        except ValueError:
            self._tiles = None
        self._is_compared = False

    def region(self, corner: NDArray[np.int32], level: int, width: int, height: int) -> Image.Image:
        """Return RGB pixels of a level from level-0 pixel `corner` on."""
        if self._tiles is not None:
            try:
                x, y = np.rint(corner / self._slide.level_downsamples[level]).astype(int).tolist()
                pixels = self._tiles.read(level, x, y, width, height)
                if self._is_compared:
                    return Image.fromarray(pixels)
            except ValueError:  # OpenSlide knows what to do about missing tiles, or says what is damaged
                return self._painted(corner, level, width, height)
            painted = self._painted(corner, level, width, height)
            self._is_compared = np.array_equal(pixels, np.asarray(painted))
            self._tiles = self._tiles if self._is_compared else None
            return painted
        return self._painted(corner, level, width, height)

    def _painted(self, corner: NDArray[np.int32], level: int, width: int, height: int) -> Image.Image:
        return flattened(self._slide.read_region((int(corner[0]), int(corner[1])), level, (width, height)))


@lru_cache(maxsize=2)
def _reader(path: Path) -> _Reader:
    return _Reader(path)


def _read(reader: _Reader, block: _Block) -> NDArray[np.uint8]:
    size, out_size = block.level_size_px, block.size_px
    corner = block.xy.min(axis=0)
    offsets = np.rint((block.xy - corner) / block.downsample).astype(int)
    width, height = (offsets.max(axis=0) + size).tolist()
    if len(offsets) * size * size < _DENSE * width * height:
        return np.concatenate([_read(reader, replace(block, xy=block.xy[i : i + 1])) for i in range(len(offsets))])
    region = reader.region(corner, block.level, width, height)
    factor, rest = divmod(size, out_size)
    if rest == 0 and not (offsets % factor).any():
        pixels = np.asarray(region.reduce(factor) if factor > 1 else region)
        corners = offsets // factor
        return np.stack([pixels[y : y + out_size, x : x + out_size] for x, y in corners.tolist()])
    boxes = [(x, y, x + size, y + size) for x, y in offsets.tolist()]
    return np.stack([np.asarray(region.resize((out_size, out_size), Image.Resampling.BILINEAR, box)) for box in boxes])
