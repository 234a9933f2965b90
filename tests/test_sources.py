"""Source files: every format gives the same table; damage, bombs and rows cut short are typed errors."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import same_rows

from feature_store import sources
from feature_store.contract import Contract
from feature_store.errors import SourceFormatError
from feature_store.ingest.stage import Staged
from feature_store.synthetic_files import write_table


def test_a_column_named_twice_is_refused(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt()
    path = landing / "copy_number.csv"
    path.write_text(path.read_text().replace(",1q,", ",1p,", 1))
    with pytest.raises(SourceFormatError, match=r"columns \['1p'\] occur twice"):
        bare(landing)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b""),
        ("x.csv", b"a,b\n\xff\xfe\xfa,1\n"),
        ("x.csv", b"a,b\n1,2,3\n"),
        ("x.csv.gz", b"no gzip"),
        ("x.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff"),
        ("x.csv.zip", b"PK\x03\x04 torn"),
        ("x.xlsx", b"PK\x03\x04 torn"),
        ("x.parquet", b"PAR1 torn PAR1"),
        ("x.rds", b"no R"),
    ],
)
def test_an_unreadable_table_is_a_typed_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceFormatError, match=r"source x\..*unreadable as .*expected a table"):
        sources.read_table(sources.fingerprint(tmp_path, tmp_path / name))


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.zip", "x.csv.gz", "x.rds"])
def test_torn_and_flipped_tables_give_typed_errors_only(tmp_path: Path, name: str) -> None:
    """A parser that panics, or fails with an error of its own, takes the run down without a word about the file."""
    path, frame = tmp_path / name, pl.DataFrame({"a": ["x", "yy", None] * 20, "b": range(60), "c": [1.5] * 60})
    if name == "x.parquet":
        frame.write_parquet(path)
    elif name == "x.csv.gz":
        write_table(path, frame)
    elif name == "x.csv.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("table.csv", frame.write_csv())
    else:
        import rdata

        rdata.write_rds(path, frame.to_pandas(), compression=None)
    assert sources.read_table(sources.fingerprint(tmp_path, path)).shape == (60, 3)
    whole, rng, num_refused = path.read_bytes(), np.random.default_rng(0), 0
    for trial in range(100):
        data = bytearray(whole[: len(whole) * trial // 25] if trial < 25 else whole)
        for at in rng.integers(0, len(whole), 3 if trial >= 25 else 0):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            sources.read_table(sources.fingerprint(tmp_path, path))
        except SourceFormatError:
            num_refused += 1
    assert num_refused >= 20


def test_a_parquet_bomb_is_refused_by_its_footer(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    pl.DataFrame({f"c{i}": [0] * 1000 for i in range(50)}).write_parquet(path)
    small = sources.fingerprint(tmp_path, path)
    assert sources.read_table(small).height == 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "MAX_UNPACKED_BYTES", 1000 * 50 * 16 - 1)
        with pytest.raises(SourceFormatError, match=r"1,000 rows of 50 columns claim 800,000 bytes unpacked, over 799,999"):
            sources.read_table(small)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        lambda text: text.rstrip("\n").encode(),
    ],
    ids=["crlf", "bom", "bom-crlf", "no last newline"],
)
def test_line_ends_and_byte_order_marks_change_nothing(
    corrupt: Corrupt, bare: Callable[..., Staged], clean: Staged, encode: Callable[[str], bytes]
) -> None:
    landing = corrupt()
    for name in ("clinical.csv", "reports.csv", "mutations.csv", "copy_number.csv"):
        (landing / name).write_bytes(encode((landing / name).read_text("utf-8")))
    staged = bare(landing)
    for table in ("cases", "clinical", "endpoints", "reports", "mutations", "copy_number"):
        assert same_rows(staged, clean, table), table


@pytest.mark.parametrize("suffix", ["tsv", "parquet", "csv.zip", "csv.gz"])
def test_tables_of_other_formats_are_the_same_tables(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, clean: Staged, suffix: str
) -> None:
    landing = corrupt()
    frame, path = read_table(landing / "copy_number.csv"), landing / f"arms.{suffix}"
    if suffix == "parquet":
        frame.with_columns(pl.exclude("case_id").cast(pl.Float64)).write_parquet(path)
    elif suffix == "tsv":
        frame.write_csv(path, separator="\t")
    elif suffix == "csv.gz":
        write_table(path, frame)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(landing / "copy_number.csv", "anything.csv")
    spec = synthetic_contract.copy_number[0].model_copy(update={"path": path.name})
    assert same_rows(bare(landing, copy_number=(spec,)), clean, "copy_number")
