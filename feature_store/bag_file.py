"""Writing bag shards, and reading a shard's index back.

Belongs here: the shard's name, metadata and publication. Does not belong here: what a bag is and may hold (bag_record.py),
Parquet's bytes (bag_parquet.py), reading values for training (bag_reader.py), the page headers (bag_page.py), source layouts such
as CLAM's or TRIDENT's (ingest/), the table patch_bags. The format is specified in docs/bags.md.
"""

import hashlib
import json
import logging
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.bag_page import bag_file_error, embedding_column, map_shard, read_footer, walk_embedding_page
from feature_store.bag_parquet import ShardFile
from feature_store.bag_record import (
    BagRecord,
    EncoderInfo,
    SlideBag,
    bag_input_error,
    checked_arrays,
)
from feature_store.durable import sync_file, sync_folder
from feature_store.errors import BagChecksumError, BagFileError, BagInputError, StoreWriteError
from feature_store.read_ahead import read_ahead

FORMAT = "mice-patch-bag/1"
# What a slide's entry in the metadata and its BagRecord have in common.
_RECORDED = ("slide_id", "case_id", "num_patches", "bag_sha256", "source_sha256")
_SMALL_COLUMNS = ("slide_id", "case_id", "x", "y")
_MOST_SLIDES = 1_024  # of a shard
_VERIFIERS = 2
_HANDFUL, _HANDFUL_BYTES = 64, 2**20
_ROWS_A_RUN = 1_024
_logger = logging.getLogger(__name__)


def write_shards(
    directory: Path,
    bags: Iterable[SlideBag],
    encoder: EncoderInfo,
    *,
    max_shard_bytes: int = 2**30,
    on_rejected: Callable[[SlideBag, BagInputError], None] | None = None,
) -> list[BagRecord]:
    """Write bags, in the order given, into shards of about `max_shard_bytes` or 1,024 slides and return one record per bag.

    The iterable runs in a thread of its own, the checks and `on_rejected` in another, each one bag ahead of what comes after, or
    a handful of small ones: the next but one slide is read while the next is checked and converted and one is written.
    A bag becomes durable only when its
    shard is renamed into place. The same bags under the same limit give the same names and, with the same zstd, the same bytes;
    a sound shard that is there already is kept. On any failure the unfinished shard is removed; finished ones stay, and a second
    run finds them again.
    A bag that cannot be stored raises BagInputError, or is handed to `on_rejected` and left out. A written shard that
    does not read back as it must raises BagFileError; a disk that takes no more, StoreWriteError.
    """
    records: list[BagRecord] = []
    shard: _OpenShard | None = None
    try:
        offered = read_ahead(_handfuls(iter(bags)), 1)
        with closing(offered), closing(read_ahead(_handfuls(_checked(_each(offered), encoder, on_rejected)), 1)) as checked:
            for bag in _each(checked):
                if shard is not None and shard.is_full(bag, max_shard_bytes):
                    records += shard.publish()
                    shard = None
                if shard is None:
                    shard = _OpenShard(directory, encoder)
                shard.add(bag)
                del bag  # the name would otherwise hold this slide while the next but one is read
        if shard is not None:
            records += shard.publish()
    finally:
        if shard is not None:
            shard.discard()
    return records


@dataclass(frozen=True)
class _Checked:
    """A bag's slide as the shard's metadata has it, and its arrays as the file holds them."""

    slide: dict[str, object]
    embedding: npt.NDArray[np.float16]
    xy: npt.NDArray[np.int32]


_Bag = TypeVar("_Bag", SlideBag, _Checked)


def _handfuls(bags: Iterator[_Bag]) -> Iterator[list[_Bag]]:
    """Gather small bags, which would take longer to hand from thread to thread than to write; a large one is alone.

    Where making one fails, those before it are handed over first.
    """
    handful: list[_Bag] = []
    num_bytes = 0
    try:
        for bag in bags:
            handful.append(bag)
            num_bytes += bag.embedding.nbytes
            del bag
            if num_bytes >= _HANDFUL_BYTES or len(handful) >= _HANDFUL:
                yield handful
                handful, num_bytes = [], 0
    except Exception:
        if handful:
            yield handful
        raise
    if handful:
        yield handful


def _each(handfuls: Iterator[list[_Bag]]) -> Iterator[_Bag]:
    """Yield the bags one by one, none of which is held here once it has been handed over."""
    for handful in handfuls:
        handful.reverse()
        while handful:
            yield handful.pop()


def _checked(
    bags: Iterable[SlideBag], encoder: EncoderInfo, on_rejected: Callable[[SlideBag, BagInputError], None] | None
) -> Iterator[_Checked]:
    slide_ids: set[str] = set()
    for bag in bags:
        if bag.slide_id in slide_ids:
            raise bag_input_error(f"Slide {bag.slide_id!r}", "offered twice", "once")
        slide_ids.add(bag.slide_id)
        try:
            embedding, xy = checked_arrays(bag, encoder)
        except BagInputError as error:
            if on_rejected is None:
                raise
            on_rejected(bag, error)
            continue
        slide = {
            "slide_id": bag.slide_id,
            "case_id": bag.case_id,
            "num_patches": len(embedding),
            "bag_sha256": hashlib.sha256(embedding.data).hexdigest(),
            "xy_sha256": hashlib.sha256(xy.data).hexdigest(),
            "source_sha256": bag.source_sha256,
            "patch_size_px": int(bag.patch_size_px),
            "mpp": None if bag.mpp is None else float(bag.mpp),
            "magnification": None if bag.magnification is None else float(bag.magnification),
        }
        yield _Checked(slide, embedding, xy)
        del bag, embedding, xy  # else they would be held while the next are made


def read_shard_index(path: Path, *, verify: bool = False, is_hashed: bool = True) -> list[BagRecord]:
    """Return the shard's records in row-group order, rebuilt from its footer, metadata and page headers alone.

    With `verify`, every page is read and its checksum compared, and if `is_hashed` its values' hash. Raises BagFileError for a
    shard that is damaged or not laid out as docs/bags.md demands, BagChecksumError (naming slide and case) for changed bytes.
    """
    footer = read_footer(path)
    metadata = footer.metadata or {}
    try:
        encoder, slides = json.loads(metadata[b"mice.encoder"]), json.loads(metadata[b"mice.slides"])
        is_named = metadata[b"mice.content_sha256"].decode() == _content_sha256(encoder, slides)
    except (KeyError, TypeError, ValueError) as error:
        raise bag_file_error(path.name, f"metadata that does not parse ({error!r})", f"{FORMAT} metadata") from error
    if not is_named or len(slides) != footer.num_row_groups:
        found = f"metadata of {len(slides)} slides over {footer.num_row_groups} row groups"
        raise bag_file_error(path.name, found, "one row group per slide and a matching content hash")
    column = embedding_column(footer, path.name)
    with closing(map_shard(path)) as mapping:

        def record(row_group: int, xy: npt.NDArray[np.int32] | None) -> BagRecord:
            slide = slides[row_group]
            which = f"Bag of slide {slide['slide_id']} (case {slide['case_id']}) in {path.name}"
            page = walk_embedding_page(mapping, footer, row_group, which, column)
            if (page.num_values // page.dim, page.dim) != (slide["num_patches"], encoder["dim"]):
                raise bag_file_error(which, f"{page.num_values} values", f"{slide['num_patches']} x {encoder['dim']}")
            if xy is not None:
                num_level_bytes = page.values_offset_bytes - page.body_offset_bytes
                body = memoryview(_bytes_at(path, page.body_offset_bytes, page.body_bytes))
                values = body[num_level_bytes:]
                is_sound = zlib.crc32(body) == page.crc32
                hashes = [hashlib.sha256(part).hexdigest() for part in ((values, xy.data) if is_hashed else ())]
                if not is_sound or hashes not in ([], [slide["bag_sha256"], slide["xy_sha256"]]):
                    raise checksum_error(which)
            return BagRecord(
                shard=path.name,
                encoder=encoder["name"],
                offset_bytes=page.values_offset_bytes,
                dim=page.dim,
                page_crc32=page.crc32,
                **{key: slide[key] for key in _RECORDED},
            )

        def records(row_groups: range) -> list[BagRecord]:
            if not verify:
                return [record(row_group, None) for row_group in row_groups]
            sizes = [footer.row_group(row_group).num_rows for row_group in row_groups]
            parts = np.split(_coordinates(path, row_groups, footer), np.cumsum(sizes)[:-1])
            return [record(row_group, xy) for row_group, xy in zip(row_groups, parts, strict=True)]

        with ThreadPoolExecutor(_VERIFIERS if verify else 1) as pool:  # hashing lets other threads run
            return list(chain.from_iterable(pool.map(records, _runs(footer))))


def _runs(footer: pq.FileMetaData) -> Iterator[range]:
    """Yield the row groups in runs of a few rows in all: what is read for each run is the same work for one as for many."""
    begin, num_rows = 0, 0
    for row_group in range(footer.num_row_groups):
        num_rows += footer.row_group(row_group).num_rows
        if num_rows >= _ROWS_A_RUN:
            yield range(begin, row_group + 1)
            begin, num_rows = row_group + 1, 0
    if begin < footer.num_row_groups:
        yield range(begin, footer.num_row_groups)


def _bytes_at(path: Path, offset: int, num_bytes: int) -> bytearray:
    """Return bytes of a file, read and not mapped: what is mapped stays in this process's memory, a whole shard in the end."""
    data = bytearray(num_bytes)
    with path.open("rb") as file:
        file.seek(offset)
        if file.readinto(data) != num_bytes:
            raise bag_file_error(path.name, f"an end before byte {offset + num_bytes}", "a whole page")
    return data


def read_coordinates(path: Path, row_groups: Sequence[int], footer: pq.FileMetaData) -> npt.NDArray[np.int32]:
    """Return x and y of row groups, one after the other, as int32 (N, 2), level-0 pixels; BagFileError for a wrong page checksum.

    `footer` is the file's: reading it for each of a shard's slides would take longer than all else where they are small and many.
    """
    try:
        with pq.ParquetFile(path, metadata=footer, page_checksum_verification=True) as file:
            # The identifiers come along only for their checksums: SQL readers go by them and check none.
            table = file.read_row_groups(row_groups, columns=list(_SMALL_COLUMNS))
        return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    except (OSError, KeyError, pa.ArrowException) as error:
        found = f"coordinates pyarrow refuses ({error})"
        which = f"row group {', '.join(map(str, row_groups))}"
        raise bag_file_error(f"{path.name}, {which}", found, f"sound columns {', '.join(_SMALL_COLUMNS)}") from error


def _coordinates(path: Path, row_groups: range, footer: pq.FileMetaData) -> npt.NDArray[np.int32]:
    """Return `read_coordinates` of a run, whose error names the row group that is unsound."""
    try:
        return read_coordinates(path, row_groups, footer)
    except BagFileError:
        for row_group in row_groups:
            read_coordinates(path, [row_group], footer)
        raise


def checksum_error(which: str) -> BagChecksumError:
    """Return the error for a bag whose bytes changed since it was written."""
    return BagChecksumError(
        f"{which}: bytes of another checksum, expected those written. Restore the shard or ingest the slide again."
    )


class _OpenShard:
    """A shard being written under a temporary name: add bags, then publish once; discard is safe at any time."""

    def __init__(self, directory: Path, encoder: EncoderInfo) -> None:
        self._encoder = asdict(encoder)
        self._slides: list[dict[str, object]] = []
        self._directory = directory
        self._temporary = directory / f".{uuid.uuid4().hex}.parquet.tmp"
        self.num_bytes = 0
        with self._writing():
            directory.mkdir(parents=True, exist_ok=True)
            self._file = ShardFile(self._temporary, encoder.dim)

    def add(self, bag: _Checked) -> None:
        """Append one row group."""
        with self._writing():
            self._file.add(str(bag.slide["slide_id"]), str(bag.slide["case_id"]), bag.xy, bag.embedding)
        self.num_bytes += bag.embedding.nbytes
        self._slides.append(bag.slide)

    def is_full(self, bag: _Checked, max_bytes: int) -> bool:
        """Say whether one more bag would be too much: whoever reads a shard reads the whole footer, of all its slides."""
        return self.num_bytes + bag.embedding.nbytes > max_bytes or len(self._slides) >= _MOST_SLIDES

    def publish(self) -> list[BagRecord]:
        """Finish the file, read it back in full, give it its content's name, and return its records."""
        content_sha256 = _content_sha256(self._encoder, self._slides)
        metadata = {
            "mice.format": FORMAT,
            "mice.encoder": _canonical(self._encoder),
            "mice.slides": _canonical(self._slides),
            "mice.content_sha256": content_sha256,
        }
        with self._writing():
            self._file.finish(metadata)
            sync_file(self._temporary)
        read_shard_index(self._temporary, verify=True, is_hashed=False)  # the checksums are of the arrays that were hashed
        path = self._directory / f"{content_sha256[:32]}.parquet"
        try:
            # Another version may have laid out the same content elsewhere, so the records come from the file kept.
            records = read_shard_index(path, verify=True) if path.exists() else None
        except BagFileError:
            _logger.warning("%s is damaged and is replaced by the shard just written", path)
            records = None
        if records is None:
            # A rename, never a rewrite in place: a reader may have the old file mapped.
            with self._writing():
                self._temporary.replace(path)
                sync_folder(self._directory)
            records = read_shard_index(path)
        _logger.info("shard %s: %d slides, %d bytes of embeddings", path.name, len(records), self.num_bytes)
        self.discard()
        return records

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        with suppress(OSError):  # what stopped the writing stops the last bytes too
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a disk's refusal into StoreWriteError, and leave no temporary file behind."""
        try:
            yield
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            raise StoreWriteError(
                f"bag folder {self._directory}: cannot be written ({' '.join(str(error).split())}), expected a writable disk "
                "with space. Finished shards stay; free some space or mend the permissions, then run again."
            ) from error


def _canonical(value: object) -> str:
    """Return the one JSON text that hashing and the file's metadata both use."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _content_sha256(encoder: object, slides: object) -> str:
    """Return the shard's content address: over the encoder and each slide's metadata and hashes, in file order."""
    return hashlib.sha256(_canonical({"format": FORMAT, "encoder": encoder, "slides": slides}).encode()).hexdigest()
