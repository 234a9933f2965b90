"""What a training set refuses: one person as two cases, a slide of two cases, later knowledge, held-out rows in a fit."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import reasons

from feature_store import training_set
from feature_store.contract.rules import Identifier, Value
from feature_store.contract.sources import AliasSource, FollowUpSource
from feature_store.errors import LeakageError
from feature_store.home import Home
from feature_store.ingest.stage import Staged
from feature_store.lake import Lake
from feature_store.leakage import refuse_held_out
from feature_store.publish import Write, publish, publish_cohort
from feature_store.tables import BY_NAME, CASE_ALIASES, CASES, ENDPOINTS, FOLDS, FOLLOW_UP, PATCH_BAGS, SLIDES, Table
from feature_store.training_set import TrainingSet, latest_snapshot, read_training_set, training_set_id

SPLIT = "synthetic-3fold"
CASE_ID = Identifier(column="case_id")
OTHERS = ("EXT-1", "EXT-2")


@pytest.fixture
def home(published_home: Home, tmp_path: Path) -> Home:
    """A copy of the published store."""
    copy = Home(tmp_path / "home")
    shutil.copytree(published_home.root / "store", copy.root / "store")
    return copy


def table_of(home: Home, table: Table) -> pl.DataFrame:
    """Return the rows of the cohort `synthetic`."""
    with Lake(home).reader() as connection:
        rows = connection.execute(f'FROM "{table.name}" WHERE cohort = ? ORDER BY ALL', ["synthetic"]).to_arrow_table()
    return table.conform(pl.DataFrame(rows))


@pytest.fixture
def our_case(home: Home) -> str:
    """A case with overall survival and a slide."""
    return str(table_of(home, ENDPOINTS).join(table_of(home, PATCH_BAGS), on="case_id", how="semi")["case_id"][0])


@pytest.fixture
def with_another_cohort(home: Home) -> Callable[..., TrainingSet]:
    """Return a function that publishes a second cohort of two cases, with some tables of its own, and reads both cohorts."""

    def read(writes: dict[Table, pl.DataFrame]) -> TrainingSet:
        pattern = {table: table_of(home, table).head(2) for table in (CASES, FOLDS)}
        pattern[ENDPOINTS] = table_of(home, ENDPOINTS).filter(pl.col("endpoint") == "os").head(2)
        rows = {table: frame.with_columns(case_id=pl.Series(OTHERS)) for table, frame in pattern.items()} | writes
        frames = [Write(table, "other", frame.with_columns(cohort=pl.lit("other"))) for table, frame in rows.items()]
        publish(Lake(home), frames, "publish cohort other")
        return whole(home, ("synthetic", "other"))

    return read


def whole(home: Home, cohorts: Sequence[str] = ("synthetic",), **more: object) -> TrainingSet:
    return read_training_set(Lake(home), latest_snapshot(Lake(home)), cohorts, "os", SPLIT, **more)


def aliases(*rows: tuple[str, str], cohort: str = "other") -> pl.DataFrame:
    full = [(case_id, cohort, alias, "hospital register", "0" * 64) for case_id, alias in rows]
    return pl.DataFrame(full, schema=CASE_ALIASES.schema, orient="row")


# --- people


def test_two_cases_that_share_nothing_are_two_people(with_another_cohort: Callable[..., TrainingSet]) -> None:
    data = with_another_cohort({CASE_ALIASES: aliases(("EXT-1", "H-1"), ("EXT-2", "H-2"))})
    assert set(OTHERS) < set(data.cases["case_id"])


@pytest.mark.parametrize(
    "rows",
    [
        [("EXT-1", "{ours}")],
        [("EXT-1", "H-1"), ("EXT-2", "H-1")],
        [("EXT-1", "H-1"), ("GONE-9", "H-1"), ("GONE-9", "{ours}")],
    ],
    ids=["the other's identifier", "the same alias", "by way of a case that is not in the set"],
)
def test_one_person_as_two_cases_is_refused(
    with_another_cohort: Callable[..., TrainingSet], our_case: str, rows: list[tuple[str, str]]
) -> None:
    named = aliases(*((case_id, alias.format(ours=our_case)) for case_id, alias in rows))
    with pytest.raises(LeakageError, match=r"1 people with several cases, .*'EXT-1'.*: EXT-1 is .* \(hospital register\)"):
        with_another_cohort({CASE_ALIASES: named})


def test_aliases_of_both_cohorts_are_held_against_each_other(
    home: Home, with_another_cohort: Callable[..., TrainingSet], our_case: str
) -> None:
    before = training_set_id(Lake(home), latest_snapshot(Lake(home)), ["synthetic"], "os", SPLIT)
    publish(Lake(home), [Write(CASE_ALIASES, "synthetic", aliases((our_case, "H-1"), cohort="synthetic"))], "publish cohort x")
    assert whole(home).training_set_id != before
    with pytest.raises(LeakageError, match="1 people with several cases"):
        with_another_cohort({CASE_ALIASES: aliases(("EXT-2", "H-1"))})
    assert len(whole(home, ["other"])) == len(OTHERS)  # each cohort alone is fine
    assert our_case in whole(home).cases["case_id"]


# --- slides


def test_a_slide_of_two_cases_is_refused(home: Home, with_another_cohort: Callable[..., TrainingSet], our_case: str) -> None:
    own = table_of(home, SLIDES).filter(pl.col("case_id") == our_case).head(1)
    with pytest.raises(
        LeakageError, match=rf"1 slides or bags with several cases.* first slide .* of cases \['EXT-1', '{our_case}'\]"
    ):
        with_another_cohort({SLIDES: own.with_columns(case_id=pl.lit("EXT-1"))})


def test_a_renamed_copy_of_a_slide_is_refused_by_its_patches(
    home: Home, with_another_cohort: Callable[..., TrainingSet], our_case: str
) -> None:
    bag = table_of(home, PATCH_BAGS).filter(pl.col("case_id") == our_case).head(1)
    with pytest.raises(LeakageError, match=r"first equal patches, bag [0-9a-f]{64}"):
        with_another_cohort({PATCH_BAGS: bag.with_columns(case_id=pl.lit("EXT-1"), slide_id=pl.lit("another name"))})


# --- aliases as a contract declares them


def test_aliases_are_read_as_declared(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt()
    first, second, third, fourth = read_table(landing / "clinical.csv")["case_id"][:4]
    register = {
        "case_id": [first, f" {second} ".lower(), third, fourth, first, "SYN-ZZ-9009"],
        "record": ["17/a", "18/a", "[Not Available]", "nineteen", "17/a", "20/a"],
    }
    pl.DataFrame(register).write_csv(landing / "register.csv")
    alias = Identifier(column="record", extract="^([0-9]+)/A$")
    spec = AliasSource(path="register.csv", case_id=CASE_ID, alias=alias, source="register", prefix="R-")
    own = AliasSource(path="clinical.csv", case_id=CASE_ID, alias=CASE_ID, source="its own name")
    staged = bare(landing, aliases=(spec, own))
    found = staged.table("case_aliases").select("case_id", "alias", "source").rows()
    assert sorted(found) == sorted([(first, "R-17", "register"), (second, "R-18", "register")])
    assert reasons(staged, "case_aliases", fourth) == ["alias does not match ^([0-9]+)/A$"]
    assert reasons(staged, "case_aliases", "SYN-ZZ-9009") == ["case is not in the cases table"]
    assert "register.csv" in staged.table("sources")["path"].to_list()


# --- later knowledge


def test_what_became_known_later_is_stored_and_refused_by_name(
    corrupt: Corrupt, bare: Callable[..., Staged], tmp_path: Path
) -> None:
    landing = corrupt()
    case_ids = read_table(landing / "clinical.csv")["case_id"]
    later = pl.DataFrame({"case_id": case_ids, "response": "CR", "therapy": "chemo", "recurrence": "210"})
    later = later.with_columns(response=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("splendid")).otherwise("response"))
    later.write_csv(landing / "later.csv")
    rules = {
        "treatment_response": Value(columns=("response",), map={"CR": "complete_response"}),
        "adjuvant_treatment": Value(columns=("therapy",)),
        "new_tumour_event_days": Value(columns=("recurrence",)),
    }
    staged = bare(landing, follow_up=FollowUpSource(path="later.csv", case_id=CASE_ID, columns=rules))
    lake = Lake(Home(tmp_path / "home"))
    publish_cohort(lake, staged, "synthetic")
    stored = table_of(lake.home, FOLLOW_UP)
    assert stored["new_tumour_event_days"].to_list() == [210.0] * len(case_ids)
    assert stored["treatment_response"].null_count() == 1
    assert reasons(staged, "follow_up", case_ids[0])[0].startswith("treatment_response: value has no declared mapping")
    for name, when in (("treatment_response", "end of the first treatment"), ("new_tumour_event_days", "the new tumour event")):
        with pytest.raises(
            LeakageError, match=rf"{name}: role post_treatment, known at {when} \(table follow_up\), expected a base"
        ):
            whole(lake.home, clinical_features=["sex", name])


def test_no_table_that_training_reads_holds_later_knowledge() -> None:
    """The outcomes have a table of their own; a column known later that is declared elsewhere would come along unnoticed."""
    late = [
        f"{name}.{column.name}"
        for name in training_set._FEATURE_TABLES
        for column in BY_NAME[name].columns
        if column.role not in ("key", "baseline", "provenance") or column.known_at not in ("time zero", "ingest")
    ]
    assert late == ["endpoints.duration_days", "endpoints.event_observed", "endpoints.follow_up_end_days"]
    assert not {FOLLOW_UP.name, "predictions", "evaluations"} & set(training_set._FEATURE_TABLES)


# --- rows


def test_held_out_rows_are_refused_in_a_fit() -> None:
    cases = pl.DataFrame({"case_id": ["a", "b", "c", "d"], "fold": [0, 1, None, 0]})
    refuse_held_out(cases, np.array([1, 2]), 0)
    with pytest.raises(
        LeakageError, match=r"fit without fold 0: 1 of its 3 rows are held out in it, expected none; first \['d'\]"
    ):
        refuse_held_out(cases, np.array([1, 2, 3]), 0)
