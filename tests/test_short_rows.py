"""Rows cut short: refused wherever the cut is, and no sound table is."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import sources
from feature_store.errors import SourceFormatError
from feature_store.short_rows import refuse_short_rows

CELLS = st.none() | st.text(st.sampled_from('a,;"\n 1'), max_size=5)


def read(path: Path, data: bytes) -> pl.DataFrame:
    path.write_bytes(data)
    return sources.read_table(sources.fingerprint(path.parent, path))


@pytest.mark.parametrize(
    ("data", "line", "num_fields"),
    [
        (b"a,b,c\n1,2,3\n4,5\n", 3, 2),
        (b"a,b,c\n1,2,3\n4\n7,8,9\n", 3, 1),
        (b"a,b,c\n1,2,\n4,", 3, 2),
        (b'a,b,c\n"x\ny,z",2,3\n"1,2",3\n', 4, 2),
        (b"\xef\xbb\xbfa,b,c\r\n1,2,3\r\n4,5\r\n", 3, 2),
        (b'a,b,c\n"1,2,3",,\n4,5\n', 3, 2),
    ],
    ids=[
        "last row",
        "a row between",
        "among empty cells",
        "after a quoted line end",
        "crlf and byte order mark",
        "quoted commas",
    ],
)
def test_a_row_cut_short_stops_the_ingest(tmp_path: Path, data: bytes, line: int, num_fields: int) -> None:
    message = rf"source x\.csv: .*1 rows cut short, the first at line {line} with {num_fields} of 3 fields"
    with pytest.raises(SourceFormatError, match=message):
        read(tmp_path / "x.csv", data)
    if b'"' not in data:
        with pytest.raises(SourceFormatError, match="1 rows cut short"):
            read(tmp_path / "x.tsv", data.replace(b",", b"\t"))


def test_empty_cells_and_lines_are_no_cut(tmp_path: Path) -> None:
    found = read(tmp_path / "x.csv", b'a,b,c\n1,,\n,,\n"x, ""y""\n",2,\n\n')
    assert found.height >= 3
    assert found["a"][2] == 'x, "y"\n'


@settings(max_examples=150, derandomize=True, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6), quotes=st.sampled_from(["necessary", "always"]))
def test_no_whole_table_is_refused_and_every_cut_one_is(rows: list[tuple[str | None, ...]], quotes: str) -> None:
    whole = pl.DataFrame(rows, schema=dict.fromkeys("abc", pl.String), orient="row")
    data = whole.write_csv(quote_style=quotes).encode()
    refuse_short_rows(data, ",", pl.read_csv(data, infer_schema=False), 1_000)
    cut = data + b"x,y\n"
    with pytest.raises(ValueError, match="1 rows cut short"):
        refuse_short_rows(cut, ",", pl.read_csv(cut, infer_schema=False), 1_000)
