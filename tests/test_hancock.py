"""HANCOCK, a cohort outside TCGA without genomics: the shipped contract on a small copy made here, and on the real files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from cohort_runs import SMALL, predictions
from typer.testing import CliRunner

from dagster_project.resources import REPOSITORY, Platform
from feature_store.audit import audit
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.contract import load_contract
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from mice_cli.main import app
from mice_model.study import load_study

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
CONTRACT = load_contract(REPOSITORY / "cohorts" / "hancock.yaml")
STAINS = ("CD163", "CD3", "CD56", "CD68", "CD8", "HE", "MHC1", "PDL1")


def write_copy(landing: Path, num_cases: int = 24) -> None:
    """Write what the real files look like, with other people in them."""
    rng, folder = np.random.default_rng(0), landing / "raw" / "hancock"
    folder.mkdir(parents=True)
    ids = [f"{number:03}" for number in range(1, num_cases + 1)]
    died = [number % 3 == 0 for number in range(num_cases)]
    causes = [
        "deceased" if number == 0 else "deceased tumor specific" if number % 2 else "deceased not tumor specific"
        for number in range(num_cases)
    ]
    pl.DataFrame(
        {"patient_id": ids, "sex": ["0", "1"] * (num_cases // 2), "age_at_initial_diagnosis": ["61"] * num_cases}
    ).write_csv(folder / "clinical.csv")
    pl.DataFrame({"patient_id": ids[::-1], "grading": ["0", "1", "2", "3"] * (num_cases // 4)}).write_csv(
        folder / "pathological.csv"
    )
    pl.DataFrame(
        {
            "patient_id": ids,
            "recurrence": ["no", "yes"] * (num_cases // 2),
            "days_to_recurrence": [None, 100.0] * (num_cases // 2),
            "survival_status": ["deceased" if dead else "living" for dead in died],
            "survival_status_with_cause": [cause if dead else "living" for cause, dead in zip(causes, died, strict=True)],
            "days_to_last_information": rng.integers(200, 3000, num_cases),
            "rfs_event": [1] * num_cases,
            "days_to_rfs_event": [-5] * num_cases,
        }
    ).write_csv(folder / "targets.csv")
    for stain in STAINS:
        cores = {case_id: rng.normal(size=512).astype("f4") for case_id in ids}
        cores[ids[1]][:128] = cores[ids[1]][384:] = 0  # a case with one core
        np.savez_compressed(folder / f"tma_tile_dtr_256_{stain}.npz", **cores)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Staged, Home]:
    folder = tmp_path_factory.mktemp("hancock")
    write_copy(folder)
    home = Home(folder / "home")
    return stage(CONTRACT, folder, home), home


def test_identifiers_stay_texts_and_all_tables_join(copy: tuple[Staged, Home]) -> None:
    staged, _ = copy
    assert staged.table("cases")["case_id"].to_list() == [f"{number:03}" for number in range(1, 25)]
    clinical = staged.table("clinical").sort("case_id")
    assert clinical.select("case_id", "sex", "grade").head(4).rows() == [
        ("001", "male", None),  # associated with HPV
        ("002", "female", 3.0),
        ("003", "male", 2.0),
        ("004", "female", 1.0),
    ]
    assert [check for check in audit(staged, "HANCOCK") if not check.is_passed] == []


def test_endpoints_count_from_the_diagnosis_and_guess_no_cause(copy: tuple[Staged, Home]) -> None:
    staged, _ = copy
    endpoints = staged.table("endpoints")
    events = dict(endpoints.group_by("endpoint").agg(pl.col("event_observed").sum()).rows())
    assert events == {"os": 8, "dss": 4, "dfi": 12}
    of_first = set(endpoints.filter(pl.col("case_id") == "001")["endpoint"])
    assert of_first == {"os", "dfi"}  # died of a cause nobody wrote down
    relapsed = endpoints.filter(pl.col("endpoint") == "dfi", "event_observed")
    assert set(relapsed["duration_days"]) == {100.0}


def test_a_case_has_the_cores_of_its_eight_stains(copy: tuple[Staged, Home]) -> None:
    staged, home = copy
    slides = staged.table("slides")
    assert slides.height == 24 * len(STAINS)
    assert slides.filter(pl.col("case_id") == "007").sort("stain").select("slide_id", "stain").rows() == [
        (f"007/{stain}", stain) for stain in STAINS
    ]
    bags = staged.table("patch_bags")
    assert dict(bags.group_by("case_id").agg(pl.col("num_patches").sum()).rows())["007"] == 2 * len(STAINS)
    assert set(bags.filter(pl.col("case_id") == "002")["num_patches"]) == {1}
    (row,) = bags.filter(pl.col("slide_id") == "002/HE").select(list(BagRecord.__dataclass_fields__)).iter_rows(named=True)
    with BagReader(home.bags) as reader:
        source = np.load(home.root.parent / "raw" / "hancock" / "tma_tile_dtr_256_HE.npz")["002"]
        np.testing.assert_allclose(reader.read(BagRecord(**row))[0], source[128:384], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["hancock", "tcga-hancock"])
def test_the_shipped_studies_name_what_the_contract_gives(name: str) -> None:
    study = load_study(Platform(study=name).study_file)
    assert CONTRACT.name in study.contracts
    assert study.split in {split.name for split in CONTRACT.splits}
    assert set(study.evaluate) == {CONTRACT.cases.cancer_type.always}
    assert study.endpoint in CONTRACT.endpoints.endpoints
    assert study.features.slide_encoder in {None, *(source.encoder.name for source in CONTRACT.slides)}


def test_it_trains_and_predicts_without_genomics(tmp_path: Path) -> None:
    write_copy(tmp_path / "landing", num_cases=40)
    study = yaml.safe_load((REPOSITORY / "studies" / "hancock.yaml").read_text("utf-8")) | SMALL
    home = Home(tmp_path / "home")
    home.studies.mkdir(parents=True)
    (home.studies / "hancock.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    shipped = str(REPOSITORY / "cohorts" / "hancock.yaml")
    arguments = ["cohort", "add", shipped, "--landing", str(tmp_path / "landing"), "--home", str(home.root)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert [path.name for path in home.cohorts.iterdir()] == ["hancock.landing"]  # no second copy of what is shipped
    found = predictions(Platform(home_folder=str(home.root), study="hancock", num_workers=1), CONTRACT.cohorts)
    assert len(found) == 16  # two of five folds
    assert set(found["case_id"]) <= {f"{number:03}" for number in range(1, 41)}
    assert set(found["missing_modalities"]) == {"copy_number,mutations,protein,report,rna"}
    assert found["risk_score"].is_finite().all()
    assert found["encoders"].str.contains("slide=deep-texture-vgg-256").all()


@pytest.mark.real
def test_the_real_files(tmp_path: Path, real_landing: Path) -> None:
    staged = stage(CONTRACT, real_landing, Home(tmp_path))
    assert [check for check in audit(staged, "HANCOCK") if not check.is_passed] == []
    counts = staged.table("endpoints").group_by("endpoint").agg(pl.len(), pl.col("event_observed").sum())
    assert sorted(counts.rows()) == [("dfi", 763, 177), ("dss", 754, 115), ("os", 763, 213)]
    bags = staged.table("patch_bags")
    assert (staged.table("slides").height, bags.height, bags["case_id"].n_unique()) == (6_063, 6_044, 760)
    assert bags.filter(pl.col("num_patches") == 1).height == 1  # the one core that is alone
    refused = staged.table("quarantine").filter(pl.col("table_name") == "patch_bags")
    assert refused["reason"].str.contains("the same values in every patch").all()  # both tiles are blank glass
