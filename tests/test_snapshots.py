"""The list of snapshots and the differences between two, on a copy of the shared store with planted changes."""

import json
import shutil

import polars as pl
import pytest
from typer.testing import CliRunner

from feature_store.errors import SnapshotMissingError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import Write, publish
from feature_store.snapshots import diff_snapshots, list_snapshots
from feature_store.tables import BY_NAME, CASES, CLINICAL, EVALUATIONS, QUARANTINE, RNA
from mice_cli.main import app


def current(home, table):
    with Lake(home).reader() as connection:
        return pl.DataFrame(connection.execute(f'FROM "{table.name}" ORDER BY ALL').to_arrow_table())


@pytest.fixture(scope="module")
def changed(published_home, tmp_path_factory):
    """A copy of the store; snapshot 3 changes one RNA value, one stage, a rejection's reason, takes a case, brings another."""
    home = Home(tmp_path_factory.mktemp("changed"))
    shutil.copytree(published_home.root / "store", home.root / "store")
    cases, clinical, rna, quarantine = (current(home, table) for table in (CASES, CLINICAL, RNA, QUARANTINE))
    ids = cases["case_id"].sort().to_list()
    gone, staged = ids[3], clinical["case_id"][0]
    new = cases.head(1).with_columns(case_id=pl.lit("SYN-ZZ-9999"))
    values = rna["values"].to_list()
    values[0] = [*values[0][:5], values[0][5] + 1.0, *values[0][6:]]
    writes = [
        Write(CASES, "synthetic", pl.concat([cases.filter(pl.col("case_id") != gone), new])),
        Write(
            CLINICAL,
            "synthetic",
            clinical.with_columns(stage=pl.when(pl.col("case_id") == staged).then(0.0).otherwise("stage")),
        ),
        Write(RNA, "synthetic", rna.with_columns(pl.Series("values", values, pl.List(pl.Float32)))),
    ]
    publish(Lake(home), writes, "publish cohort synthetic")
    evaluation = {"model_version": "m1", "study": "demo", "snapshot_id": 2, "training_set_id": "t", "cancer_type": "amber"}
    evaluation |= {"model": "mice", "protocol": "test"}
    rows = pl.DataFrame([evaluation | dict.fromkeys(set(EVALUATIONS.schema) - set(evaluation))])
    publish(Lake(home), [Write(EVALUATIONS, "m1", EVALUATIONS.conform(rows))], "publish predictions of m1")
    (home.models / "m2").mkdir(parents=True)
    (home.models / "m2" / "plan.json").write_text(json.dumps({"snapshot_id": 3}))
    return home, {"gone": gone, "stage": staged, "rna": rna["case_id"][0], "quarantine": quarantine}


def test_snapshots_say_what_they_published_and_who_holds_them(changed):
    found = {one.snapshot_id: (one.kind, one.subject, one.pinned_by) for one in list_snapshots(changed[0])}
    assert found == {
        0: ("other", "", ()),
        1: ("other", "", ()),
        2: ("cohort", "synthetic", ("m1",)),
        3: ("cohort", "synthetic", ("m2",)),
        4: ("model", "m1", ()),
    }


def test_a_diff_finds_exactly_the_planted_changes(changed):
    home, planted = changed
    found = {one.table: one for one in diff_snapshots(home, 2, 4).scopes}
    assert set(found) == {"cases", "clinical", "rna", "evaluations"}
    assert (found["cases"].added, found["cases"].gone, found["cases"].changed) == (("SYN-ZZ-9999",), (planted["gone"],), ())
    for name, case_id in (("clinical", planted["stage"]), ("rna", planted["rna"])):
        assert (found[name].added, found[name].gone, found[name].changed) == ((), (), (case_id,))
        assert found[name].num_rows_before == found[name].num_rows_after == current(home, BY_NAME[name]).height
    assert (found["evaluations"].scope, found["evaluations"].added) == ("m1", ("amber mice",))
    assert (found["evaluations"].num_rows_before, found["evaluations"].num_rows_after) == (0, 1)


def test_a_diff_backwards_swaps_added_and_gone(changed):
    home, planted = changed
    found = {one.table: one for one in diff_snapshots(home, 4, 2).scopes}
    assert (found["cases"].added, found["cases"].gone) == ((planted["gone"],), ("SYN-ZZ-9999",))


def test_a_snapshot_does_not_differ_from_itself_or_from_an_unrelated_commit(changed):
    assert diff_snapshots(changed[0], 2, 2).scopes == ()
    assert {one.table for one in diff_snapshots(changed[0], 3, 4).scopes} == {"evaluations"}


def test_the_first_publication_adds_everything(changed, published_home):
    found = diff_snapshots(changed[0], 1, 2).scopes
    (rna,) = (one for one in found if one.table == "rna")
    assert len(rna.added) == rna.num_rows_after == current(published_home, RNA).height
    assert (rna.num_rows_before, rna.gone, rna.changed) == (0, (), ())
    quarantine = [one for one in found if one.table == "quarantine"]
    assert {one.scope for one in quarantine} == {"synthetic", "synthetic:unassigned"}
    assert {one.entity for one in quarantine} == {"table_name case_id_found"}
    assert sum(one.num_rows_after for one in quarantine) == current(published_home, QUARANTINE).height


def test_columns_added_gone_and_of_another_type(changed, tmp_path):
    home = Home(tmp_path)
    shutil.copytree(changed[0].root / "store", home.root / "store")
    with Lake(home).transaction("alter", "k") as transaction:
        transaction.connection.execute("ALTER TABLE clinical ADD COLUMN bmi DOUBLE")
        transaction.connection.execute("ALTER TABLE clinical DROP COLUMN race")
        transaction.connection.execute("ALTER TABLE clinical ALTER diagnosis_year SET TYPE BIGINT")
        transaction.connection.execute("DROP TABLE evaluations")
    found = diff_snapshots(home, 4, 5)
    assert found.columns_added == ("clinical.bmi DOUBLE", "clinical.diagnosis_year BIGINT")
    assert {"clinical.race VARCHAR", "clinical.diagnosis_year INTEGER", "evaluations.c_index DOUBLE"} <= set(found.columns_gone)
    assert [(one.table, one.gone) for one in found.scopes] == [("evaluations", ("amber mice",))]  # a column is no case's change


@pytest.mark.parametrize("ids", [(0, 2), (2, 99)])
def test_a_diff_with_no_such_snapshot(changed, ids):
    with pytest.raises(SnapshotMissingError):
        diff_snapshots(changed[0], *ids)


def run(home, *arguments):
    return CliRunner().invoke(app, [*arguments, "--home", str(home.root)])


def test_commands(changed):
    home, planted = changed
    listed = json.loads(run(home, "snapshots", "--format", "json").stdout)
    assert [one["is_pinned"] for one in listed] == [False, False, True, True, False]
    table = run(home, "snapshots").stdout.splitlines()
    assert table[0].split() == ["id", "time", "message", "kind", "of", "pinned", "by"]
    assert "publish cohort synthetic" in table[3]
    difference = json.loads(run(home, "diff", "2", "3", "--format", "json").stdout)
    assert {one["table"] for one in difference["scopes"]} == {"cases", "clinical", "rna"}
    assert f"1 ({planted['gone']})" in run(home, "diff", "2", "3").stdout
    assert run(home, "diff", "3", "3").stdout == "snapshots 3 and 3: every row is the same.\n"
    failed = run(home, "diff", "2", "99")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error: feature store")


def test_commands_without_a_store(tmp_path):
    failed = run(Home(tmp_path), "snapshots")
    assert failed.exit_code == 2
    assert "no catalog at" in failed.stderr
