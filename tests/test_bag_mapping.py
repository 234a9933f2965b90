import numpy as np
import pytest

from feature_store import bag_mapping
from feature_store.bag_file import write_shards
from feature_store.bag_mapping import MappedShard
from feature_store.bag_reader import BagReader
from feature_store.bag_record import EncoderInfo, SlideBag

DIM = 24


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(503, DIM)).astype(np.float16)


@pytest.fixture
def record(tmp_path, values):
    bag = SlideBag("slide", "case", np.zeros((len(values), 2), np.int32), values, "0" * 64, 256, None, None)
    return write_shards(tmp_path, [bag], EncoderInfo("test-encoder", "0" * 64, DIM, "none"))[0]


@pytest.fixture
def announced(monkeypatch) -> list[tuple[int, int]]:
    """Steps of 10 rows, and all files said to be on disk only; the byte ranges that the kernel was told of."""
    ranges = []
    monkeypatch.setattr(bag_mapping, "_STEP_BYTES", 10 * DIM * 2)
    monkeypatch.setattr(MappedShard, "_is_in_memory", lambda self, begin, size_bytes: False)
    monkeypatch.setattr(MappedShard, "_announce", lambda self, begin, size_bytes: ranges.append((begin, size_bytes)))
    return ranges


def test_reading_ahead_gives_the_same_values(tmp_path, values, record, announced):
    rng = np.random.default_rng(1)
    with BagReader(tmp_path) as reader:
        np.testing.assert_array_equal(reader.read(record, verify=True), values)
        for start, count in ((0, 503), (7, 400), (493, 10), (482, 21), (100, 0)):
            np.testing.assert_array_equal(reader.window(record, start, count), values[start : start + count])
        for count in (0, 1, 40, 300, 900):
            indices = rng.integers(0, len(values), size=count)
            np.testing.assert_array_equal(reader.rows(record, indices), values[np.sort(indices)])


def test_what_is_announced_covers_what_is_read(tmp_path, record, announced):
    with BagReader(tmp_path) as reader:
        for start, count in ((0, 503), (7, 400), (90, 33)):
            announced.clear()
            reader.window(record, start, count)
            begin, end = (record.offset_bytes + row * DIM * 2 for row in (start, start + count))
            assert announced[0][0] == begin
            reached = begin
            for first, size_bytes in announced:
                assert first <= reached
                reached = max(reached, first + size_bytes)
            assert reached >= end


def test_a_bag_in_memory_or_of_one_step_is_copied_at_once(tmp_path, values, record, monkeypatch):
    with BagReader(tmp_path) as reader:
        reader.read(record)
    shard = MappedShard(tmp_path / record.shard)
    assert list(shard.steps(record, 0, len(values))) == [(0, len(values))]
    monkeypatch.setattr(bag_mapping, "_STEP_BYTES", 100)
    assert list(shard.steps(record, 3, 100)) == [(3, 100)]
