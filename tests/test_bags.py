import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.bag_file import read_shard_index, write_shards
from feature_store.bag_page import map_shard, read_footer, walk_embedding_page
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord, EncoderInfo, SlideBag
from feature_store.errors import BagChecksumError, BagFileError, BagInputError

DIM = 24
ENCODER = EncoderInfo(name="test-encoder", weight_sha256="ab" * 32, dim=DIM, normalisation="imagenet")
REQUIRED_LIST = pa.list_(pa.field("element", pa.float16(), nullable=False), DIM)


def make_bag(number: int, num_patches: int = 50, dim: int = DIM, **changes) -> SlideBag:
    rng = np.random.default_rng(number)
    bag = SlideBag(
        slide_id=f"slide-{number:03}",
        case_id=f"TCGA-AA-{number:04}",
        xy=rng.integers(0, 100_000, size=(num_patches, 2), dtype=np.int32),
        embedding=rng.normal(size=(num_patches, dim)).astype(np.float32),
        source_sha256=f"{number:064x}",
        patch_size_px=256,
        mpp=0.5,
        magnification=None,
    )
    return replace(bag, **changes)


def stored(bag: SlideBag) -> np.ndarray:
    return bag.embedding.astype(np.float16)


def write_foreign(path: Path, num_rows: int = 40, element_type=REQUIRED_LIST, *, is_nullable=False, **options) -> Path:
    """A file of another writer's making: a bag's layout except for what the options change."""
    values = np.random.default_rng(0).normal(size=(num_rows, DIM)).astype(np.float16)
    array = pa.array(list(values.astype(float)), type=element_type)
    schema = pa.schema([pa.field("embedding", element_type, nullable=is_nullable)])
    defaults = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(pa.Table.from_arrays([array], schema=schema), path, **{**defaults, **options})
    return path


def open_bag_handles(directory: Path) -> list[str]:
    """Descriptors and mappings of this process that point into the directory."""
    targets = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [line for line in targets + Path("/proc/self/maps").read_text().splitlines() if str(directory) in line]


def flip_bit(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.fixture
def bags() -> list[SlideBag]:
    return [make_bag(number, num_patches=30 + 7 * number) for number in range(12)]


@pytest.fixture
def records(tmp_path, bags) -> list[BagRecord]:
    return write_shards(tmp_path, bags, ENCODER, max_shard_bytes=12_000)


def test_round_trip_of_every_way_to_read(tmp_path, bags, records):
    assert len({record.shard for record in records}) > 2
    assert len({path.name for path in tmp_path.iterdir()} - {record.shard for record in records}) == 0
    rng = np.random.default_rng(1)
    with BagReader(tmp_path, max_open_shards=2) as reader:
        for bag, record in zip(bags, records, strict=True):
            expected = stored(bag)
            assert (record.slide_id, record.case_id, record.encoder) == (bag.slide_id, bag.case_id, ENCODER.name)
            assert (record.num_patches, record.dim) == expected.shape
            np.testing.assert_array_equal(reader.read(record), expected)
            np.testing.assert_array_equal(reader.read(record, verify=True), expected)
            np.testing.assert_array_equal(reader.window(record, 5, 20), expected[5:25])
            np.testing.assert_array_equal(reader.coordinates(record), bag.xy)
            assert reader.coordinates(record).dtype == np.int32
            indices = rng.integers(0, len(expected), size=40)
            np.testing.assert_array_equal(reader.rows(record, indices), expected[np.sort(indices)])
            assert reader.window(record, len(expected), 0).shape == (0, DIM)
            assert reader.rows(record, np.array([], dtype=np.int64)).shape == (0, DIM)


def test_offsets_point_at_the_values_whether_odd_or_even(tmp_path, bags, records):
    assert {record.offset_bytes % 2 for record in records} == {0, 1}
    for bag, record in zip(bags, records, strict=True):
        data = (tmp_path / record.shard).read_bytes()
        size_bytes = record.num_patches * record.dim * 2
        assert data[record.offset_bytes : record.offset_bytes + size_bytes] == stored(bag).tobytes()


def test_out_is_filled_and_returned_as_its_first_rows(tmp_path, bags, records):
    out = np.full((200, DIM), np.nan, dtype=np.float16)
    with BagReader(tmp_path) as reader:
        for bag, record in zip(bags, records, strict=True):
            for method, arguments, expected in (
                (reader.read, (), stored(bag)),
                (reader.window, (3, 10), stored(bag)[3:13]),
                (reader.rows, (np.array([9, 2]),), stored(bag)[[2, 9]]),
            ):
                got = method(record, *arguments, out=out)
                assert np.shares_memory(got, out)
                np.testing.assert_array_equal(got, expected)
                np.testing.assert_array_equal(out[: len(expected)], expected)


def test_copies_outlive_the_reader_and_are_aligned(tmp_path, bags, records):
    with BagReader(tmp_path, max_open_shards=1) as reader:
        arrays = [reader.read(record) for record in records]
    for bag, array in zip(bags, arrays, strict=True):
        assert array.flags.aligned
        assert array.flags.writeable
        np.testing.assert_array_equal(array, stored(bag))


def test_sql_and_data_frames_read_the_same_values(tmp_path, bags, records):
    shards = [str(tmp_path / name) for name in dict.fromkeys(record.shard for record in records)]
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT case_id, x, y, embedding FROM read_parquet($shards) WHERE slide_id = $slide",
            {"shards": shards, "slide": bags[7].slide_id},
        ).fetchall()
        counts = connection.execute("SELECT slide_id, count(*) FROM read_parquet($shards) GROUP BY 1", {"shards": shards})
        assert dict(counts.fetchall()) == {record.slide_id: record.num_patches for record in records}
    assert {row[0] for row in rows} == {bags[7].case_id}
    np.testing.assert_array_equal(np.array([row[1:3] for row in rows]), bags[7].xy)
    np.testing.assert_array_equal(np.array([row[3] for row in rows], dtype=np.float16), stored(bags[7]))
    frame = pl.read_parquet(shards).filter(pl.col("slide_id") == bags[2].slide_id)
    assert frame.schema["embedding"] == pl.Array(pl.Float16, DIM)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), stored(bags[2]))
    table = pq.read_table(shards[0], filters=[("slide_id", "=", bags[0].slide_id)], page_checksum_verification=True)
    assert table.schema.field("embedding").type == REQUIRED_LIST
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), stored(bags[0]))


def test_identifiers_have_statistics_to_skip_row_groups_and_embeddings_none(tmp_path, bags, records):
    footer = read_footer(tmp_path / records[0].shard)
    group = footer.row_group(0)
    chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert chunks["slide_id"].statistics.min == chunks["slide_id"].statistics.max == bags[0].slide_id
    assert (chunks["case_id"].has_dictionary_page, chunks["x"].compression) == (True, "ZSTD")
    assert not chunks["embedding.list.element"].is_stats_set
    assert chunks["embedding.list.element"].compression == "UNCOMPRESSED"


def test_same_input_gives_the_same_names_and_bytes(tmp_path, bags):
    first = write_shards(tmp_path / "a", bags, ENCODER, max_shard_bytes=12_000)
    second = write_shards(tmp_path / "b", iter(bags), ENCODER, max_shard_bytes=12_000)
    assert first == second
    for name in {record.shard for record in first}:
        assert len(name) == 32 + len(".parquet")
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"slide_id": "other"},
        {"case_id": "other"},
        {"xy": np.zeros((50, 2), dtype=np.int32)},
        {"embedding": np.zeros((50, DIM), dtype=np.float32)},
        {"source_sha256": "0"},
        {"patch_size_px": 512},
        {"mpp": 0.25},
        {"magnification": 20.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_change_of_content_changes_the_name(tmp_path, changes):
    plain, changed = ([make_bag(1)], [make_bag(1, **changes)])
    names = {write_shards(tmp_path, bags, ENCODER)[0].shard for bags in (plain, changed)}
    names.add(write_shards(tmp_path, plain, replace(ENCODER, weight_sha256="cd" * 32))[0].shard)
    assert len(names) == 3


def test_an_existing_shard_is_kept_and_a_damaged_one_replaced(tmp_path, bags):
    [record, *_] = write_shards(tmp_path, bags, ENCODER)
    path = tmp_path / record.shard
    inode, content = path.stat().st_ino, path.read_bytes()
    write_shards(tmp_path, bags, ENCODER)
    assert path.stat().st_ino == inode
    flip_bit(path, record.offset_bytes + 11, 3)
    write_shards(tmp_path, bags, ENCODER)
    assert path.stat().st_ino != inode
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == [record.shard]


def test_index_rebuilds_the_records(tmp_path, records):
    names = dict.fromkeys(record.shard for record in records)
    assert [record for name in names for record in read_shard_index(tmp_path / name)] == records
    assert [record for name in names for record in read_shard_index(tmp_path / name, verify=True)] == records


def test_float16_input_is_stored_bit_for_bit_and_views_are_accepted(tmp_path):
    wide = np.random.default_rng(3).normal(size=(60, 2 * DIM)).astype(np.float16)
    wide[0, 0], wide[1, 1], wide[2, 2] = 65_504, -0.0, 6e-8
    bag = make_bag(0, embedding=wide[::2, :DIM], xy=np.ones((30, 2), dtype=np.int64))
    [record] = write_shards(tmp_path, [bag], ENCODER)
    with BagReader(tmp_path) as reader:
        assert reader.read(record).tobytes() == wide[::2, :DIM].tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_page_size": 512, "write_batch_size": 8}, "a first page of"),
        ({"max_rows_per_page": 10}, "a first page of"),
        ({"use_dictionary": True}, "dictionary page"),
        ({"compression": "zstd"}, "compressed as ZSTD"),
        ({"compression": "snappy"}, "compressed as SNAPPY"),
        ({"is_nullable": True}, "definition level 2"),
        ({"element_type": pa.list_(pa.float16(), DIM)}, "definition level 2"),
        ({"element_type": pa.list_(pa.field("element", pa.float32(), nullable=False), DIM)}, "of type"),
        ({"element_type": pa.list_(pa.field("element", pa.float16(), nullable=False))}, "of type"),
        ({"column_encoding": {"embedding.list.element": "BYTE_STREAM_SPLIT"}}, "encoding 9"),
        ({"data_page_version": "2.0"}, "page of type 3"),
        ({"write_page_checksum": False}, "without checksum"),
        ({"row_group_size": 30}, None),
        ({}, None),
    ],
)
def test_page_walk_refuses_other_layouts(tmp_path, options, message):
    path = write_foreign(tmp_path / "foreign.parquet", **options)
    footer, mapping = read_footer(path), map_shard(path)
    if message is None:
        page = walk_embedding_page(mapping, footer, 0, "foreign")
        expected = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float16)[: page.num_values // DIM]
        assert mapping[page.values_offset_bytes :].startswith(expected.tobytes())
    else:
        with pytest.raises(BagFileError, match=message):
            walk_embedding_page(mapping, footer, 0, "foreign")
    with pytest.raises(BagFileError, match="metadata"):
        read_shard_index(path)
    mapping.close()


def test_page_walk_refuses_a_file_without_embeddings(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(BagFileError, match=r"columns x, expected one embedding\.list\.element"):
        walk_embedding_page(map_shard(tmp_path / "other.parquet"), read_footer(tmp_path / "other.parquet"), 0, "other.parquet")


def test_a_damaged_page_header_never_moves_the_offset(tmp_path, records):
    """Whatever one byte of a header or of the levels' lengths becomes: refused, or found at the same place."""
    path = tmp_path / records[0].shard
    footer, sound = read_footer(path), path.read_bytes()
    with_footer = walk_embedding_page(map_shard(path), footer, 0, "bag")
    begin = footer.row_group(0).column(4).data_page_offset
    rng = np.random.default_rng(5)
    damaged = tmp_path / "damaged"
    num_refused = 0
    for position in range(begin, with_footer.body_offset_bytes + 4):
        for value in rng.integers(0, 256, size=6):
            content = bytearray(sound)
            content[position] = value
            damaged.write_bytes(content)
            try:
                page = walk_embedding_page(map_shard(damaged), footer, 0, "bag")
            except BagFileError:
                num_refused += 1
            else:
                assert replace(page, crc32=0) == replace(with_footer, crc32=0)
            damaged.unlink()
    assert num_refused > 50


def test_truncated_shards_are_refused(tmp_path, records):
    last = [record for record in records if record.shard == records[0].shard][-1]
    sound = tmp_path / last.shard
    size_bytes = sound.stat().st_size
    damaged = tmp_path / "cut"
    damaged.mkdir()
    for length in (0, 3, 11, 12, 100, last.offset_bytes - 1, last.offset_bytes + 10, size_bytes - 9, size_bytes - 1):
        (damaged / last.shard).write_bytes(sound.read_bytes()[:length])
        with BagReader(damaged) as reader, pytest.raises(BagFileError, match="expected"):
            reader.read(last)
        with pytest.raises(BagFileError, match="expected"):
            read_shard_index(damaged / last.shard)


def test_missing_shards_and_records_beyond_the_file_are_refused(tmp_path, records):
    record = records[0]
    size_bytes = (tmp_path / record.shard).stat().st_size
    wrong = [
        replace(record, shard="missing.parquet"),
        replace(record, shard=f"../{tmp_path.name}/{record.shard}"),
        replace(record, offset_bytes=size_bytes - 100),
        replace(record, offset_bytes=-2),
        replace(record, offset_bytes=0),
        replace(record, num_patches=10**9),
        replace(record, num_patches=0),
        replace(record, dim=0),
    ]
    with BagReader(tmp_path) as reader:
        for each in wrong:
            with pytest.raises(BagFileError, match=r"slide-000|missing"):
                reader.read(each)
        for each in (replace(record, offset_bytes=record.offset_bytes + 2), replace(record, num_patches=3)):
            with pytest.raises(BagFileError, match="in the file, expected the record's"):
                reader.read(each, verify=True)


def test_flipped_bits_are_found_by_a_verified_read(tmp_path, records):
    rng = np.random.default_rng(9)
    with BagReader(tmp_path) as reader:
        for _ in range(50):
            record = records[rng.integers(len(records))]
            size_bytes = record.num_patches * record.dim * 2
            position, bit = record.offset_bytes + int(rng.integers(size_bytes)), int(rng.integers(8))
            flip_bit(tmp_path / record.shard, position, bit)
            with pytest.raises(BagChecksumError, match=rf"slide {record.slide_id} \(case {record.case_id}\)"):
                reader.read(record, verify=True)
            with pytest.raises(BagChecksumError, match=record.slide_id):
                read_shard_index(tmp_path / record.shard, verify=True)
            flip_bit(tmp_path / record.shard, position, bit)
            reader.read(record, verify=True)
        with pytest.raises(BagChecksumError, match=records[0].slide_id):
            reader.read(replace(records[0], page_crc32=records[0].page_crc32 ^ 1), verify=True)


@pytest.mark.parametrize("column", [0, 1, 2, 3], ids=["slide_id", "case_id", "x", "y"])
def test_changed_identifiers_and_coordinates_are_found(tmp_path, column):
    [record] = write_shards(tmp_path, [make_bag(0, num_patches=200)], ENCODER)
    chunk = read_footer(tmp_path / record.shard).row_group(0).column(column)
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    flip_bit(tmp_path / record.shard, (chunk.data_page_offset if chunk.has_dictionary_page else end) - 3, 2)
    with BagReader(tmp_path) as reader, pytest.raises(BagFileError, match="coordinates"):
        reader.coordinates(record)
    with pytest.raises(BagFileError, match="coordinates"):
        read_shard_index(tmp_path / record.shard, verify=True)


def with_value(value: float, dtype=np.float32) -> np.ndarray:
    embedding = np.zeros((50, DIM), dtype=dtype)
    embedding[33, 5] = value
    return embedding


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embedding": with_value(np.nan)},
            "1 NaN or Inf and 0 values beyond float16 in 50 patches, first in patch 33",
        ),
        ({"embedding": with_value(-np.inf)}, "1 NaN or Inf"),
        ({"embedding": with_value(np.nan, np.float16)}, "first in patch 33"),
        ({"embedding": with_value(np.inf, np.float16)}, "1 NaN or Inf"),
        ({"embedding": with_value(65_505.0)}, "0 NaN or Inf and 1 values beyond float16"),
        ({"embedding": with_value(-1e30, np.float64)}, "1 values beyond float16"),
        ({"embedding": np.zeros((50, DIM + 1), dtype=np.float32)}, rf"\(50, 25\), expected floating \(N, {DIM}\)"),
        ({"embedding": np.zeros(50 * DIM, dtype=np.float32)}, r"shape \(1200,\)"),
        ({"embedding": np.zeros((50, DIM), dtype=np.int32)}, "embedding int32"),
        ({"embedding": np.zeros((0, DIM), dtype=np.float32), "xy": np.zeros((0, 2), dtype=np.int32)}, "0 patches"),
        ({"xy": np.zeros((49, 2), dtype=np.int32)}, r"xy int32 of shape \(49, 2\), expected integers \(50, 2\)"),
        ({"xy": np.zeros((50, 3), dtype=np.int32)}, r"shape \(50, 3\)"),
        ({"xy": np.zeros((50, 2), dtype=np.float32)}, "xy float32"),
        ({"xy": np.full((50, 2), 2**31, dtype=np.int64)}, "coordinates from 2147483648"),
        ({"mpp": float("nan")}, "mpp nan"),
        ({"magnification": -20.0}, "magnification -20"),
        ({"patch_size_px": -1}, "patch size -1"),
        ({"case_id": ""}, "empty identifier"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, changes, message):
    with pytest.raises(BagInputError, match=message) as caught:
        write_shards(tmp_path, [make_bag(0), make_bag(1, **changes)], ENCODER)
    assert "'slide-001'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_slide_beyond_one_page_is_refused_before_its_values_are_read(tmp_path):
    num_patches = 2**31 // 2048 + 1
    embedding = np.broadcast_to(np.float16(np.nan), (num_patches, 1024))
    xy = np.broadcast_to(np.int32(0), (num_patches, 2))
    with pytest.raises(BagInputError, match=f"{num_patches} patches x 1024, a page of up to"):
        write_shards(tmp_path, [make_bag(0, embedding=embedding, xy=xy)], replace(ENCODER, dim=1024))


def test_a_slide_offered_twice_is_refused(tmp_path):
    with pytest.raises(BagInputError, match="offered twice"):
        write_shards(tmp_path, [make_bag(0), make_bag(0)], ENCODER)


def test_a_failure_in_the_middle_leaves_finished_shards_only(tmp_path, bags):
    def failing():
        yield from bags[:8]
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError):
        write_shards(tmp_path, failing(), ENCODER, max_shard_bytes=12_000)
    left = sorted(path.name for path in tmp_path.iterdir())
    complete = write_shards(tmp_path / "complete", bags, ENCODER, max_shard_bytes=12_000)
    assert left
    assert set(left) < {record.shard for record in complete}
    assert open_bag_handles(tmp_path) == []


def test_an_interrupt_in_the_first_shard_leaves_nothing(tmp_path, bags):
    def interrupted():
        yield bags[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, interrupted(), ENCODER)
    assert list(tmp_path.iterdir()) == []


def test_no_bags_make_no_shard(tmp_path):
    assert write_shards(tmp_path, [], ENCODER) == []
    assert list(tmp_path.iterdir()) == []


def test_pack_whole_bags(tmp_path, bags, records):
    with BagReader(tmp_path) as reader:
        patches, cu_seqlens = reader.pack(records[:3], None, None)
    assert patches.dtype == np.float32
    assert cu_seqlens.dtype == np.int32
    assert cu_seqlens.tolist() == [0, 30, 67, 111]
    np.testing.assert_array_equal(patches, np.concatenate([stored(bag) for bag in bags[:3]]).astype(np.float32))


def test_pack_evenly_spaced_without_a_generator(tmp_path, bags, records):
    with BagReader(tmp_path) as reader:
        patches, cu_seqlens = reader.pack(records[:2], 30, None, dtype=np.float16)
        ten, _ = reader.pack(records[:1], 10, None)
        again, _ = reader.pack(records[:1], 10, None)
    assert patches.dtype == np.float16
    assert cu_seqlens.tolist() == [0, 30, 60]
    np.testing.assert_array_equal(patches[:30], stored(bags[0]))
    np.testing.assert_array_equal(patches[30:], stored(bags[1])[np.arange(30) * 37 // 30])
    np.testing.assert_array_equal(ten, stored(bags[0])[::3].astype(np.float32))
    np.testing.assert_array_equal(ten, again)


def test_pack_random_subsets_are_sorted_without_repeats_and_follow_the_seed(tmp_path, records):
    numbered = make_bag(50, embedding=np.repeat(np.arange(100.0), DIM).reshape(100, DIM), xy=np.zeros((100, 2), np.int32))
    [record] = write_shards(tmp_path, [numbered], ENCODER)
    with BagReader(tmp_path) as reader:
        draws = [reader.pack([record, records[0]], 40, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for patches, cu_seqlens in draws:
        assert cu_seqlens.tolist() == [0, 40, 70]
        assert (np.diff(patches[:40, 0]) > 0).all()
    np.testing.assert_array_equal(draws[0][0], draws[1][0])
    assert (draws[0][0] != draws[2][0]).any()


def test_requests_outside_the_bag_are_refused(tmp_path, records):
    record = records[0]
    with BagReader(tmp_path) as reader:
        for start, count in ((-1, 5), (0, 31), (30, 1), (5, -1)):
            with pytest.raises(BagInputError, match="window of"):
                reader.window(record, start, count)
        for indices in ([30], [-1], [0.5], [[1]]):
            with pytest.raises(BagInputError, match="indices"):
                reader.rows(record, np.array(indices))
        good = np.empty((30, DIM), dtype=np.float16)
        read_only = good.copy()
        read_only.flags.writeable = False
        for out in (good[:29], good.astype(np.float32), good[:, :-1], np.asfortranarray(good), read_only):
            with pytest.raises(BagInputError, match="out float"):
                reader.read(record, out)
        for records_, max_patches in (([], None), ([record, replace(record, dim=12)], None), ([record], 0)):
            with pytest.raises(BagInputError, match="Pack"):
                reader.pack(records_, max_patches, None)


def test_mappings_are_bounded_and_let_go(tmp_path, records):
    names = {record.shard for record in records}
    with BagReader(tmp_path, max_open_shards=2) as reader:
        for record in records:
            reader.read(record, verify=True)
            reader.coordinates(record)
        mapped = {Path(line).name for line in open_bag_handles(tmp_path)}
        assert len(mapped) == 2 < len(names)
    assert open_bag_handles(tmp_path) == []
    with pytest.raises(BagFileError, match="closed"):
        reader.read(records[0])


def test_threads_may_share_a_reader_that_keeps_one_mapping(tmp_path, bags, records):
    with BagReader(tmp_path, max_open_shards=1) as reader, ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(reader.read, records * 20))
    for bag, array in zip(bags * 20, arrays, strict=True):
        np.testing.assert_array_equal(array, stored(bag))


def test_a_copied_store_reads_at_the_same_offsets(tmp_path, bags, records):
    shutil.copytree(tmp_path, tmp_path / "copy")
    with BagReader(tmp_path / "copy") as reader:
        np.testing.assert_array_equal(reader.read(records[-1]), stored(bags[-1]))
