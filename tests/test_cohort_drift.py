"""The named query `cohort_drift`, on two small cohorts whose differences are worked out by hand."""

import math

import polars as pl
import pytest

import sql
from feature_store.analyst import analyst_connection
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import Write, publish
from feature_store.tables import CASES, CLINICAL, ENDPOINTS, MODALITY_MATRIX

# cohort -> per case: cancer type, age, stage, sex, days, event, whether it has RNA
COHORTS = {
    "old": [
        ("a", 50, 1, "female", 100, True, True),
        ("a", 60, 2, "female", 200, False, True),
        ("b", 70, 3, "male", 300, False, True),
    ],
    "new": [
        ("a", 60, 2, "male", 50, True, True),
        ("b", 70, 3, "male", 150, False, False),
        ("c", 80, None, None, 250, False, True),
    ],
}


@pytest.fixture(scope="module")
def analyst(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    for cohort, people in COHORTS.items():
        rows: dict = {CASES: [], CLINICAL: [], ENDPOINTS: [], MODALITY_MATRIX: []}
        for number, (cancer_type, age, stage, sex, days, is_event, has_rna) in enumerate(people):
            who = {"case_id": f"{cohort}-{number}", "cohort": cohort, "source_sha256": ""}
            rows[CASES].append({**who, "project_id": "p", "cancer_type": cancer_type})
            rows[CLINICAL].append({**who, "age_at_diagnosis_years": age, "stage": stage, "sex": sex})
            rows[ENDPOINTS].append({**who, "endpoint": "os", "duration_days": days, "event_observed": is_event})
            rows[MODALITY_MATRIX].append({**who, "modality": "rna", "state": "present" if has_rna else "absent"})
        frames = {table: pl.DataFrame(found, schema_overrides=table.schema) for table, found in rows.items()}
        writes = [
            Write(
                table,
                cohort,
                pl.concat([table.empty(), frame.select(c for c in frame.columns if c in table.schema)], how="diagonal"),
            )
            for table, frame in frames.items()
        ]
        publish(Lake(home), writes, f"publish cohort {cohort}")
    with analyst_connection(home) as connection:
        yield connection


def drift(analyst, **values) -> dict:
    query = sql.load("cohort_drift")
    return {(row["cohort"], row["variable"]): row for row in analyst.query(query.text, query.bind(values)).to_pylist()}


def test_two_cohorts_by_hand(analyst):
    found = drift(analyst, reference_cohort="old", cohort="new")
    expected = {  # cases, values, statistic
        "age_at_diagnosis_years": (3, 3, 60, 70, 10 / 10),  # both standard deviations are 10
        "stage": (3, 2, 2, 2.5, 0.5 / math.sqrt((1 + 0.5) / 2)),
        "cancer_type": (3, 3, 2 / 3, 1 / 3, 1 / 3),  # a 2/3 to 1/3, b 1/3 to 1/3, c 0 to 1/3
        "sex": (3, 2, 2 / 3, 0, 2 / 3),
        "share_rna": (3, 3, 1, 2 / 3, -1 / 3),
        "share_events": (3, 3, 1 / 3, 1 / 3, 0),
        # censoring: of those at risk 1 of 2 at 200 days (one half is left), and 1 of 2 at 150 days
        "median_follow_up_days": (3, 3, 200, 150, -1 / 4),
    }
    for variable, (num_reference, num_cohort, reference, cohort, statistic) in expected.items():
        row = found["new", variable]
        assert (row["reference_cohort"], row["num_reference"], row["num_cohort"]) == ("old", num_reference, num_cohort), variable
        assert (row["value_reference"], row["value_cohort"]) == pytest.approx((reference, cohort)), variable
        assert row["statistic"] == pytest.approx(statistic), variable
    assert {variable for _, variable in found} - set(expected) == {"grade"}  # nobody's is known
    assert (found["new", "grade"]["statistic"], found["new", "grade"]["reading"]) == (None, "not comparable")
    assert (found["new", "cancer_type"]["level"], found["new", "sex"]["level"]) == ("a", "female")
    assert found["new", "share_events"]["reading"] == "similar"
    assert found["new", "share_rna"]["reading"] == found["new", "median_follow_up_days"]["reading"] == "differs strongly"


def test_the_other_way_round_the_sign_changes(analyst):
    there, back = drift(analyst, reference_cohort="old"), drift(analyst, reference_cohort="new")
    assert {cohort for cohort, _ in there} == {"new"}
    assert back["old", "age_at_diagnosis_years"]["statistic"] == -there["new", "age_at_diagnosis_years"]["statistic"]
    assert back["old", "sex"]["statistic"] == pytest.approx(there["new", "sex"]["statistic"])


def test_without_a_reference_each_cohort_is_held_against_all(analyst):
    found = drift(analyst)
    assert {cohort for cohort, _ in found} == {"old", "new"}
    assert found["new", "age_at_diagnosis_years"]["value_reference"] == pytest.approx((50 + 60 + 70 + 60 + 70 + 80) / 6)
    assert found["new", "age_at_diagnosis_years"]["reference_cohort"] is None


@pytest.mark.parametrize(
    "values", [{"cohort": "O'Hare"}, {"reference_cohort": "O'Hare"}, {"cohort": "old", "reference_cohort": "old"}]
)
def test_cohorts_that_are_not_there_give_no_rows(analyst, values):
    assert drift(analyst, **values) == {}
