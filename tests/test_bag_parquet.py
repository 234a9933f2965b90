"""The shard's bytes, written by our own hand, as three other readers see them, at widths that pack their levels differently."""

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.bag_parquet import ShardFile
from feature_store.thrift_compact import i32, listed, struct, varint

COUNTS = (1, 7, 8, 9, 700)


def written(path, dim):
    """Write slides of several lengths; return all rows' values and coordinates."""
    rng, file, values, places = np.random.default_rng(dim), ShardFile(path, dim), [], []
    for number, count in enumerate(COUNTS):
        values.append(rng.normal(size=(count, dim)).astype("<f2"))
        places.append(rng.integers(-5, 1 << 30, (count, 2)).astype("<i4"))
        file.add(f"slide-ü{number}", f"case {number % 2}", places[-1], values[-1])
    file.finish({"mice.test": "é"})
    return np.concatenate(values), np.concatenate(places)


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 9, 16, 24, 1000, 1027, 1536])
def test_every_reader_sees_the_same_rows(tmp_path, dim):
    path = tmp_path / "shard.parquet"
    values, places = written(path, dim)
    slides = [f"slide-ü{number}" for number, count in enumerate(COUNTS) for _ in range(count)]
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
        assert file.schema_arrow.field("embedding").type == pa.list_(pa.field("element", pa.float16(), nullable=False), dim)
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == list(COUNTS)
    assert file.metadata.metadata[b"mice.test"].decode() == "é"
    assert table["slide_id"].to_pylist() == slides
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(-1, dim).view(np.uint16), values.view(np.uint16))
    np.testing.assert_array_equal(np.stack([table["x"], table["y"]], axis=1), places)

    frame = pl.read_parquet(path)
    assert frame.schema["embedding"] == pl.Array(pl.Float16, dim)
    assert frame["slide_id"].to_list() == slides
    np.testing.assert_array_equal(frame["embedding"].to_numpy().reshape(-1, dim), values)

    with duckdb.connect() as connection:
        rows = connection.execute("SELECT x, embedding FROM read_parquet(?) WHERE slide_id = 'slide-ü4'", [str(path)]).fetchall()
    np.testing.assert_array_equal([x for x, _ in rows], places[-700:, 0])
    np.testing.assert_array_equal(np.array([row for _, row in rows], dtype=np.float32), values[-700:].astype(np.float32))


def test_an_unfinished_file_is_none(tmp_path):
    file = ShardFile(tmp_path / "shard.parquet", 8)
    file.add("slide", "case", np.zeros((3, 2), "<i4"), np.ones((3, 8), "<f2"))
    file.close()
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(tmp_path / "shard.parquet")


def test_a_file_that_is_there_is_never_written_over(tmp_path):
    (tmp_path / "shard.parquet").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        ShardFile(tmp_path / "shard.parquet", 8)


def test_thrift_as_its_description_has_it():
    assert [varint(number) for number in (0, 127, 128, 300)] == [b"\x00", b"\x7f", b"\x80\x01", b"\xac\x02"]
    assert [i32(number).data for number in (0, -1, 1, -64)] == [b"\x00", b"\x01", b"\x02", b"\x7f"]
    assert struct({1: i32(1), 4: i32(-1)}).data == b"\x15\x02\x35\x01\x00"
    assert listed([i32(1)] * 3).data == b"\x35\x02\x02\x02"
    assert listed([i32(0)] * 20).data == b"\xf5\x14" + bytes(20)
    with pytest.raises(ValueError, match="step"):
        struct({1: i32(0), 17: i32(0)})
