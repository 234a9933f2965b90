"""`mice doctor`: each thing that can be wrong gives its line, with a remedy, and a healthy home passes."""

import shutil

import pytest
from filelock import FileLock
from typer.testing import CliRunner

import mice_cli.doctor_command
from feature_store import doctor
from feature_store.doctor import diagnose
from feature_store.doctor_store import diagnose_dagster, diagnose_store
from feature_store.home import Home
from mice_cli.main import app


@pytest.fixture
def home(published_home, tmp_path, monkeypatch):
    """A copy of the shared store with a Dagster home as `mice prepare-dagster` makes it."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    copy = Home(tmp_path / "home")
    shutil.copytree(published_home.root / "store", copy.root / "store")
    copy.dagster.mkdir()
    (copy.dagster / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return copy


def states(home, data=None, **kwargs):
    found = list(diagnose(home, data, **kwargs))
    assert all(bool(one.remedy) == (one.state != "pass") for one in found)
    return {one.name: (one.state, one.found) for one in found}


def test_a_healthy_home(home, tmp_path):
    found = states(home, tmp_path)
    assert {name for name, (state, _) in found.items() if state == "fail"} == set()
    assert {name for name, (state, _) in found.items() if state == "warn"} <= {"packages", "disk"}  # the machine's own
    assert set(found) == {
        *("python", "packages", "duckdb extensions", "home", "disk", "landing folder", "dagster"),
        *("catalog lock", "catalog", "objects", "left over"),
    }


@pytest.mark.parametrize(
    ("pins", "state", "text"),
    [
        ("filelock==0.0.1\nnot-there-at-all==1", "warn", "not at their pins: filelock "),
        ("duckdb==0.0.1", "fail", "instead of 0.0.1"),
        ("# no pins", "pass", "of 0 pins"),
    ],
)
def test_packages(home, tmp_path, pins, state, text):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(pins)
    found = doctor._packages(constraints)
    assert found.state == state
    assert text in found.found


def test_a_required_package_that_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "c.txt").write_text("not-there==1")
    monkeypatch.setattr(doctor, "_required", lambda: {"not-there"})
    assert doctor._packages(tmp_path / "c.txt").state == "fail"
    assert doctor._packages(tmp_path / "none.txt").state == "warn"


def test_requirements_are_those_without_extras():
    assert {"duckdb", "torch", "pyyaml"} <= doctor._required()
    assert "scikit-survival" not in doctor._required()


def test_an_empty_home_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    found = states(Home(tmp_path / "none"))
    assert {name for name, (state, _) in found.items() if state == "fail"} == set()
    assert found["home"][0] == found["catalog"][0] == found["dagster"][0] == found["landing folder"][0] == "warn"
    assert not (tmp_path / "none").exists()


def test_what_is_wrong_with_a_store(home, tmp_path):
    gone = next((home.tables / "main" / "clinical").glob("*.parquet"))
    gone.unlink()
    (home.bags / ".abc.parquet.tmp").touch()
    with FileLock(home.catalog.with_suffix(".lock")):
        found = states(home, tmp_path / "none")
    assert found["objects"] == ("fail", f"1 problems: table clinical, file main/clinical/{gone.name}")
    assert found["left over"] == ("warn", "1 unfinished files: store/bags/.abc.parquet.tmp")
    assert found["catalog lock"][0] == "warn"
    assert found["landing folder"][0] == "fail"


def test_a_damaged_catalog(home):
    home.catalog.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    for wal in home.catalog.parent.glob("catalog.sqlite-*"):
        wal.unlink()
    assert [(one.name, one.state) for one in diagnose_store(home)] == [("catalog", "fail")]
    home.catalog.unlink()
    assert [one.state for one in diagnose_store(home) if one.name == "catalog"] == ["fail"]


@pytest.mark.parametrize(("settings", "state"), [("{}", "warn"), ("telemetry: {enabled: true}", "warn"), ("[", "fail")])
def test_dagster_settings(home, settings, state):
    (home.dagster / "dagster.yaml").write_text(settings)
    assert [one.state for one in diagnose_dagster(home)] == [state]


def test_another_dagster_home(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert [one.state for one in diagnose_dagster(home)] == ["warn", "warn"]


def test_disk_and_home(home, monkeypatch):
    usage = shutil.disk_usage(home.root)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _folder: usage._replace(free=5 << 30))
    assert (doctor._disk(home).state, doctor._disk(home).found) == ("warn", "5.0 GiB free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _folder: usage._replace(free=1000))

    def refuse(**_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert doctor._disk(home).state == "fail"
    assert doctor._writable(home).found == f"{home.root} cannot be written (Permission denied)"


def test_command(home, monkeypatch):
    monkeypatch.delenv("MICE_DATA", raising=False)
    done = CliRunner().invoke(app, ["doctor", "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    assert "pass  duckdb extensions: ducklake and sqlite_scanner load" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("pass  torch: torch ")
    next(home.bags.glob("*.parquet")).unlink()
    done = CliRunner().invoke(app, ["doctor", "--home", str(home.root)])
    assert done.exit_code == 1
    assert "fail  objects: " in done.stdout
    assert "-> mice verify says" in done.stdout


def test_without_torch(monkeypatch):
    monkeypatch.setattr(mice_cli.doctor_command.importlib.util, "find_spec", lambda _name: None)
    assert mice_cli.doctor_command.accelerator().state == "fail"
