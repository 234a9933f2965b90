"""Files that several sources read: parsed once, held no longer than needed, as numbers where all readers want numbers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from feature_store.contract.feature_sources import MutationMatrixSource, VectorSource
from feature_store.contract.sources import Source
from feature_store.errors import SourceFormatError
from feature_store.ingest import shared_tables
from feature_store.ingest.numbers import numeric, variants
from feature_store.ingest.shared_tables import SharedTables
from feature_store.sources import fingerprint

IDENTIFIED = {"path": "wide.csv", "case_id": {"column": "case"}}
RNA = VectorSource(**IDENTIFIED, features="(.+)_rna", unit="u")
CALLS = MutationMatrixSource(**IDENTIFIED, features="(.+)_mut", layout="mutation_matrix")
OF_TEXT = Source(**IDENTIFIED)
WIDE = "case,A_rna,B_rna,A_mut,note\na,1.5,,1,x\nb,-2,3e1,0,\nc,0.1,-0.0,,001\n"


def parsed_files(monkeypatch):
    """Return the files parsed so far, as they come."""
    found = []

    def read_rows(file, *arguments):
        found.append(file.relative)
        return real(file, *arguments)

    real = shared_tables.read_rows
    monkeypatch.setattr(shared_tables, "read_rows", read_rows)
    return found


def wide(tmp_path, text=WIDE):
    (tmp_path / "wide.csv").write_text(text)
    return fingerprint(tmp_path, tmp_path / "wide.csv")


def test_a_file_is_parsed_once_and_dropped_after_its_last_reader(tmp_path, monkeypatch):
    file, parsed = wide(tmp_path), parsed_files(monkeypatch)
    tables = SharedTables([RNA, CALLS, OF_TEXT])
    with ThreadPoolExecutor(3) as pool:
        frames = list(pool.map(lambda spec: tables.read(file, spec, ()), [RNA, CALLS, OF_TEXT]))
    assert parsed == ["wide.csv"]
    assert all(frame.equals(frames[0]) for frame in frames)
    tables.read(file, RNA, ())
    assert len(parsed) == 2


def test_what_would_take_too_much_is_not_held(tmp_path, monkeypatch):
    file, parsed = wide(tmp_path), parsed_files(monkeypatch)
    monkeypatch.setattr(shared_tables, "_MAX_BYTES", 10)
    tables = SharedTables([RNA, CALLS])
    assert tables.read(file, RNA, ()).equals(tables.read(file, CALLS, ()))
    assert len(parsed) == 2


def test_a_file_that_cannot_be_read_fails_for_each_reader(tmp_path):
    file = wide(tmp_path, "case,A_rna,A_rna\na,1,2\n")
    tables = SharedTables([RNA, CALLS])
    for spec in (RNA, CALLS):
        with pytest.raises(SourceFormatError, match="twice"):
            tables.read(file, spec, ())


def test_numbers_come_as_such_only_where_nobody_wants_their_text(tmp_path):
    file = wide(tmp_path)
    assert SharedTables([RNA, CALLS]).read(file, RNA, ()).schema == {
        "case": pl.String,
        "A_rna": pl.Float32,
        "B_rna": pl.Float32,
        "A_mut": pl.Float32,
        "note": pl.String,
    }
    assert set(SharedTables([RNA, OF_TEXT]).read(file, RNA, ()).dtypes) == {pl.String}
    identifier = VectorSource(path="wide.csv", case_id={"column": "A_rna"}, features="(.+)_rna", unit="u")
    assert SharedTables([identifier]).read(file, identifier, ()).schema["A_rna"] == pl.String


def test_numbers_are_the_same_read_as_text_or_as_numbers(tmp_path):
    rng = np.random.default_rng(0)
    spelt = [repr(float(x)) for x in np.concatenate([rng.normal(size=300) * 10.0 ** rng.integers(-40, 38, 300)])] + [
        "",
        "007",
        "1e3",
        "-0",
    ]
    file = wide(tmp_path, "case,A_rna\n" + "".join(f"c{i},{x}\n" for i, x in enumerate(spelt)))
    as_numbers, as_text = (SharedTables([RNA, *more]).read(file, RNA, ()) for more in ((), (OF_TEXT,)))
    assert (as_numbers.schema["A_rna"], as_text.schema["A_rna"]) == (pl.Float32, pl.String)
    found, expected = (numeric(frame, ["A_rna"], ("",), file) for frame in (as_numbers, as_text))
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found).sum() == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [("inf", "'A_rna' holds an infinite number"), ("high", "'A_rna' holds 'high'"), ("1e39", "'A_rna' .* too large for float32")],
)
def test_what_is_no_number_is_named_as_found(tmp_path, value, message):
    file = wide(tmp_path, WIDE.replace("-2", value))
    frame = SharedTables([RNA]).read(file, RNA, ())
    with pytest.raises(SourceFormatError, match=message):
        numeric(frame, ["A_rna", "B_rna"], ("",), file)
    others = pl.Series([0, 2])
    assert numeric(frame, ["A_rna"], ("",), file, others)[:, 0].tolist() == pytest.approx([1.5, 0.1])


def test_spellings_of_a_missing_value(tmp_path):
    file = wide(tmp_path, "case,A_rna,B_rna\na,NA, 4 \nb,-999,[none]\nc,-999.0,nan\n")
    frame = SharedTables([RNA]).read(file, RNA, ())
    found = numeric(frame, ["A_rna", "B_rna"], ("[none]", "-999"), file)
    np.testing.assert_array_equal(found, np.array([[np.nan, 4], [np.nan] * 2, [np.nan] * 2], np.float32))


def test_equal_rows_have_one_number():
    rows = np.array([[0.0, np.nan], [-0.0, np.float32("nan")], [0, 1], [0, np.nan]], np.float32)
    assert variants(rows).to_list() == [0, 0, 1, 0]
