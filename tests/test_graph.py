"""The whole graph through a real Dagster instance, in process, on a small synthetic cohort: what `make demo` does."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import polars as pl
import pytest
import torch
import yaml

from dagster_project.launch import RunFailedError, materialize_cohorts, open_instance, train
from dagster_project.resources import REPOSITORY, Platform
from feature_store.errors import ContractError
from feature_store.home import Home
from feature_store.lake import Lake
from mice_cli.results import result_line, result_table
from mice_model import service

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

STUDY = {
    "name": "small",
    "description": "the demo, small",
    "contracts": ["synthetic"],
    "split": "synthetic-folds",
    "evaluate": ["amber", "birch"],
    "folds": [0, 1],
    "features": {
        "modalities": ["slide", "omics", "report", "clinical"],
        "patches_per_case": 16,
        "report_min_documents": 2,
        "report_components": 8,
    },
    "network": {"width": 16, "omics_hidden": [16], "overlapping_ranks": [2, 4], "top_k": 1, "expert_rank": 4, "num_time_bins": 3},
    "pretrain": {"epochs": 2, "batch_size": 32},
    "finetune": {"epochs": 1, "batch_size": 32, "epoch_selection": "fixed"},
}


def small_platform(folder, study=STUDY, num_workers=1, **changes):
    """A platform whose shipped synthetic contract is shrunk, everything else as it is."""
    contract = yaml.safe_load((REPOSITORY / "cohorts" / "synthetic.yaml").read_text(encoding="utf-8"))
    contract["generator"] = {"num_cases": 120, "num_genes": 40, "slide_dim": 16, "mean_patches": 30, "seed": 3, **changes}
    contract["slides"][0]["encoder"]["dim"] = 16
    contract["splits"] = [{"kind": "random", "name": "synthetic-folds", "num_folds": 2, "seed": 0}]
    contract["max_quarantined_fraction"] = 0.2
    for name, content in (("cohorts/synthetic.yaml", contract), ("studies/small.yaml", study)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Platform(
        home_folder=str(folder / "home"),
        contracts_folder=str(folder / "cohorts"),
        studies_folder=str(folder / "studies"),
        study=study["name"],
        num_workers=num_workers,
    )


@pytest.fixture(scope="module", autouse=True)
def alone():
    """No catalog of the environment's, and one thread, as a worker has: two wait for each other on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MICE_CATALOG", raising=False)
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A platform on which the whole graph has run once, and its instance."""
    platform = small_platform(tmp_path_factory.mktemp("graph"))
    with open_instance(platform.home.dagster) as instance:
        materialize_cohorts(platform, instance, ["synthetic"])
        train(platform, instance)
        yield platform, instance


def rows(platform, query, **parameters):
    with Lake(platform.home).reader() as connection:
        return pl.DataFrame(connection.execute(query, parameters).to_arrow_table())


def test_every_asset_is_materialized(finished):
    _platform, instance = finished
    keys = {key.to_user_string() for key in instance.all_asset_keys()}
    assert {"landing", "staged_cohort", "store/cases", "evaluation", "store/predictions"} <= keys


def test_predictions_are_rows_of_the_store(finished):
    platform, _ = finished
    found = rows(platform, "SELECT * FROM predictions")
    held_out = rows(platform, "SELECT case_id FROM cases JOIN folds USING (case_id) WHERE cancer_type IN ('amber', 'birch')")
    assert sorted(found["case_id"]) == sorted(held_out["case_id"])
    assert found["risk_score"].is_finite().all()
    survival = found["survival"].list.to_array(3).to_numpy()
    assert ((survival >= 0) & (survival <= 1)).all()
    assert (survival[:, :-1] >= survival[:, 1:]).all()
    assert found["model_version"].n_unique() == 1
    folds = rows(platform, "SELECT case_id, fold FROM folds")
    assert found.join(folds, on=["case_id", "fold"], how="anti").is_empty(), "a case is scored by the networks that held it out"
    lacked = rows(platform, "SELECT case_id, modality FROM modality_matrix WHERE state <> 'present' ORDER BY ALL")
    lacked = lacked.group_by("case_id").agg(missing=pl.col("modality").str.join(","))
    expected = found.select("case_id").join(lacked, on="case_id", how="left", maintain_order="left")["missing"].fill_null("")
    assert found["missing_modalities"].to_list() == expected.to_list()
    assert found["missing_modalities"].n_unique() > 1


def test_result_line_has_what_the_demo_promises(finished):
    platform, _ = finished
    line = json.loads(json.dumps(result_line(platform.plan)))
    assert set(line) == {
        "study", "cases", "events", "cases_with_rna_mutations_copy_number_report", "cases_with_slide", "snapshot",
        "training_set_id", "model_version", "c_index", "cox_c_index", "rsf_c_index", "cohorts", "p", "folds", "seeds", "width",
        "epochs", "seconds", "report",
    }  # fmt: skip
    assert set(line["seconds"]) == {"prepare", "pretrain", "finetune", "evaluate"}
    assert 0 <= line["c_index"] <= 1
    assert str(line["c_index"])[:4] in result_table(platform.plan).replace("\n", " ")
    assert (platform.home.reports / line["report"].rsplit("/", 1)[-1]).is_file()


def test_counts_are_kept(finished, monkeypatch):
    platform, _ = finished
    plan = platform.plan
    counts = service.count_training_cases(plan)
    assert counts["cases"] == rows(platform, "SELECT count(*) AS n FROM endpoints WHERE endpoint = 'os'")["n"][0]
    assert counts["events"] < counts["cases"]
    monkeypatch.setattr(service, "open_study", None)  # the training set is not read again
    assert service.count_training_cases(plan) == counts


def test_evaluation_by_other_code_is_made_anew_and_trains_nothing(finished):
    platform, _ = finished
    plan = platform.plan
    kept, made = plan.folder / "summary.json", plan.report.stat().st_mtime_ns
    summary = service.evaluate_study(plan)
    assert plan.report.stat().st_mtime_ns == made
    weights = {p: p.stat().st_mtime_ns for p in plan.folder.rglob("*.safetensors")}
    kept.write_text(json.dumps({**summary, "code": "older"}), encoding="utf-8")
    assert service.evaluate_study(plan) == summary == json.loads(kept.read_text(encoding="utf-8"))
    assert plan.report.stat().st_mtime_ns > made
    assert {p: p.stat().st_mtime_ns for p in plan.folder.rglob("*.safetensors")} == weights


def test_the_environment_names_home_and_catalog_unless_the_platform_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MICE_HOME", str(tmp_path))
    monkeypatch.setenv("MICE_CATALOG", "postgresql://there/lake")
    assert Platform().home == Home(tmp_path, "postgresql://there/lake")
    assert Platform(home_folder=str(tmp_path / "other")).home == Home(tmp_path / "other", "postgresql://there/lake")
    assert Platform(catalog_url="postgresql://here/lake").home == Home(tmp_path, "postgresql://here/lake")


def test_a_partition_without_a_contract_is_a_typed_error(tmp_path):
    with pytest.raises(ContractError, match=r"cohort elsewhere: no contract in .*expected one of \['synthetic'\]"):
        small_platform(tmp_path).landing("elsewhere")


def test_readme_query_runs_as_printed(finished):
    platform, _ = finished
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^\.venv/bin/(mice sql .*)$", readme, re.MULTILINE)
    assert command is not None
    arguments = shlex.split(command.group(1))[1:]
    done = subprocess.run(
        [sys.executable, "-m", "mice_cli.main", *arguments],
        env={**os.environ, "MICE_HOME": platform.home_folder},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "amber" in done.stdout
    assert "birch" in done.stdout


def test_report_names_no_case(finished):
    platform, _ = finished
    page = platform.plan.report.read_text(encoding="utf-8")
    assert "SYN-" not in page
    assert platform.plan.training_set_id in page


def test_second_run_changes_no_row_and_trains_nothing(finished):
    platform, instance = finished
    before, version = Lake(platform.home).snapshots(), platform.plan.model_version
    weights = {p: p.stat().st_mtime_ns for p in platform.plan.folder.rglob("*.safetensors")}
    materialize_cohorts(platform, instance, ["synthetic"])
    train(platform, instance)
    assert Lake(platform.home).snapshots() == before
    assert platform.plan.model_version == version
    assert {p: p.stat().st_mtime_ns for p in platform.plan.folder.rglob("*.safetensors")} == weights


def test_interrupted_training_in_two_processes_goes_on_and_ends_the_same(finished, tmp_path):
    platform, _ = finished
    first = rows(platform, "SELECT case_id, risk_score FROM predictions ORDER BY case_id")
    other = small_platform(tmp_path, num_workers=2)
    with open_instance(other.home.dagster) as instance:
        materialize_cohorts(other, instance, ["synthetic"])
        train(other, instance)
        plan = other.plan
        assert plan.training_set_id == platform.plan.training_set_id, "equal content, equal training set"
        for lost in ("fold-1/pretrained-seed0.json", "fold-1/amber-seed0.json", "summary.json"):
            (plan.folder / lost).unlink()
        train(other, instance)
    assert rows(other, "SELECT case_id, risk_score FROM predictions ORDER BY case_id").equals(first)


def test_a_cohort_that_fails_a_check_is_not_published(tmp_path):
    platform = small_platform(tmp_path)
    landing = platform.home.landing / "synthetic"
    from feature_store.landing import landing_folder

    landing_folder(platform.contracts["synthetic"], platform.home, None)
    clinical = pl.read_csv(landing / "clinical.csv", infer_schema=False)
    words = pl.col("OS").replace({"0": "Alive", "1": "Dead"})
    clinical.with_columns(OS=words).write_csv(landing / "clinical.csv")
    with open_instance(platform.home.dagster) as instance, pytest.raises(RunFailedError, match="few_rows_are_quarantined"):
        materialize_cohorts(platform, instance, ["synthetic"])
    assert not Lake(platform.home).exists
    staged = next((platform.home.staging / "synthetic").glob("*/quarantine.parquet"))
    reasons = pl.read_parquet(staged).filter(pl.col("table_name") == "endpoints")
    assert reasons["reason"].str.contains("event code is none of 0, 1").any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda landing: shutil.rmtree(landing / "slides"), "LandingMissingError.*slides"),
        (lambda landing: (landing / "rna.csv.gz").unlink(), "LandingMissingError.*rna.csv.gz"),
        (
            lambda landing: (
                pl.read_csv(landing / "clinical.csv", infer_schema=False)
                .rename({"OS.time": "os_days"})
                .write_csv(landing / "clinical.csv")
            ),
            "ColumnMissingError.*OS.time",
        ),
    ],
)
def test_bad_landing_is_a_typed_failure_and_publishes_nothing(tmp_path, spoil, message):
    from feature_store.landing import landing_folder

    platform = small_platform(tmp_path)
    spoil(landing_folder(platform.contracts["synthetic"], platform.home, None))
    with open_instance(platform.home.dagster) as instance, pytest.raises(RunFailedError, match=message):
        materialize_cohorts(platform, instance, ["synthetic"])
    assert not Lake(platform.home).exists
