"""Sharing the embedding of slides out by Ray: the same files as without, and what is said where there is no Ray."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dagster_project.definitions import build_defs
from faults.slide_cohorts import CONTRACT, contract, write_slides, write_tables
from feature_store.errors import RunnerError
from feature_store.home import Home
from mice_cli.main import app
from mice_model.slide_embedding.run import RunConfig, embed_contract

SCANNED = ["S-0001", "S-0002", "S-0003"]


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    write_tables(folder, SCANNED)
    write_slides(folder, SCANNED[:2])
    (folder / "wsi" / "S-0003.svs").write_bytes(b"no slide")
    return folder


def files(home: Home) -> dict[str, bytes]:
    return {str(path.relative_to(home.embeddings)): path.read_bytes() for path in home.embeddings.glob("*/*") if path.is_file()}


@pytest.mark.filterwarnings("default")  # Ray's own
@pytest.mark.parametrize("num_workers", [0, 1])
def test_ray_changes_no_bit(landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    pytest.importorskip("ray", reason="no Ray: pip install -c constraints.txt -e '.[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    plain, other = Home(tmp_path / "plain"), Home(tmp_path / "other")
    expected = embed_contract(contract(), landing, plain, RunConfig(num_workers=1, num_decoders=0))
    found = embed_contract(contract(), landing, other, RunConfig(num_workers=num_workers, runner="ray"))
    assert [(one.name, one.manifest) for one in found.outcomes] == [(one.name, one.manifest) for one in expected.outcomes]
    assert [one.name for one in found.refused] == ["S-0003"]
    assert files(other) == files(plain)


@pytest.mark.filterwarnings("default")
def test_a_cluster_that_does_not_answer_is_named(landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="no Ray: pip install -c constraints.txt -e '.[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunnerError, match=r"no cluster at 127\.0\.0\.1:1 .*correct RAY_ADDRESS"):
        embed_contract(contract(), landing, Home(tmp_path), RunConfig(runner="ray"))


def test_without_ray_the_error_says_how_to_get_it(landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = tmp_path / "scans.yaml"
    file.write_text(CONTRACT, encoding="utf-8")
    arguments = ["embed", str(file), "--landing", str(landing), "--home", str(tmp_path / "home"), "--runner"]
    found = CliRunner().invoke(app, [*arguments, "ray"])
    assert found.exit_code == 2
    assert "Ray is not installed" in found.stderr
    assert "pip install -c constraints.txt -e '.[ray]'" in found.stderr
    assert not list((tmp_path / "home" / "embeddings").glob("*/*.json"))
    unknown = CliRunner().invoke(app, [*arguments, "dask"])
    assert unknown.exit_code == 2
    assert "expected one of ('processes', 'ray')" in unknown.stderr
    assert json.loads(CliRunner().invoke(app, [*arguments, "processes"]).stdout.splitlines()[-1])["embedded"] == 2


def test_the_environment_names_the_platform_s_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_defs().resources["platform"].slide_runner == "processes"
    monkeypatch.setenv("MICE_SLIDE_RUNNER", "ray")
    assert build_defs().resources["platform"].slide_runner == "ray"
