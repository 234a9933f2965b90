"""What a source may claim and must be: Parquet files that unpack to more than they are, landing folders that list checksums."""

import hashlib

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store import sources
from feature_store.errors import SourceFormatError
from feature_store.parquet_text import read_as_text


def repeated(text: str, num_rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), num_rows), pa.array([text]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": repeated("x" * 2_000, 1_000)}, "2,000,000 bytes unpacked, over 1,000,000"),
        ({"x": repeated("x" * 600, 1_000), "y": repeated("y" * 600, 1_000)}, "1,200,000 bytes unpacked"),
        ({"x": pa.repeat(pa.scalar(1, pa.int8()), 100_000)}, "100,000 rows of 1 columns claim 1,600,000 bytes"),
        ({"x": pa.array(["0" * 2_000_000])}, "claim 2,000,"),
        ({"x": pa.array([[1] * 2_000_000])}, r"columns \['x'\] hold lists or structs"),
    ],
)
def test_a_parquet_file_that_unpacks_to_too_much_is_refused(tmp_path, columns, message):
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=message):
        read_as_text(path, 1_000_000)


def test_every_column_of_a_parquet_file_becomes_text(tmp_path):
    frame = pl.DataFrame(
        {"id": ["001", None, "naïve"], "n": [1, 2, None], "f": [0.5, None, float("nan")], "b": [True, None, False]}
    ).with_columns(c=pl.col("id").cast(pl.Categorical), d=pl.Series([b"a", None, b"b"]))
    frame.write_parquet(tmp_path / "polars.parquet")
    pq.write_table(frame.to_arrow(), tmp_path / "arrow.parquet")
    for name in ("polars.parquet", "arrow.parquet"):
        found = read_as_text(tmp_path / name, 1_000_000)
        assert found["id"].to_list() == found["c"].to_list() == ["001", None, "naïve"]
        assert (found["n"].to_list(), found["b"].to_list()) == (["1", "2", None], ["true", None, "false"])
        assert found["d"].to_list() == ["a", None, "b"]
        assert set(found.dtypes) == {pl.String}


@pytest.fixture
def landing(tmp_path):
    for name in ("a.csv", "b/c.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"id\n{name}\n")
    return tmp_path


def listed(landing, *names):
    lines = [f"{hashlib.sha256((landing / name).read_bytes()).hexdigest()}  {name}" for name in names]
    (landing / sources.CHECKSUMS).write_text("\n".join(lines) + "\n")


def test_files_as_listed_are_found(landing):
    assert [file.relative for file in sources.find(landing, "**/*.csv")] == ["a.csv", "b/c.csv"]
    listed(landing, "a.csv", "b/c.csv")
    assert [file.relative for file in sources.find(landing, "**/*.csv")] == ["a.csv", "b/c.csv"]


def test_a_changed_and_an_unlisted_file_are_refused(landing):
    listed(landing, "a.csv")
    with pytest.raises(SourceFormatError, match=r"source b/c\.csv: not listed, expected an entry of SHA256SUMS"):
        sources.find(landing, "**/*.csv")
    (landing / "a.csv").write_text("id\n")
    with pytest.raises(SourceFormatError, match=r"source a\.csv: sha256 [0-9a-f]{12}, expected [0-9a-f]{12} of SHA256SUMS"):
        sources.find(landing, "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d41d8cd98f00b204e9800998ecf8427e  a.csv\n", "is no checksum line"),
        ("nothing\n", "is no checksum line"),
        (f"{'0' * 64}  a.csv\n{'0' * 64} *./a.csv\n", "is listed twice"),
    ],
)
def test_a_list_that_cannot_be_one_is_refused(landing, text, message):
    (landing / sources.CHECKSUMS).write_text(text)
    with pytest.raises(SourceFormatError, match=message):
        sources.find(landing, "a.csv")
