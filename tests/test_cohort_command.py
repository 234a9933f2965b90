"""`mice cohort`: a template that works, a dry run that says all and leaves nothing, and adding without a trace of what failed."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from dagster_project.resources import REPOSITORY, Platform
from feature_store.added_cohorts import added_landing
from feature_store.contract import load_contract, load_contracts
from feature_store.home import Home
from feature_store.lake import Lake
from mice_cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
SECRETS = ("Maier", "1961", "4711", "secret")


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MICE_HOME", raising=False)
    monkeypatch.delenv("MICE_DATA", raising=False)


def run(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["cohort", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def write_patients(landing: Path, num_cases: int = 40, **changes: list[str]) -> Path:
    """Write the one table that the template expects."""
    landing.mkdir(exist_ok=True)
    columns = {
        "patient_id": [f"P-{number:03}" for number in range(num_cases)],
        "diagnosis": ["C50", "C67"] * (num_cases // 2),
        "age": [str(40 + number) for number in range(num_cases)],
        "sex": ["f", "m"] * (num_cases // 2),
        "stage": ["I", "II", "III", "X"] * (num_cases // 4),
        "grade": ["G1", "G2", "GX", "G3"] * (num_cases // 4),
        "follow_up_days": [str(100 + 7 * number) for number in range(num_cases)],
        "vital_status": ["dead", "alive", "alive", "dead"] * (num_cases // 4),
    } | changes
    rows = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    (landing / "patients.csv").write_text("\n".join(rows), encoding="utf-8")
    return landing


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    run("new", "clinic")
    return tmp_path / "clinic.yaml"


def changed(contract: Path, **fields: Any) -> Path:
    document = yaml.safe_load(contract.read_text("utf-8"))
    contract.write_text(yaml.safe_dump(document | fields), encoding="utf-8")
    return contract


def test_the_template_is_a_contract_that_reads_its_example(contract: Path, tmp_path: Path) -> None:
    assert load_contract(contract).cohorts == ("clinic",)
    landing = write_patients(tmp_path / "landing")
    said = run("validate", contract, "--landing", landing).stdout
    assert "contract clinic: every cohort would be published" in said
    assert "cases.project_id <- always 'clinic': 40 rows" in said
    assert "'f' is female (20)" in said
    assert "'X' is dropped (10)" in said
    assert "clinic: 40 cases; os 40 cases with 20 events" in said
    assert "none" in said.split("rows set aside (0)")[1].split("cohorts")[0]


def test_every_switched_off_part_of_the_template_is_a_valid_one(contract: Path) -> None:
    """Lines for people begin with `# ` and a capital; others that begin with `#` are switched on, the last of a key counts."""
    text, num_on = re.subn(r"^( *)#(?! [A-Z])", r"\1", contract.read_text("utf-8"), flags=re.MULTILINE)
    assert num_on > 40
    loaded = load_contract(changed(contract, **yaml.safe_load(text)))
    assert loaded.deidentify
    assert [slides.layout for slides in loaded.slides] == ["slide_table", "slide_folder"]
    assert loaded.endpoints.endpoints["os"].duration.format == "%d.%m.%Y"
    assert len(loaded.more_clinical) == len(loaded.rna) == len(loaded.mutations) == len(loaded.reports) == 1


def test_the_example_loads_and_is_never_published() -> None:
    example = load_contract(REPOSITORY / "cohorts" / "examples" / "private.yaml")
    assert not set(example.cohorts) & set(load_contracts(REPOSITORY / "cohorts"))


def write_hospital(landing: Path, num_cases: int = 30) -> None:
    """Write what the example describes."""
    rng = np.random.default_rng(0)
    slides = landing / "slides" / "20x_256px_0px_overlap" / "features_uni_v1"
    slides.mkdir(parents=True)
    (landing / "export").mkdir()
    people = ["PatNr;ICD;Standort;Einwilligung;Alter;Geschlecht;UICC;Grading"]
    course, reports = ["PatNr;Diagnosedatum;Sterbedatum;LetzterKontakt;Status"], ["PatNr;Befundnummer;Text"]
    for number in range(num_cases):
        case_id, is_dead = f"P{100 + 7 * number:06}", number % 3 == 0
        consent, icd = "widerrufen" if number == 5 else "erteilt", f"C50.{(1, 4, 9)[number % 3]}"
        who = f"{case_id};{icd};Haus {number % 4};{consent}"
        people.append(f"{who};6{number % 10},5;w;II{'AB'[number % 2]};G{1 + number % 3}")
        course.append(f"{case_id};03.02.2015;{'04.05.2018' if is_dead else ''};01.06.2019;{'verstorben' if is_dead else 'lebt'}")
        text = f"{case_id}: invasives Mammakarzinom, Größe 2,1 cm, Ränder frei; Befund vom 05.02.2015 im Hause."
        reports.append(f'{case_id};B{number};"{text}"')
        with h5py.File(slides / f"{case_id}_HE_1.h5", "w") as file:
            file["features"] = rng.normal(size=(4, 1024)).astype("f2")
            file["coords"] = np.arange(8).reshape(4, 2)
            file["coords"].attrs.update({"patch_size": 256, "target_magnification": 20, "overlap": 0, "name": case_id})
    people[-1] = people[-1].replace("G3", "Maier, Hans")  # a slip of the registry
    (landing / "export" / "patienten.csv").write_text("\n".join(people), encoding="cp1252")
    (landing / "export" / "verlauf.csv").write_text("\n".join(course), encoding="utf-8")
    (landing / "export" / "befunde.csv").write_text("\n".join(reports), encoding="cp1252")


def test_the_example_reads_what_it_describes_and_says_nothing_of_a_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hospital(tmp_path / "landing")
    key = tmp_path / "safe" / "key"
    monkeypatch.setenv("MICE_DEIDENTIFY_KEY", str(key))
    example = REPOSITORY / "cohorts" / "examples" / "private.yaml"
    done = run("validate", example, "--landing", tmp_path / "landing")
    assert "every cohort would be published" in done.stdout
    assert "29 cases; os 29 cases with 10 events" in done.stdout
    assert "clinical 29, rna 0, copy_number 0, protein 0, mutations 0, report 29, slide 29" in done.stdout
    assert "consent withdrawn" in done.stdout
    assert "'Aaaaa, Aaaa' IS NOT DECLARED (1)" in done.stdout
    said = re.sub(r"\b[PSRBHX]1-[A-Z2-7]{10}\b", "", done.output)  # a pseudonym may have any two signs in it by chance
    assert said != done.output
    for secret in ("P000", "Maier", "B5"):
        assert secret not in said
    assert not key.exists(), "a dry run makes no key"
    as_json = run("validate", example, "--landing", tmp_path / "landing", "--json").stdout
    assert "P000" not in as_json


def test_new_names_tables_and_columns_and_never_a_value(tmp_path: Path) -> None:
    landing = write_patients(tmp_path / "landing")
    (landing / "verlauf.csv").write_text("Fall;Größe\nMaier;1961", encoding="cp1252")
    (landing / "headless.csv").write_text("4711,Maier,1961-02-03\n", encoding="utf-8")
    (landing / "records.json").write_text(json.dumps([{"patient": "Maier", "born": 1961}]), encoding="utf-8")
    (landing / "by_patient.json").write_text(json.dumps({"Maier": {"born": 1961}}), encoding="utf-8")
    (landing / "report.txt").write_text("Maier, born 1961\n", encoding="utf-8")
    (landing / "model.pt").write_bytes(b"secret")
    (landing / "broken.xlsx").write_bytes(b"secret")
    (landing / "slides").mkdir()
    for number in range(3):
        with h5py.File(landing / "slides" / f"Maier-{number}.h5", "w") as file:
            file["features"] = np.zeros((4711, 2))
            file["features"].attrs["name"] = "secret"
    np.savez(landing / "cores.npz", Maier=np.zeros(3))
    for number in range(6):
        (landing / "people" / f"Maier-{number}").mkdir(parents=True)
        (landing / "people" / f"Maier-{number}" / "lab.csv").write_text("day,value\n", encoding="utf-8")
    run("new", "clinic", "--landing", landing)
    text = (tmp_path / "clinic.yaml").read_text("utf-8")
    listed = text.partition("# Contract of the cohort")[0]
    for line in (
        "#   patients.csv\n#       8 columns: patient_id, diagnosis, age",
        "separator: ';'\n#       2 columns: Fall, Größe",
        "#   headless.csv\n#       3 columns; the first line looks like data",
        "a list of 1 records; 2 columns: patient, born",
        "an object of 1 records; 1 columns: born",
        "pickled. Loading such a file runs whatever code is in it",
        "slides/*.h5: 3 files\n#       features (4711, 2) float64; attributes name",
        "1 arrays, whose names are not shown",
        "broken.xlsx\n#       cannot be read",
        "people/*/*.csv: 6 files\n#       2 columns: day, value",
    ):
        assert line in listed, listed
    for secret in SECRETS:
        assert secret not in listed.replace("(4711, 2)", ""), secret
    assert load_contract(tmp_path / "clinic.yaml").name == "clinic"


def test_new_overwrites_nothing_and_takes_no_bad_name(contract: Path, tmp_path: Path) -> None:
    before = contract.read_bytes()
    assert "is there already" in run("new", "clinic", code=1).output
    assert contract.read_bytes() == before
    assert "name: String should match" in run("new", "../x", "--output", tmp_path / "x.yaml", code=1).output
    assert not (tmp_path / "x.yaml").exists()
    assert "no files" in run("new", "other", "--landing", tmp_path / "nowhere", code=1).output
    assert not (tmp_path / "other.yaml").exists()


def test_validate_says_what_was_rejected_and_leaves_nothing(contract: Path, tmp_path: Path) -> None:
    landing = write_patients(tmp_path / "landing", vital_status=["dead", "alive", "alive", "Tod"] * 10)
    (landing / "unread.csv").write_text("a,b\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = run("validate", contract, "--landing", landing, "--json", code=1)
    report = json.loads(done.stdout)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list((tmp_path / "temporary").iterdir()) == []

    assert not report["is_publishable"]
    (endpoint,) = (mapped for mapped in report["mapped"] if mapped["table"] == "endpoints")
    assert endpoint["codes"][0] == {"found": "Tod", "becomes": None, "rows": 10, "is_declared": False}
    (rejected,) = report["set_aside"]
    assert (rejected["effect"], rejected["rows"], rejected["files"]) == ("rejected", 10, {"patients.csv": 10})
    assert rejected["examples"][0] == ["P-003", "Tod"]
    assert report["not_named"] == {"*.csv": 1}
    (cohort,) = report["cohorts"]
    (failed,) = (check for check in cohort["checks"] if not check["is_passed"])
    assert failed["name"] == "few_rows_are_quarantined"
    assert "temporary" not in failed["found"]
    assert cohort["modalities"]["clinical"] == [40, 0]

    said = run("validate", contract, "--landing", landing, code=1).stdout
    assert "contract clinic: would be refused: clinic" in said
    assert "'Tod' IS NOT DECLARED (10)" in said
    assert "10 of endpoints rejected: os: event code is none of alive, dead" in said
    assert "REFUSED by few_rows_are_quarantined" in said


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tpyo": 1}, "tpyo: Extra inputs"),
        (
            {"rna": [{"path": "rna.csv", "case_id": {"column": "x"}, "features": "(.+)", "unit": "?"}]},
            "no file matches 'rna.csv'",
        ),
    ],
)
def test_validate_exits_with_1_where_nothing_could_be_staged(
    contract: Path, tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    landing = write_patients(tmp_path / "landing")
    done = run("validate", changed(contract, **fields), "--landing", landing, "--json", code=1)
    found = json.loads(done.stdout)
    assert not found["is_publishable"]
    assert named in found["message"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_validate_asks_for_the_landing_folder(contract: Path) -> None:
    assert "landing folder None, expected a folder" in run("validate", contract, code=1).output


def test_add_publishes_and_is_found_again(contract: Path, tmp_path: Path) -> None:
    landing, home = write_patients(tmp_path / "landing"), Home(tmp_path / "home")
    said = run("add", contract, "--landing", landing, "--home", home.root).stdout
    assert "published: clinic" in said
    assert (home.cohorts / "clinic.yaml").read_bytes() == contract.read_bytes()
    platform = Platform(home_folder=str(home.root))
    assert platform.landing("clinic") == (load_contract(contract), landing)
    assert {"clinic", "synthetic"} <= set(platform.contracts)
    snapshots = Lake(home).snapshots()
    with Lake(home).reader() as connection:
        assert connection.execute("SELECT count(*) FROM cases").fetchone() == (40,)

    contract.unlink()
    kept = home.cohorts / "clinic.yaml"
    run("validate", kept, "--home", home.root)  # its landing folder is known
    run("add", kept, "--home", home.root)
    assert Lake(home).snapshots() == snapshots, "nothing changed, nothing written"


def test_what_is_refused_leaves_no_contract_and_no_staging(contract: Path, tmp_path: Path) -> None:
    landing, home = write_patients(tmp_path / "landing", vital_status=["alive"] * 40), Home(tmp_path / "home")
    said = run("add", contract, "--landing", landing, "--home", home.root, code=1).stdout
    assert "REFUSED by outcomes_can_be_learned" in said
    assert not home.cohorts.exists()
    assert not (home.staging / "clinic").exists()
    assert not home.catalog.exists()


def test_a_newer_version_takes_the_place_of_the_old_one_unless_it_fails(contract: Path, tmp_path: Path) -> None:
    landing, home = write_patients(tmp_path / "landing"), Home(tmp_path / "home")
    run("add", contract, "--landing", landing, "--home", home.root)
    old = (home.cohorts / "clinic.yaml").read_text("utf-8")
    fewer = shutil.copytree(landing, tmp_path / "fewer")
    lines = (fewer / "patients.csv").read_text("utf-8").splitlines()
    (fewer / "patients.csv").write_text("\n".join(lines[:21]), encoding="utf-8")
    changed(contract, title="half of it")
    lost = run("add", contract, "--landing", fewer, "--home", home.root, code=1)
    assert "20 of 40 cases are gone" in lost.output
    assert (home.cohorts / "clinic.yaml").read_text("utf-8") == old
    assert added_landing(home, "clinic") == landing
    run("add", contract, "--landing", fewer, "--home", home.root, "--accept-drift")
    assert load_contract(home.cohorts / "clinic.yaml").title == "half of it"
    assert added_landing(home, "clinic") == fewer


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"name": "tcga"}, "tcga.yaml has the name too"), ({"cohorts": ["HANCOCK"]}, r"cohorts \['HANCOCK'\] are .*hancock.yaml's")],
)
def test_names_of_others_are_refused(contract: Path, tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    landing, home = write_patients(tmp_path / "landing"), Home(tmp_path / "home")
    cohort = fields.get("cohorts", ["clinic"])[0]
    cases = yaml.safe_load(contract.read_text("utf-8"))["cases"] | {"cohort": {"always": cohort}}
    done = run("add", changed(contract, **fields, cases=cases), "--landing", landing, "--home", home.root, code=1)
    assert re.search(named, done.output), done.output
    assert not home.staging.exists()  # where the other's may lie
    assert not home.cohorts.exists()
