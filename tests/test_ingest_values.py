"""Identifiers, cases, clinical values and endpoints: what is normalised, and what is rejected with which reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import changed, first_case, ids, of_case, reasons, rejected, repeated, state

from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.contract.rules import Exclusion, Value
from feature_store.ingest.stage import Staged
from feature_store.synthetic_files import write_table

# --- identifiers


@pytest.mark.parametrize(
    "spell", [lambda c: f"\t{c}\u00a0", str.lower, lambda c: c.replace("-", "\u2212"), lambda c: c.replace("-", "\u2010")]
)
def test_spellings_of_an_identifier_are_one_case(
    corrupt: Corrupt, bare: Callable[..., Staged], spell: Callable[[str], str]
) -> None:
    landing = corrupt({"copy_number.csv": changed("case_id", spell)})
    staged = bare(landing)
    assert rejected(staged, "copy_number").is_empty()
    assert staged.num_normalised == 1
    assert set(read_table(landing / "copy_number.csv")["case_id"][1:]) < set(ids(staged, "copy_number"))


def test_a_duplicate_under_another_spelling_is_still_equal(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": repeated(of_case.str.to_lowercase())})
    case_id = first_case(landing)
    staged = bare(landing)
    assert ids(staged).count(case_id) == 1
    assert reasons(staged, "cases", case_id.lower()) == ["duplicate: equal to a row that was kept"]


@pytest.mark.parametrize("found", ["{}-01", "{}-01Z-00-DX1", "SYN-AA", "SYN–AA–12 34", "", None])
def test_a_wrong_barcode_level_is_rejected_not_cut(corrupt: Corrupt, bare: Callable[..., Staged], found: str | None) -> None:
    landing = corrupt()
    case_id = first_case(landing, "reports.csv")
    found = found and found.format(case_id)
    path = landing / "reports.csv"
    write_table(path, changed("case_id", found)(read_table(path)))
    rows = rejected(bare(landing), "reports")
    assert rows["case_id_found"].to_list() == [found]
    assert rows["reason"].to_list() == ["identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}"]


def test_identifiers_stay_text(bare: Callable[..., Staged], tmp_path: Path, synthetic_contract: Contract) -> None:
    """`001` is HANCOCK's spelling; a report called `1.0` is not the report called `1`."""
    landing = tmp_path / "numbered"
    landing.mkdir()
    numbers = ["001", "002", "003", "010"]
    rows = [(n, "AMBER", "60", "FEMALE", "Stage I", "G1", "2010", str(i % 2), "100", "0", "90") for i, n in enumerate(numbers)]
    header = [
        "case_id",
        "cancer_type",
        "age_years",
        "gender",
        "stage",
        "grade",
        "diagnosis_year",
        "OS",
        "OS.time",
        "PFI",
        "PFI.time",
    ]
    write_table(landing / "clinical.csv", pl.DataFrame(rows, schema=header, orient="row"))
    texts = {"case_id": ["001", "001"], "report_id": ["1", "1.0"], "text": ["a" * 60, "b" * 60]}
    write_table(landing / "reports.csv", pl.DataFrame(texts))
    rule = synthetic_contract.case_id.model_copy(update={"pattern": "[0-9]{3}"})
    site = synthetic_contract.cases.model_copy(update={"site": None})
    by_case = synthetic_contract.splits[:1]
    staged = bare(landing, case_id=rule, cases=site, rna=(), copy_number=(), mutations=(), splits=by_case)
    assert ids(staged) == numbers
    assert staged.table("reports")["report_id"].to_list() == ["1", "1.0"]


@pytest.mark.parametrize("report_id", ["", " ", None])
def test_a_row_without_its_own_identifier_is_rejected(
    corrupt: Corrupt, bare: Callable[..., Staged], report_id: str | None
) -> None:
    landing = corrupt({"reports.csv": changed("report_id", report_id)})
    assert reasons(bare(landing), "reports", first_case(landing, "reports.csv")) == ["no report_id"]


def test_a_slide_without_an_identifier_is_rejected(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    landing = corrupt({"slides.csv": changed("slide_id", "")})
    staged = read(landing)
    case_id = first_case(landing, "slides.csv")
    assert reasons(staged, "slides", case_id) == ["no slide_id"]
    if case_id not in ids(staged, "patch_bags"):
        assert state(staged, case_id, "slide") == ("failed_check", "no slide_id")


# --- cases, clinical, endpoints


def test_excluded_rows_are_quarantined_with_the_declared_reason(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt({"clinical.csv": lambda frame: changed("note", "Redacted")(frame.with_columns(note=pl.lit("")))})
    rule = Exclusion(column="note", equals="Redacted", reason="redacted by the source")
    staged = bare(landing, cases=synthetic_contract.cases.model_copy(update={"exclude": (rule,)}))
    case_id = first_case(landing)
    assert reasons(staged, "cases", case_id) == ["redacted by the source"]
    assert all(case_id not in ids(staged, table) for table in ("cases", "endpoints", "clinical", "rna", "folds"))
    assert audit(staged, "synthetic")[3].is_passed


def test_declared_exclusions_are_no_fault_whatever_their_number(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    """Half the table left out on purpose is published; the same rows, rejected for what they hold, are not."""
    every_other = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("out")).otherwise(pl.lit(""))
    landing = corrupt({"clinical.csv": lambda frame: frame.with_columns(note=every_other)})
    # worded like a fault: what counts is that the contract declares it
    rule = Exclusion(column="note", equals="out", reason="duplicate: equal to a row that was kept")
    cases = synthetic_contract.cases.model_copy(update={"exclude": (rule,)})
    staged = bare(landing, cases=cases, max_quarantined_fraction=0.01)
    assert len(reasons(staged, "cases")) == len(ids(staged)) == 40
    assert [check.name for check in audit(staged, "synthetic") if not check.is_passed] == []
    undeclared = synthetic_contract.cases.cancer_type.model_copy(
        update={"columns": ("note", "cancer_type"), "map": {"AMBER": "a"}, "lower": False}
    )
    staged = bare(landing, cases=synthetic_contract.cases.model_copy(update={"cancer_type": undeclared}))
    found = {check.name: check.found for check in audit(staged, "synthetic") if not check.is_passed}["few_rows_are_quarantined"]
    assert "most often 'cancer_type: value has no declared mapping'" in found
    assert str(staged.folder / "quarantine.parquet") in found


def test_a_cohort_the_contract_does_not_declare(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": changed("cancer_type", "ELM")})
    assert reasons(bare(landing), "cases", first_case(landing)) == ["cohort is not one the contract declares"]


def test_a_case_without_cancer_type_is_one_rejected_row(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    everyone = Value(columns=("OS",), map={"0": "synthetic", "1": "synthetic"})
    landing = corrupt({"clinical.csv": changed("cancer_type", "")})
    staged = bare(landing, cases=synthetic_contract.cases.model_copy(update={"cohort": everyone}))
    assert reasons(staged, "cases", first_case(landing)) == ["project_id: value has no declared mapping"]
    assert all(check.is_passed for check in audit(staged, "synthetic"))


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("gender", "f", "sex"),
        ("stage", "Stage V", "stage"),
        ("age_years", "-3", "age_at_diagnosis_years"),
        ("age_years", "999", "age_at_diagnosis_years"),
        ("age_years", "NaN", "age_at_diagnosis_years"),
        ("age_years", "sixty", "age_at_diagnosis_years"),
        ("diagnosis_year", "1066", "diagnosis_year"),
        ("diagnosis_year", "2010.5", "diagnosis_year"),
    ],
)
def test_a_clinical_value_out_of_range_or_unmapped_is_left_empty(
    corrupt: Corrupt, bare: Callable[..., Staged], column: str, value: str, name: str
) -> None:
    landing = corrupt({"clinical.csv": changed(column, value)})
    staged, case_id = bare(landing), first_case(landing)
    assert rejected(staged, "clinical", case_id).select("found", "reason").rows() == [
        (value, f"{name}: value has no declared mapping or is out of range")
    ]
    assert staged.table("clinical").filter(of_case == case_id)[name].to_list() == [None]
    assert state(staged, case_id, "clinical") == ("present", None)


def test_missing_values_are_empty_without_a_word(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": changed("stage", " [Not Available] ")})
    staged = bare(landing)
    assert rejected(staged, "clinical").is_empty()
    assert staged.table("clinical").filter(of_case == first_case(landing))["stage"].to_list() == [None]


def test_a_source_column_called_like_one_of_ours_is_not_taken_undeclared(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": lambda frame: frame.with_columns(race=pl.lit("x"), histology=pl.lit("y"))})
    clinical = bare(landing).table("clinical")
    assert clinical["race"].null_count() == clinical["histology"].null_count() == clinical.height


def test_values_follow_their_declared_maps(clean: Staged, clean_landing: Path) -> None:
    source = read_table(clean_landing / "clinical.csv").sort("case_id")
    clinical = clean.table("clinical").sort("case_id")
    assert clinical["sex"].to_list() == source["gender"].str.to_lowercase().to_list()
    assert clinical["grade"].to_list() == source["grade"].str.slice(1).cast(pl.Float64).to_list()
    roman = {"Stage I": 1.0, "Stage II": 2.0, "Stage III": 3.0, "Stage IV": 4.0, "[Not Available]": None}
    assert clinical["stage"].to_list() == [roman[stage] for stage in source["stage"]]
    assert clinical["diagnosis_year"].to_list() == source["diagnosis_year"].cast(pl.Int32).to_list()


def test_a_code_in_another_number_format_is_the_same_code(corrupt: Corrupt, bare: Callable[..., Staged], clean: Staged) -> None:
    landing = corrupt({"clinical.csv": lambda frame: frame.with_columns(pl.col("OS", "OS.time") + pl.lit(".0"))})
    columns = ["case_id", "endpoint", "duration_days", "event_observed"]
    assert bare(landing).table("endpoints").select(columns).equals(clean.table("endpoints").select(columns))


def test_an_event_coded_in_words_in_every_row_stops_publishing(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    words = pl.when(pl.col("OS") == "1").then(pl.lit("1:DECEASED")).otherwise(pl.lit("0:LIVING")).alias("OS")
    staged = bare(corrupt({"clinical.csv": lambda frame: frame.with_columns(words)}))
    assert set(staged.table("endpoints")["endpoint"]) == {"pfi"}
    assert set(reasons(staged, "endpoints")) == {"os: event code is none of 0, 1"}
    assert {check.name for check in audit(staged, "synthetic") if not check.is_passed} == {"few_rows_are_quarantined"}


def test_words_are_an_event_code_where_the_contract_declares_them(
    bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path
) -> None:
    os = synthetic_contract.endpoints.endpoints["os"].model_copy(
        update={"event": "vital_status", "events": {"Alive": False, "Dead": True}}
    )
    spec = synthetic_contract.endpoints.model_copy(update={"endpoints": {"os": os}})
    events = bare(clean_landing, endpoints=spec).table("endpoints")["event_observed"]
    assert events.sum() == (read_table(clean_landing / "clinical.csv")["OS"] == "1").sum()


@pytest.mark.parametrize(("unit", "days"), [("days", 1.0), ("months", 30.44), ("years", 365.25)])
def test_durations_are_days_whatever_their_unit(
    bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path, unit: str, days: float
) -> None:
    rules = synthetic_contract.endpoints.endpoints
    spec = synthetic_contract.endpoints.model_copy(update={"endpoints": {"os": rules["os"].model_copy(update={"unit": unit})}})
    found = bare(clean_landing, endpoints=spec).table("endpoints").sort("case_id")["duration_days"].to_numpy()
    times = read_table(clean_landing / "clinical.csv").sort("case_id")["OS.time"].cast(pl.Float64).to_numpy()
    np.testing.assert_allclose(found, times * days)


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "inf", "soon", "1,000"])
def test_a_duration_that_is_no_positive_number_is_rejected(corrupt: Corrupt, bare: Callable[..., Staged], value: str) -> None:
    landing = corrupt({"clinical.csv": changed("PFI.time", value)})
    rows = rejected(bare(landing), "endpoints", first_case(landing))
    assert rows.select("found", "reason").rows() == [(value, "pfi: duration is not a positive number")]


def test_an_endpoint_that_is_not_known_is_no_row_and_no_fault(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": changed("PFI", "")})
    staged, case_id = bare(landing), first_case(landing)
    assert staged.table("endpoints").filter(of_case == case_id)["endpoint"].to_list() == ["os"]
    assert rejected(staged, "endpoints").is_empty()
