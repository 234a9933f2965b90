"""Endpoints: durations from columns and dates, events by codes, the end of follow-up, notes on which endpoint suits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import rejected

from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.contract.endpoints import EndpointNotes
from feature_store.contract.rules import Value
from feature_store.contract.sources import EndpointsSource
from feature_store.ingest.stage import Staged

# case, status, days to death, days to last contact, a later contact
ROWS = [
    ("1", "Dead", "100", "90", ""),
    ("2", "Alive", "", "200", "250"),
    ("3", "Dead", "", "300", ""),  # no time of death
    ("4", "Alive", "", "", ""),
    ("5", "Alive", "", "40", "soon"),
    ("6", "1:DECEASED", "7", "", ""),
    ("7", "Gone", "7", "", ""),
    ("8", "Dead", "-3", "5", ""),
]
EVENTS = {"Alive": False, "Dead": True, "1:DECEASED": True}
# case, status, diagnosis, death, last contact, end of the study
DATES = [
    ("1", "Dead", "01.01.2010", "11.01.2010", "05.01.2010", "31.12.2015"),
    ("2", "Alive", "01.01.2015", "", "01.03.2015", "31.12.2015"),
    ("3", "Dead", "01.01.2015", "01.02.2016", "", "31.12.2015"),  # died after the study
    ("4", "Alive", "", "", "01.03.2015", "31.12.2015"),
    ("5", "Alive", "31.02.2015", "", "01.03.2015", "31.12.2015"),
    ("6", "Dead", "01.02.2016", "01.03.2016", "", "31.12.2015"),  # diagnosed after the study
    ("7", "Alive", "01.01.2015", "", "01.03.2016", ""),
]


@pytest.fixture
def found(corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract) -> Callable[..., Any]:
    """Return a function that stages rows under a rule of os, and gives (case -> duration and event, staged)."""

    def stage_it(rows: list[tuple[str, ...]], os: dict[str, Any], **more: Any) -> tuple[dict[str, tuple[float, bool]], Staged]:
        names = ["status", "death", "last", "later"] if len(rows[0]) == 5 else ["status", "start", "death", "last", "end"]
        landing = corrupt()
        case_ids = read_table(landing / "clinical.csv")["case_id"].to_list()
        frame = pl.DataFrame([(case_ids[int(row[0])], *row[1:]) for row in rows], schema=["case_id", *names], orient="row")
        frame.write_csv(landing / "outcome.csv")
        rule = {"event": "status", "events": EVENTS} | os
        source = {"path": "outcome.csv", "case_id": {"column": "case_id"}, "endpoints": {"os": rule}}
        staged = bare(landing, endpoints=EndpointsSource.model_validate(source | more), splits=synthetic_contract.splits[:1])
        rows_of = staged.table("endpoints").select("case_id", "duration_days", "event_observed").rows()
        return {str(case_ids.index(case_id)): (days, event) for case_id, days, event in rows_of}, staged

    return stage_it


def why(staged: Staged, effect: str = "rejected") -> list[tuple[str, str]]:
    return sorted(rejected(staged, "endpoints").filter(pl.col("effect") == effect).select("found", "reason").rows())


def test_the_first_column_that_is_not_missing(found: Callable[..., Any]) -> None:
    times, staged = found(ROWS, {"duration": {"columns": ["death", "last"]}, "unit": "days"})
    assert times == {"1": (100.0, True), "2": (200.0, False), "3": (300.0, True), "5": (40.0, False), "6": (7.0, True)}
    assert why(staged) == [
        ("-3", "os: duration is not a positive number"),
        ("Gone", "os: event code is none of Alive, Dead, 1:DECEASED"),
    ]


def test_the_latest_of_several_columns_of_which_each_must_be_a_number(found: Callable[..., Any]) -> None:
    times, staged = found(ROWS, {"duration": {"columns": ["death", "last", "later"], "take": "latest"}, "unit": "days"})
    assert times == {"1": (100.0, True), "2": (250.0, False), "3": (300.0, True), "6": (7.0, True), "8": (5.0, True)}
    assert ("40, soon", "os: duration is not a positive number") in why(staged)


def test_an_event_has_its_own_time_and_no_other_stands_in(found: Callable[..., Any]) -> None:
    """A death without a date is no death at the last contact."""
    rule = {"duration": {"columns": ["last", "later"]}, "event_duration": "death", "unit": "months"}
    times, _ = found(ROWS, rule)
    assert times["1"] == (pytest.approx(100 * 30.44), True)
    assert times["2"] == (pytest.approx(200 * 30.44), False)
    assert set(times) == {"1", "2", "5", "6"}


def test_durations_between_dates(found: Callable[..., Any]) -> None:
    rule = {"duration": {"from": "start", "to": ["death", "last"], "format": "%d.%m.%Y"}}
    times, staged = found(DATES, rule)
    assert times == {"1": (10.0, True), "2": (59.0, False), "3": (396.0, True), "6": (29.0, True), "7": (425.0, False)}
    assert why(staged) == [("31.02.2015 to 01.03.2015", "os: duration is not a positive number")]  # and no date for case 4


@pytest.mark.parametrize(
    "end",
    [
        {"date": "2015-12-31", "from": "start", "format": "%d.%m.%Y"},
        {"column": "end", "from": "start", "format": "%d.%m.%Y"},
    ],
)
def test_follow_up_after_its_end_does_not_count(found: Callable[..., Any], end: dict[str, str]) -> None:
    rule = {"duration": {"from": "start", "to": ["death", "last"], "format": "%d.%m.%Y"}}
    times, staged = found(DATES, rule, follow_up_end=end)
    expected = {"1": (10.0, True), "2": (59.0, False), "3": (364.0, False)}
    is_for_all = "date" in end
    assert times == expected | ({"7": (364.0, False)} if is_for_all else {})
    assert why(staged, "kept") == [
        ("396.0 days to the event", "os: cut at the end of follow-up"),
        *([("425.0 days", "os: cut at the end of follow-up")] if is_for_all else []),
    ]
    assert ("29.0 days", "os: no follow-up between time zero and its end") in why(staged)
    assert (("425.0 days", "os: no follow-up between time zero and its end") in why(staged)) is not is_for_all
    ends = dict(staged.table("endpoints").select("case_id", "follow_up_end_days").rows())
    assert sorted(ends.values()) == [364.0] * (len(times) - 1) + [2190.0]


def test_a_finding_that_keeps_the_row_is_no_rejection(found: Callable[..., Any]) -> None:
    """Every duration is cut: the rows stay, and the audit counts none of them as rejected."""
    rows = [(str(n), "Dead", "100", "", "10") for n in range(1, 9)]
    times, staged = found(rows, {"duration": "death", "unit": "days"}, follow_up_end={"column": "later", "unit": "days"})
    assert set(times.values()) == {(10.0, False)}
    assert rejected(staged, "endpoints")["effect"].to_list() == ["kept"] * 8
    assert {check.name for check in audit(staged, "synthetic") if not check.is_passed} == {"outcomes_can_be_learned"}


# --- which endpoint suits


def test_notes_on_endpoints_are_a_table_of_their_own(
    bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path
) -> None:
    advice = {
        "citation": "Somebody 2018, table 3",
        "notes": [
            {"endpoints": ["os", "pfi"], "suitability": "recommended", "note": "long follow-up"},
            {"endpoints": ["os"], "projects": ["SYN-DUNE", "SYN-GONE"], "suitability": "caution", "note": "few events"},
        ],
    }
    endpoints = synthetic_contract.endpoints.model_copy(update={"suitability": EndpointNotes.model_validate(advice)})
    notes = bare(clean_landing, endpoints=endpoints).table("endpoint_notes")
    assert notes.height == 2 * 4
    assert set(notes["citation"]) == {"Somebody 2018, table 3"}
    of_os = notes.filter(pl.col("endpoint") == "os").select("project_id", "cancer_type", "suitability").rows()
    assert sorted(of_os) == [
        ("SYN-AMBER", "amber", "recommended"),
        ("SYN-BIRCH", "birch", "recommended"),
        ("SYN-CEDAR", "cedar", "recommended"),
        ("SYN-DUNE", "dune", "caution"),
    ]


def test_without_advice_there_are_no_notes(clean: Staged) -> None:
    assert clean.table("endpoint_notes").is_empty()


# --- units of values


@pytest.mark.parametrize(("unit", "per_year"), [("days", 365.25), ("months", 365.25 / 30.44), ("years", 1.0)])
def test_an_age_in_another_unit_becomes_years(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, unit: str, per_year: float
) -> None:
    landing = corrupt(
        {"clinical.csv": lambda f: f.with_columns((pl.col("age_years").cast(pl.Float64) * per_year).cast(pl.String))}
    )
    columns = synthetic_contract.clinical.columns | {"age_at_diagnosis_years": Value(columns=("age_years",), unit=unit)}
    clinical = bare(landing, clinical=synthetic_contract.clinical.model_copy(update={"columns": columns})).table("clinical")
    ages = dict(read_table(landing / "clinical.csv").select("case_id", pl.col("age_years").cast(pl.Float64) / per_year).rows())
    for case_id, age in clinical.select("case_id", "age_at_diagnosis_years").rows():
        assert age == pytest.approx(ages[case_id])


def test_an_age_that_is_no_time_is_left_empty(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    """An age in days that is read as years is out of range; days that are declared are not."""
    landing = corrupt({"clinical.csv": lambda frame: frame.with_columns(age_years=pl.lit("20000"))})
    assert bare(landing).table("clinical")["age_at_diagnosis_years"].count() == 0
    columns = synthetic_contract.clinical.columns | {"age_at_diagnosis_years": Value(columns=("age_years",), unit="days")}
    clinical = bare(landing, clinical=synthetic_contract.clinical.model_copy(update={"columns": columns})).table("clinical")
    assert set(clinical["age_at_diagnosis_years"]) == {20000 / 365.25}
