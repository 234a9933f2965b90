"""Report embeddings in the store: one for each report and text, kept whole lot by lot, gone with their report or case."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import Corrupt
from report_models import save_bert
from test_graph import STUDY, small_platform
from typer.testing import CliRunner

from dagster_project.launch import materialize_cohorts, open_instance, train
from feature_store.contract import Contract
from feature_store.erase import erase_case
from feature_store.errors import EncoderError, StudyError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.report_encoding import ReportEncoding
from feature_store.training_set import latest_snapshot, read_training_set, training_set_id
from mice_cli.main import app
from mice_model.explanation.explain import explain_case
from mice_model.report_cleaning import prepared
from mice_model.report_embedding import run
from mice_model.report_embedding.run import embed_reports, open_encoder

NAME = "lab/small-bert"
MEAN = ReportEncoding(NAME, "mean", "mask")
ASKED = ("synthetic",), "os", "synthetic-3fold"


@pytest.fixture(scope="module")
def staged(clean_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    contract = synthetic_contract.model_copy(update={"slides": ()})
    return stage(contract, clean_landing, Home(tmp_path_factory.mktemp("staged")))


@pytest.fixture
def home(staged: Staged, tmp_path: Path) -> Home:
    """A store of its own with the cohort, and a model to embed its reports."""
    home = Home(tmp_path / "home")
    publish_cohort(Lake(home), staged, "synthetic")
    save_bert(home.encoders / NAME)
    return home


def stored(home: Home) -> pl.DataFrame:
    with Lake(home).reader() as connection:
        return pl.DataFrame(connection.execute("SELECT * FROM report_embeddings ORDER BY ALL").to_arrow_table())


def reports_of(home: Home) -> pl.DataFrame:
    with Lake(home).reader() as connection:
        return pl.DataFrame(
            connection.execute("SELECT *, sha256(text) AS text_sha256 FROM reports ORDER BY report_id").to_arrow_table()
        )


def test_every_report_is_embedded_once(home: Home) -> None:
    encoder, reports = open_encoder(MEAN, home.encoders), reports_of(home)
    done = embed_reports(home, "synthetic", MEAN, encoder)
    rows = stored(home)
    assert done.num_new == rows.height == reports.height > 50
    assert (
        rows.sort("report_id")
        .select("report_id", "case_id", "text_sha256")
        .equals(reports.select("report_id", "case_id", "text_sha256"))
    )
    report = reports.row(3, named=True)
    text = prepared([report["text"]], [report["case_id"]], "mask").texts[0]
    row = rows.filter(pl.col("report_id") == report["report_id"]).row(0, named=True)
    np.testing.assert_array_equal(np.float32(row["embedding"]), encoder.encode(text).vector)
    assert row["num_windows"] == len(encoder.windows(text)) > 1
    assert embed_reports(home, "synthetic", MEAN, encoder).num_new == 0
    other = ReportEncoding(NAME, "cls", "flag")
    assert embed_reports(home, "synthetic", other, open_encoder(other, home.encoders)).num_new == reports.height
    assert stored(home).height == 2 * reports.height  # beside the first kind


def test_a_run_that_ends_early_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LOT", 10)
    encoder = open_encoder(MEAN, home.encoders)
    whole, calls = encoder.encode, []

    def failing(text: str) -> object:
        calls.append(text)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return whole(text)

    monkeypatch.setattr(encoder, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        embed_reports(home, "synthetic", MEAN, encoder)
    assert stored(home).height == 20  # whole lots, and nothing of the third
    monkeypatch.setattr(encoder, "encode", whole)
    num_reports = reports_of(home).height
    assert embed_reports(home, "synthetic", MEAN, encoder).num_new == num_reports - 20
    assert stored(home).height == num_reports


def test_a_changed_or_removed_report_takes_its_embedding_with_it(
    home: Home, corrupt: Corrupt, synthetic_contract: Contract
) -> None:
    encoder = open_encoder(MEAN, home.encoders)
    embed_reports(home, "synthetic", MEAN, encoder)
    first, second = reports_of(home)["report_id"][:2]
    of_first, of_second = pl.col("report_id") == first, pl.col("report_id") == second
    other = pl.when(of_first).then(pl.lit("Another text, long enough to be taken for a pathology report.")).otherwise("text")
    landing = corrupt({"reports.csv": lambda rows: rows.filter(~of_second).with_columns(text=other)})
    contract = synthetic_contract.model_copy(update={"slides": ()})
    publish_cohort(Lake(home), stage(contract, landing, home), "synthetic", accepts_drift=True)
    left = stored(home)["report_id"]
    assert set(left) == set(reports_of(home)["report_id"]) - {first}
    with pytest.raises(StudyError, match=r"1 of \d+ have no embedding by lab/small-bert .*`mice embed-reports`"):
        read_training_set(Lake(home), latest_snapshot(Lake(home)), *ASKED, report_encoding=MEAN)
    assert embed_reports(home, "synthetic", MEAN, encoder).num_new == 1
    read_training_set(Lake(home), latest_snapshot(Lake(home)), *ASKED, report_encoding=MEAN)


def test_a_training_set_has_the_mean_of_a_cases_reports(home: Home) -> None:
    lake = Lake(home)
    before = training_set_id(lake, latest_snapshot(lake), *ASKED)
    embed_reports(home, "synthetic", MEAN, open_encoder(MEAN, home.encoders))
    newest = latest_snapshot(lake)
    assert training_set_id(lake, newest, *ASKED) == before  # who encodes texts has the same training set
    assert training_set_id(lake, newest, *ASKED, MEAN) != before
    data = read_training_set(lake, newest, *ASKED, report_encoding=MEAN)
    rows = stored(home)
    has_report = np.array([text is not None for text in data.reports])
    np.testing.assert_array_equal(data.report_embeddings.is_present, has_report)
    assert 0 < has_report.sum() < len(data)
    for case_id, vector in zip(data.cases["case_id"], data.report_embeddings.values, strict=True):
        own = rows.filter(pl.col("case_id") == case_id)["embedding"].to_list()
        np.testing.assert_allclose(vector, np.mean(own, axis=0) if own else 0, atol=1e-6)
    with pytest.raises(StudyError, match="have no embedding"):
        read_training_set(lake, newest, *ASKED, report_encoding=ReportEncoding(NAME, "cls", "mask"))


def test_weights_of_two_versions_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(home)
    embed_reports(home, "synthetic", MEAN, open_encoder(MEAN, home.encoders))
    save_bert(home.encoders / NAME, seed=1)
    other = open_encoder(MEAN, home.encoders)
    monkeypatch.setattr(run, "_LOT", 7)
    monkeypatch.setattr(other, "encode", _stops_after(other.encode, 8))
    with pytest.raises(KeyboardInterrupt):
        embed_reports(home, "synthetic", MEAN, other)
    with pytest.raises(StudyError, match="2 versions"):
        read_training_set(lake, latest_snapshot(lake), *ASKED, report_encoding=MEAN)


def _stops_after(encode: Callable[[str], object], number: int) -> Callable[[str], object]:
    calls: list[str] = []

    def stopping(text: str) -> object:
        calls.append(text)
        if len(calls) > number:
            raise KeyboardInterrupt
        return encode(text)

    return stopping


def test_an_erased_case_leaves_no_embedding(home: Home) -> None:
    embed_reports(home, "synthetic", MEAN, open_encoder(MEAN, home.encoders))
    case_id, num_before = stored(home)["case_id"][0], stored(home).height
    num_of_case = stored(home).filter(pl.col("case_id") == case_id).height
    assert erase_case(home, case_id).proof.is_clean
    assert stored(home).height == num_before - num_of_case
    assert case_id not in stored(home)["case_id"]


def test_the_command(home: Home) -> None:
    arguments = ["embed-reports", "synthetic", "--encoder", NAME, "--pooling", "cls", "--home", str(home.root)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    said = yaml.safe_load(done.stdout.splitlines()[-1])
    assert said["new"] == stored(home).height > 0
    assert (said["width"], said["encoder"], said["cohorts"]) == (24, NAME, 1)
    arguments[3] = "lab/absent"
    absent = CliRunner().invoke(app, arguments)
    assert absent.exit_code == 2
    assert "no weights" in absent.output


def test_a_study_of_a_text_model_runs_through_the_graph(tmp_path: Path) -> None:
    """Landing to predictions: the graph embeds the reports, the network trains on them, and every result says what made it."""
    study = {
        **STUDY,
        "features": {**STUDY["features"], "modalities": ["report"], "report_encoder": NAME},
        "evaluate": ["amber"],
        "folds": [0],
        "pretrain": {"epochs": 1, "epoch_selection": "fixed"},
    }
    platform = small_platform(tmp_path, study)
    with open_instance(platform.home.dagster) as instance:
        save_bert(platform.home.encoders / NAME)
        materialize_cohorts(platform, instance, ["synthetic"])
        train(platform, instance)
    with Lake(platform.home).reader() as connection:
        encoders = connection.execute("SELECT DISTINCT encoders FROM predictions").fetchall()
    assert [NAME in str(found) for found in encoders] == [True]
    page = platform.plan.report.read_text(encoding="utf-8")
    assert "words about the outcome in reports: " in page
    assert f"{NAME} (mean)" in page
    with Lake(platform.home).reader() as connection:
        rows = connection.execute(
            "SELECT case_id, sum(num_windows) FROM report_embeddings JOIN predictions USING (case_id) GROUP BY 1"
        )
        case_id, num_windows = rows.fetchall()[0]
    share = explain_case(platform.wanted_study, platform.home, platform.contracts, case_id).found.attribution.report
    assert len(share.contributions) == num_windows
    assert "window 1 of" in share.contributions[0].label
    assert sum(part.value for part in share.contributions) == pytest.approx(share.total, abs=1e-5)
    assert share.rest == pytest.approx(0, abs=1e-5)


def test_nothing_is_asked_for_by_default(home: Home) -> None:
    assert run.embed_for_study(None, home, "synthetic") is None
    with pytest.raises(EncoderError, match="no weights"):
        run.embed_for_study(ReportEncoding("lab/absent", "mean", "mask"), home, "synthetic")
