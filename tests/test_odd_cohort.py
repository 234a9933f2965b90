"""A cohort nobody planned for comes in by one YAML file: odd tables, odd slides, from `mice cohort validate` to predictions."""

from datetime import date, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from cohort_runs import SMALL, predictions
from typer.testing import CliRunner

from dagster_project.launch import open_instance
from dagster_project.resources import Platform
from feature_store.home import Home
from feature_store.lake import Lake
from mice_cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

NUM_CASES, DIM = 60, 24
CONTRACT = r"""
name: odd
title: A clinic with its own ways
licence: made by a test
citation: made by a test
time_zero: day of the first biopsy
cohorts: [odd-clinic]
case_id: {pattern: "K-[0-9]{4}"}
missing_values: ["", "k.A."]
cases:
  path: tabellen/stamm.csv
  separator: ";"
  encoding: cp1252
  case_id: {column: Fallnummer, extract: "(K-[0-9]{4})$"}
  cohort: {columns: [Organ], map: {Kehlkopf: odd-clinic, Zunge: odd-clinic}}
  project_id: {columns: [Organ], prefix: odd-}
  cancer_type: {columns: [Organ], map: {Kehlkopf: larynx, Zunge: tongue}}
clinical:
  path: tabellen/stamm.csv
  separator: ";"
  decimal: ","
  encoding: cp1252
  case_id: {column: Fallnummer, extract: "(K-[0-9]{4})$"}
  columns:
    age_at_diagnosis_years: {columns: [Alter bei Erstdiagnose]}
    sex: {columns: [Geschlecht], map: {männlich: male, weiblich: female}}
endpoints:
  path: tabellen/verlauf.csv
  separator: ";"
  case_id: {column: Fall}
  endpoints:
    os:
      duration: {from: Erstbiopsie, to: [Todestag, Letzter Kontakt], format: "%d.%m.%Y"}
      event: Status
      events: {Alive: false, Dead: true}
slides:
  - layout: slide_folder
    files: scans/20x/*.h5
    name: (?P<slide_id>(?P<case_id>K-[0-9]{4})[ab])\.h5$
    encoder: {name: clinic-24, dim: 24}
    patches: {magnification: 20, size_px: 224}
split: {kind: random, name: odd-2fold, num_folds: 2, seed: 0}
"""
STUDY = SMALL | {
    "name": "odd",
    "description": "the odd cohort, small",
    "contracts": ["odd"],
    "split": "odd-2fold",
    "evaluate": ["larynx", "tongue"],
    "features": {"modalities": ["slide", "clinical"], "patches_per_case": 16},
}


def write_landing(landing: Path) -> None:
    """Write tables as a spreadsheet saves them in Germany, and a file of 20x patches for most cases, one of them at 10x."""
    rng = np.random.default_rng(0)
    (landing / "tabellen").mkdir(parents=True)
    (landing / "scans" / "20x").mkdir(parents=True)
    people, course = ["Fallnummer;Organ;Alter bei Erstdiagnose;Geschlecht"], ["Fall;Erstbiopsie;Todestag;Letzter Kontakt;Status"]
    for number in range(NUM_CASES):
        case_id, is_dead = f"K-{number:04}", number % 3 == 0
        organ = ("Kehlkopf", "Zunge")[number % 2]
        people.append(
            f"Patient {case_id};{organ};{rng.integers(40, 80)},{number % 10};{('männlich', 'weiblich')[number % 4 < 2]}"
        )
        start = date(2012, 1, 1) + timedelta(days=int(rng.integers(900)))
        end = start + timedelta(days=int(rng.integers(100, 2000)))
        died = f"{end:%d.%m.%Y}" if is_dead else ""
        course.append(f"{case_id};{start:%d.%m.%Y};{died};{end:%d.%m.%Y};{'Dead' if is_dead else 'Alive'}")
        if number % 5:
            write_patches(landing / "scans" / "20x" / f"{case_id}a.h5", rng, target_magnification=10 if number == 1 else 20)
    (landing / "tabellen" / "stamm.csv").write_text("\r\n".join(people), encoding="cp1252")
    (landing / "tabellen" / "verlauf.csv").write_text("\n".join(course), encoding="utf-8-sig")


def write_patches(path: Path, rng: np.random.Generator, target_magnification: int) -> None:
    num_patches = int(rng.integers(5, 30))
    with h5py.File(path, "w") as file:
        file["features"] = rng.normal(size=(num_patches, DIM)).astype("f4")
        file["coords"] = np.stack([np.arange(num_patches) * 448, np.zeros(num_patches)], axis=1)
        about = {"patch_size": 224, "patch_size_level0": 448, "level0_magnification": 2 * target_magnification}
        file["coords"].attrs.update({**about, "target_magnification": target_magnification})


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_odd_cohort_needs_one_file_and_no_code(tmp_path: Path) -> None:
    contract, landing, home = tmp_path / "odd.yaml", tmp_path / "landing", Home(tmp_path / "home")
    write_landing(landing)
    contract.write_text(CONTRACT, encoding="utf-8")

    said = run("cohort", "validate", contract, "--landing", landing)
    assert "every cohort would be published" in said
    assert f"odd-clinic: {NUM_CASES} cases; os {NUM_CASES} cases with {NUM_CASES // 3} events" in said
    assert "'Dead' is event (20)" in said
    assert "expected 0.5 (20x) by the contract" in said  # the one at 10x
    assert not home.root.exists()

    run("cohort", "add", contract, "--landing", landing, "--home", home.root)
    home.studies.mkdir()
    (home.studies / "odd.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    found = predictions(Platform(home_folder=str(home.root), study="odd", num_workers=1))
    with open_instance(home.dagster) as instance:
        assert "odd-clinic" in instance.get_dynamic_partitions("cohort")  # the UI lists it
    with Lake(home).reader() as connection:
        ages = connection.execute("SELECT min(age_at_diagnosis_years % 1), count(*) FROM clinical").fetchone()
        bags = connection.execute("SELECT count(*), min(dim), any_value(encoder) FROM patch_bags").fetchone()
    assert sorted(found["case_id"]) == [f"K-{number:04}" for number in range(NUM_CASES)]
    assert found["risk_score"].is_finite().all()
    assert set(found["cancer_type"]) == {"larynx", "tongue"}
    assert ages == (0, NUM_CASES)
    assert bags == (NUM_CASES * 4 // 5 - 1, DIM, "clinic-24")
