"""Tables as people write them: separators, decimal commas, encodings, comments, JSON; and JSON that is broken or hostile."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Corrupt, read_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingesting import ids, of_case, rejected, same_rows

from feature_store import json_tables, sources
from feature_store.contract import Contract
from feature_store.contract.feature_sources import VectorSource
from feature_store.contract.formats import TableFormat
from feature_store.contract.rules import PickKey
from feature_store.errors import ColumnMissingError, MiceError, SourceFormatError
from feature_store.ingest.stage import Staged


def read(folder: Path, name: str, data: bytes, **form: Any) -> pl.DataFrame:
    (folder / name).write_bytes(data)
    return sources.read_table(sources.fingerprint(folder, folder / name), TableFormat(**form))


# --- separated values


def test_a_semicolon_table_with_decimal_commas_in_another_encoding(tmp_path: Path) -> None:
    data = "id;größe;ort\nA1;1,5;Köln\nA2;-0,25;3,5 cm, links\n".encode("cp1252")
    frame = read(tmp_path, "a.csv", data, separator=";", decimal=",", encoding="cp1252")
    assert frame.rows() == [("A1", "1.5", "Köln"), ("A2", "-0.25", "3,5 cm, links")]


def test_a_point_that_groups_thousands_is_no_decimal_point(tmp_path: Path) -> None:
    """Where commas are decimal, 1.234 is a thousand and more: it must not be read as 1.234."""
    frame = read(tmp_path, "a.csv", b"n\n1.234\n1.234,5\n12.03.2020\n1,5e3\n", separator=";", decimal=",")
    assert frame["n"].to_list() == ["1,234", "1,234.5", "12.03.2020", "1.5e3"]
    assert frame["n"].cast(pl.Float64, strict=False).to_list() == [None, None, None, 1500.0]


def test_bytes_of_another_encoding_than_declared_are_refused(tmp_path: Path) -> None:
    for encoding in ("utf-8", "ascii"):
        with pytest.raises(SourceFormatError, match=r"a\.csv: unreadable as csv"):
            read(tmp_path, "a.csv", "id,ort\nA1,Köln\n".encode("cp1252"), encoding=encoding)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_comments_lie_before_the_header_only(tmp_path: Path, mark: bytes, end: bytes) -> None:
    data = mark + end.join([b"#version 2.4", b"# made today, by hand", b"id\ttext", b'A1\t"two', b'# lines"', b"A2\t#2"]) + end
    frame = read(tmp_path, "a.maf.gz", gzip.compress(data), comment="#")
    assert frame["id"].to_list() == ["A1", "A2"]
    assert frame["text"].str.replace_all("\r\n", "\n").to_list() == ["two\n# lines", "#2"]


def test_rows_cut_short_are_found_behind_comments_and_in_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="1 rows cut short"):
        read(
            tmp_path,
            "a.csv",
            "#, and more,,,\nid;a;b\nä;1;2\nö;1\n".encode("latin-1"),
            separator=";",
            comment="#",
            encoding="latin-1",
        )


def test_a_file_of_nothing_but_comments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="unreadable as tsv"):
        read(tmp_path, "a.tsv", b"# nothing\n# here", comment="#")


def test_only_the_rows_that_are_meant_are_read(tmp_path: Path) -> None:
    data = b"id,kind,part\nA,rna,1\nB,rna ,2\nC,dna,1\nD,,1\n"
    assert read(tmp_path, "a.csv", data, where={"kind": "rna"})["id"].to_list() == ["A", "B"]
    assert read(tmp_path, "a.csv", data, where={"kind": ["rna", "dna"], "part": "1"})["id"].to_list() == ["A", "C"]
    with pytest.raises(ColumnMissingError, match=r"no column \['type'\]"):
        read(tmp_path, "a.csv", data, where={"type": "rna"})


def test_an_optional_column_may_be_absent_and_another_not(tmp_path: Path) -> None:
    frame = read(tmp_path, "a.csv", b"id\nA\n", optional_columns=["grade", "id"])
    assert frame.rows(named=True) == [{"id": "A", "grade": None}]


def test_decimal_commas_all_the_way_into_the_store(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, clean: Staged
) -> None:
    landing = corrupt()
    frame = read_table(landing / "rna.csv.gz").with_columns(pl.exclude("case_id").str.replace(".", ",", literal=True))
    (landing / "rna.csv.gz").write_bytes(gzip.compress(frame.write_csv(separator=";").encode("cp1252")))
    form = {"separator": ";", "decimal": ",", "encoding": "cp1252"}
    spec = synthetic_contract.rna[0].model_copy(update=form)
    assert same_rows(bare(landing, rna=(spec,)), clean, "rna")
    with pytest.raises(SourceFormatError, match=r"rna\.csv\.gz: column '.*' holds '.*,.*'"):
        bare(landing, rna=(spec.model_copy(update={"decimal": "."}),))


# --- JSON

CASES = [
    {"id": "A", "n": 1.50, "is_ok": True, "none": None, "in": {"it": {"x": "1"}}, "list": [1, 2]},
    {"id": "B", "n": 12345678901234567890, "in": {"y": "2"}},
]
EXPECTED = {
    "id": ["A", "B"], "n": ["1.5", "12345678901234567890"], "is_ok": ["true", None], "none": [None, None],
    "in.it.x": ["1", None], "in.y": [None, "2"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("a.json", json.dumps(CASES), {}),
        ("a.jsonl", "\n\n".join(json.dumps(case) for case in CASES), {}),
        ("a.ndjson.gz", "\n".join(json.dumps(case) for case in CASES) + "\n", {}),
        ("a.json.gz", json.dumps({"data": {"hits": CASES}}, indent=1), {"records": "data.hits"}),
    ],
)
def test_json_is_a_table_of_texts(tmp_path: Path, name: str, text: str, form: dict[str, str]) -> None:
    data = text.encode()
    frame = read(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data, **form)
    assert frame.to_dict(as_series=False) == EXPECTED


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b'[{"a": 1, "a": 2}]', r"keys \['a'\] given twice"),
        (b'[{"a.b": 1, "a": {"b": 2}}]', r"columns \['a\.b'\] occur twice"),
        (b"[1, 2]", "2 of 2 records are no objects"),
        (b'{"hits": []}', r"an object with keys \['hits'\] where a list"),
        (b'"text"', "'text' where a list"),
        (b"[{]", "Expecting"),
        (b'[{"a": 1}] trailing', "Extra data"),
        (b'[{"a": "\xff"}]', "utf-8"),
        (b'[{"a": "\\ud800"}]', "surrogates"),
        (b'[{"_record": 1}]', "_record"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_is_broken_or_hostile_is_refused(tmp_path: Path, data: bytes, found: str) -> None:
    with pytest.raises(SourceFormatError, match=rf"source a\.json: unreadable as json \(.*{found}.*expected a table"):
        read(tmp_path, "a.json", data)


def test_nothing_under_the_declared_place(tmp_path: Path) -> None:
    for place in ("data.cases", "hits", "data.hits.more"):
        with pytest.raises(SourceFormatError, match=f"nothing under '{place}'"):
            read(tmp_path, "a.json", b'{"data": {"hits": []}}', records=place)


def test_json_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of its own in every record gives a table of as many columns as rows; an empty list takes thirty times its text."""
    monkeypatch.setattr(json_tables, "MAX_VALUES", 1_000)
    with pytest.raises(SourceFormatError, match="2,000 values, over 1,000"):
        read(tmp_path, "a.json", b"[" + b",".join([b"[]"] * 1000) + b"]")
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(SourceFormatError, match="500 rows of 500 columns, over 1,000,000 bytes"):
        read(tmp_path, "a.json", json.dumps([{f"k{n}": 1} for n in range(500)]).encode())
    monkeypatch.setattr(sources, "MAX_UNPACKED_BYTES", 1_000)
    with pytest.raises(SourceFormatError, match="over 1,000 bytes unpacked"):
        read(tmp_path, "a.json.gz", gzip.compress(b"[" + b" " * 10_000 + b"]"))


FUZZ = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WHOLE = {"a.json": json.dumps(CASES), "a.jsonl": "\n".join(map(json.dumps, CASES)), "a.csv": '# c\nid;n\nA;1,5\nB;"2,\n5"\n'}


@FUZZ
@given(
    name=st.sampled_from(sorted(WHOLE)),
    at=st.integers(0, 150),
    cut=st.integers(0, 30),
    put=st.binary(max_size=12) | st.sampled_from([b"[" * 99, b'{"a":', b'"', b"\\ud800", b"\0", b"1e999", b"-", b"NaN", b";;;"]),
    form=st.sampled_from([{}, {"records": "a.b"}, {"decimal": ",", "separator": ";", "comment": "#"}, {"encoding": "utf-16"}]),
)
def test_fuzzed_tables_give_typed_errors_only(
    tmp_path: Path, name: str, at: int, cut: int, put: bytes, form: dict[str, str]
) -> None:
    whole = WHOLE[name].encode()
    try:
        frame = read(tmp_path, name, whole[:at] + put + whole[at + cut :], **form)
    except MiceError as error:
        refusal = str(error)
    else:
        assert set(frame.dtypes) <= {pl.String()}
        return
    assert f"source {name}" in refusal


# --- lists inside records


def nested_cases(landing: Path) -> list[dict[str, Any]]:
    """The clinical table as JSON, each case with three visits of which the second is the latest."""
    visits = [{"day": day, "grade": grade} for day, grade in ((9, "G1"), (100, "G3"), (20, "G2"))]
    rows = read_table(landing / "clinical.csv").drop("grade").rows(named=True)
    return [row | {"visits": [visit | {"labs": [{"name": "a"}, {"name": "b"}]} for visit in visits]} for row in rows]


def clinical_of(contract: Contract, nested: dict[str, Any]) -> dict[str, Any]:
    grade = contract.clinical.columns["grade"].model_copy(update={"columns": ("visits.grade",)})
    update = {"path": "clinical.json", "nested": nested, "columns": {"grade": grade}}
    return {"clinical": contract.clinical.model_copy(update=update)}


def test_of_a_nested_list_the_declared_record_counts_and_the_others_are_reported(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt()
    (landing / "clinical.json").write_text(json.dumps(nested_cases(landing)), encoding="utf-8")
    for order, grade, others in (("highest", 3.0, ["20", "9"]), ("lowest", 1.0, ["100", "20"]), ("last", 1.0, ["100", "20"])):
        key = PickKey(column="visits.day", order=order)
        staged = bare(landing, **clinical_of(synthetic_contract, {"visits": (key,)}))
        assert set(staged.table("clinical")["grade"]) == {grade}
        rows = rejected(staged, "clinical")
        assert rows.height == 2 * staged.table("clinical").height
        assert set(rows["effect"]) == {"left_out"}
        assert sorted({found.split(" ")[0] for found in rows["found"]}) == others


def test_all_elements_of_a_list_are_rows_that_must_then_agree(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt()
    (landing / "clinical.json").write_text(json.dumps(nested_cases(landing)), encoding="utf-8")
    staged = bare(landing, **clinical_of(synthetic_contract, {"visits": "all"}))
    assert staged.table("clinical").is_empty()
    assert set(rejected(staged, "clinical")["reason"]) == {"duplicate: rows of the same case contradict each other"}


def test_a_list_inside_a_list_brings_the_columns_of_both(tmp_path: Path) -> None:
    records = [
        {"id": "A", "s": [{"t": "1", "p": [{"u": "x"}, {"u": "y"}]}, {"t": "2", "p": []}, {"t": "3"}]},
        {"id": "B"},
        {"id": "C", "s": ["plain"]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    found = sources.read_nested(sources.fingerprint(tmp_path, tmp_path / "a.json"), TableFormat(), ["s.p"])
    rows = found.lists["s.p"].to_dicts()
    assert rows[:4] == [
        {"_record": 0, "s.t": "1", "s.p.u": "x", "s": None},
        {"_record": 0, "s.t": "1", "s.p.u": "y", "s": None},
        {"_record": 0, "s.t": "2", "s.p.u": None, "s": None},
        {"_record": 0, "s.t": "3", "s.p.u": None, "s": None},
    ]


def test_lists_that_multiply_without_bound_are_refused(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt()
    cases = nested_cases(landing)
    cases[0] |= {name: [{"n": n} for n in range(5_000)] for name in ("one", "other")}
    (landing / "clinical.json").write_text(json.dumps(cases), encoding="utf-8")
    with pytest.raises(SourceFormatError, match=r"clinical\.json: 25,00.,... rows with every element of \['one', 'other'\]"):
        bare(landing, **clinical_of(synthetic_contract, {"one": "all", "other": "all"}))


def test_nested_lists_are_of_json(corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract) -> None:
    clinical = synthetic_contract.clinical.model_copy(update={"nested": {"visits": "all"}})
    with pytest.raises(SourceFormatError, match=r"clinical\.csv: unreadable as csv \(only JSON has nested lists\)"):
        bare(corrupt(), clinical=clinical)


# --- files of a cohort


def test_a_file_whose_path_names_another_cohort_is_rejected(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    """Like RTCGA's LIHC file, which holds the cases of MESO."""
    landing = corrupt()
    frame = read_table(landing / "copy_number.csv")
    for name in ("synthetic", "other"):
        (landing / f"{name}.arms.csv").write_text(frame.write_csv(), encoding="utf-8")
    spec = synthetic_contract.copy_number[0].model_copy(
        update={"path": "*.arms.csv", "cohort_from_path": {"extract": r"([a-z]+)\.arms", "prefix": ""}}
    )
    spec = VectorSource.model_validate(spec.model_dump(warnings=False))
    staged = bare(landing, copy_number=(spec,))
    assert sorted(ids(staged, "copy_number")) == sorted(frame["case_id"])
    rows = rejected(staged, "copy_number")
    assert set(rows.select("path", "reason", "found").rows()) == {
        ("other.arms.csv", "case is not of other, as the file is", "synthetic")
    }
    assert (
        staged.table("modality_matrix")
        .filter(pl.col("modality") == "copy_number", of_case == frame["case_id"][0])["state"]
        .item()
        == "present"
    )
