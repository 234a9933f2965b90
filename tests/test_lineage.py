"""Lineage of a case: every table, file, bag, state and rejection, and which networks saw it, held against the protocol."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from feature_store.errors import CaseMissingError
from feature_store.home import Home
from feature_store.ingest.stage import code_version
from feature_store.lake import Lake
from feature_store.lineage import case_lineage
from feature_store.trained_on import models_trained_on
from mice_cli.main import app
from mice_model.data import open_study
from mice_model.study import load_study

PARTS = ("pipeline", "pretrained-seed0", "amber-seed0")


@pytest.fixture(scope="module")
def home(published_home, tmp_path_factory):
    """A copy of the shared store with a model of the demo study, whose networks are empty files, and two odd model folders."""
    copy = Home(tmp_path_factory.mktemp("lineage"))
    for name in ("store", "staging"):
        shutil.copytree(published_home.root / name, copy.root / name)
    study = load_study(Path(__file__).parents[1] / "studies" / "demo.yaml").model_dump(mode="json")
    plans = {
        "m1": {"snapshot_id": 2, "study": study, "code": "abc"},
        "m2": {"snapshot_id": 99, "study": study, "code": "abc"},
        "m3": {},
        "m4": {"snapshot_id": 2, "study": {**study, "leave_out_cancer_types": ["amber"]}, "code": "abc"},
    }
    for name, plan in plans.items():
        for fold in range(3):
            (copy.models / name / f"fold-{fold}").mkdir(parents=True)
            for part in PARTS:
                (copy.models / name / f"fold-{fold}" / f"{part}.safetensors").touch()
        (copy.models / name / "plan.json").write_text(json.dumps(plan))
    return copy


@pytest.fixture(scope="module")
def case_id(home):
    with Lake(home).reader() as connection:
        return connection.execute(
            "SELECT min(case_id) FROM cases JOIN folds USING (case_id) JOIN patch_bags USING (case_id) JOIN rna USING (case_id) "
            "WHERE cancer_type = 'amber'"
        ).fetchone()[0]


def test_rows_come_with_their_source_files(home, case_id, dirty_landing):
    found = case_lineage(home, case_id)
    by_table = {record["table"]: record for record in found.rows}
    assert by_table["endpoints"]["num_rows"] == 2
    assert not any(record["sources_unknown"] for record in found.rows)
    for name, path in (("clinical", "clinical.csv"), ("rna", "rna.csv.gz")):
        (source,) = by_table[name]["sources"]
        data = (dirty_landing / path).read_bytes()
        assert source == {
            "path": path,
            "source_sha256": hashlib.sha256(data).hexdigest(),
            "num_bytes": len(data),
            "contract": "synthetic",
        }
    bag = found.bags[0]
    assert (home.bags / bag["shard"]).is_file()
    assert bag["encoder"] == "synthetic-32"
    assert by_table["patch_bags"]["sources"][0]["path"] == f"slides/{bag['slide_id']}.h5"
    assert {record["modality"] for record in found.modalities} == {
        "clinical",
        "rna",
        "copy_number",
        "protein",
        "mutations",
        "report",
        "slide",
    }
    assert found.folds[0]["split"] == "synthetic-3fold"


def test_the_ingest_is_named_by_its_content_key(home, case_id, tmp_path):
    (staged,) = (path.name for path in (home.staging / "synthetic").iterdir() if path.is_dir())
    (ingest,) = case_lineage(home, case_id).ingests
    assert (ingest["contracts"], ingest["ingest_key"], ingest["code_version"]) == (["synthetic"], staged, code_version())
    assert f"by ingest code {code_version()}, key of content and ingest code {staged}" in run(home, case_id).stdout
    bare = Home(tmp_path)
    shutil.copytree(home.root / "store", bare.root / "store")
    (ingest,) = case_lineage(bare, case_id).ingests
    assert ingest["ingest_key"] is None


def test_rejected_rows_are_found_by_what_they_named(home):
    with Lake(home).reader() as connection:
        rows = connection.execute("SELECT DISTINCT case_id_found FROM quarantine").fetchall()
        cases = {row[0] for row in connection.execute("SELECT case_id FROM cases").fetchall()}
    exact = sorted({row[0] for row in rows if row[0]} & cases)
    assert exact
    for case_id in exact[:1]:
        found = case_lineage(home, case_id)
        assert case_id in {record["case_id_found"] for record in found.quarantined}
    unknown = next(name for (name,) in rows if name and name.startswith("SYN-") and name not in cases)
    assert case_lineage(home, unknown).quarantined
    assert case_lineage(home, unknown).cases == []
    with pytest.raises(CaseMissingError, match="SYN-A"):
        case_lineage(home, "SYN-A")  # the beginning of an identifier names nobody
    with pytest.raises(CaseMissingError):
        case_lineage(home, ".*")


def test_networks_that_saw_a_case_are_those_the_protocol_trains_on_it(home):
    study = load_study(Path(__file__).parents[1] / "studies" / "demo.yaml")
    with open_study(study, home, 2, ["synthetic"]) as data:
        case_ids = data.training_set.cases["case_id"].to_list()
        trained = {fold: set(np.array(case_ids)[data.training_rows(fold)].tolist()) for fold in study.folds}
    for case_id in case_ids[::9]:
        found = {entry.model_version: entry for entry in models_trained_on(home, case_id)}["m1"]
        expected = {f"fold-{fold}/{part}" for fold in study.folds for part in PARTS if case_id in trained[fold]}
        assert set(found.saw) == expected
        assert len(found.saw) + len(found.did_not_see) == 9
        assert (found.study, found.code, found.note) == ("demo", "abc", "")


def test_what_cannot_be_told_is_said(home, case_id):
    found = {entry.model_version: entry for entry in models_trained_on(home, case_id)}
    assert found["m2"].note.startswith("snapshot 99 cannot be read: unknown")
    assert found["m3"].note.startswith("no readable plan.json")
    assert (found["m4"].note, found["m4"].saw) == ("not in its training set", ())


def run(home, *arguments):
    return CliRunner().invoke(app, ["lineage", *arguments, "--home", str(home.root)])


def test_command(home, case_id):
    done = run(home, case_id)
    assert done.exit_code == 0, done.output
    for text in (
        f"case {case_id} in snapshot 2",
        "    cases: 1",
        "      clinical.csv (",
        "saw the case: fold-",
        "slide: present",
    ):
        assert text in done.stdout
    found = json.loads(run(home, case_id, "--format", "json").stdout)
    assert found["case_id"] == case_id
    assert {model["model_version"] for model in found["trained"]} == {"m1", "m2", "m3", "m4"}
    assert run(home, case_id, "--snapshot", "1").exit_code == 0  # no row, but the networks that saw it


def test_command_errors(home):
    failed = run(home, "SYN-XX-0000")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert "case SYN-XX-0000: no row in snapshot 2" in failed.stderr
