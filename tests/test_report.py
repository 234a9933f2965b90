"""The report and its numbers, from a small synthetic evaluation."""

import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from feature_store.bag_record import BagRecord
from feature_store.erase.files import forget_slides
from feature_store.home import Home
from mice_model.evaluation import Coverage, Evaluation, HeldOut, TrainingCurve
from mice_model.held_out_slides import held_out_slides
from mice_model.metrics import (
    fold_mean_concordance,
    log_rank_p,
    paired_difference,
    percentile_interval,
    resampled_concordance,
    risk_groups,
)
from mice_model.plots import MAX_PNG_BYTES, coverage_png, training_curves_svg
from mice_model.report import render, write_report
from mice_model.summary import summarise

NUM_BOOTSTRAP = 60


def held_out(cancer_type, seed, models, n=120):
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=n)
    duration = np.ceil(rng.exponential(900 * np.exp(-2 * severity)))
    noise = {"mice": 1.2, "cox_clinical": 30.0, "cox_clinical_rna": 0.0, "rsf": 1.0}
    return HeldOut(
        cancer_type=cancer_type,
        case_id=tuple(f"TCGA-{cancer_type.upper()}-{i:04d}" for i in range(n)),
        fold=np.arange(n) % 3,
        duration_days=duration,
        event_observed=rng.random(n) < 0.6,
        risk_score={name: severity + noise[name] * rng.normal(size=n) for name in models},
        survival_bins=np.ones((n, 5)),
        bin_edges_days=dict.fromkeys(range(3), (100.0, 200.0, 300.0, 400.0)),
        routing=rng.dirichlet(np.ones(4), n),
    )


@pytest.fixture(scope="module")
def evaluation():
    models = ("rsf", "cox_clinical_rna", "cox_clinical", "mice")
    return Evaluation(
        study="a <small> study",
        model_version="mice-0123abcd",
        training_set_id="ts-89ef",
        snapshot_id=4711,
        endpoint="os",
        protocol="honest: the held-out fold is scored once",
        encoders={"report": "TF-IDF, fitted on training cases"},
        seeds=(3, 5),
        settings={"width": "64"},
        wall_time_s=90.0,
        created_at="2025-01-01 00:00 UTC",
        code_version="deadbee",
        held_out=(held_out("blca", 1, models), held_out("ucec", 2, models[1:])),
        curves=(
            TrainingCurve("pretrain", "", 0, 3, (2.0, 1.0), (math.nan, math.nan), 2),
            TrainingCurve("finetune", "blca", 0, 3, (1.5, 1.2, 1.1), (0.6, 0.65, 0.62), 2),
        ),
        coverage=(Coverage("tcga_blca", 120, 70, {"rna": 58, "slide": 0}),),
        notes=("Slides were not embedded.",),
    )


@pytest.fixture(scope="module")
def summary(evaluation):
    return summarise(evaluation, num_bootstrap=NUM_BOOTSTRAP, seed=1)


@pytest.fixture(scope="module")
def page(evaluation, summary):
    return render(evaluation, summary)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.replace("\N{NO-BREAK SPACE}", " ")))


def test_summary_is_what_the_metrics_say(evaluation, summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["models"] == ["mice", "cox_clinical", "cox_clinical_rna", "rsf"]
    for found in evaluation.held_out:
        outcome = found.duration_days, found.event_observed
        row = summary["c_index"][found.cancer_type]
        for name, risk in found.risk_score.items():
            assert row[name]["c_index"] == fold_mean_concordance(*outcome, risk, found.fold).mean
            assert row[name]["low"] < row[name]["c_index"] < row[name]["high"]
        expected = log_rank_p(*outcome, risk_groups(found.risk_score["mice"], found.fold))
        assert summary["log_rank_p"][found.cancer_type] == expected
    assert "rsf" not in summary["c_index"]["ucec"]


def test_summary_resamples_as_metrics_does(evaluation, summary):
    import zlib

    found = evaluation.held_out[0]
    outcome = found.duration_days, found.event_observed
    how = {"num_samples": NUM_BOOTSTRAP, "seed": (1, zlib.crc32(b"blca"))}
    samples = resampled_concordance(*outcome, {name: found.risk_score[name] for name in ("mice", "rsf")}, found.fold, **how)
    row, entry = summary["c_index"]["blca"], summary["paired"]["blca"]["rsf"]
    interval = percentile_interval(samples["mice"])
    assert (row["mice"]["low"], row["mice"]["high"]) == (interval.low, interval.high)
    paired = paired_difference(row["mice"]["c_index"] - row["rsf"]["c_index"], samples["mice"] - samples["rsf"])
    assert (entry["difference"], entry["low"], entry["p_value"]) == (paired.difference, paired.low, paired.p_value)


def test_mean_row_weighs_cancer_types_equally_over_those_measured(summary):
    rows = summary["c_index"]
    assert rows["mean"]["mice"]["c_index"] == pytest.approx(
        (rows["blca"]["mice"]["c_index"] + rows["ucec"]["mice"]["c_index"]) / 2
    )
    assert rows["mean"]["rsf"] == {**rows["blca"]["rsf"], "num_cancer_types": 1}
    shared_only = summary["paired"]["mean"]["rsf"]
    assert shared_only == {**summary["paired"]["blca"]["rsf"], "num_cancer_types": 1}


def test_report_shows_the_numbers_and_where_they_come_from(page, summary):
    text = text_of(page)
    for row in summary["c_index"].values():
        for entry in row.values():
            assert f"{entry['c_index']:.3f}" in text
            assert f"{entry['low']:.3f} to {entry['high']:.3f}" in text
    for row in summary["paired"].values():
        for entry in row.values():
            assert f"{abs(entry['difference']):.3f}" in text
            smallest = 2 / (NUM_BOOTSTRAP + 1)
            p_value = entry["p_value"]
            assert (f"p = {p_value:.2g}" if p_value > smallest else f"p \N{LESS-THAN OR EQUAL TO} {smallest:.2g}") in text
    for fact in (
        "4711",
        "ts-89ef",
        "mice-0123abcd",
        "deadbee",
        "3, 5",
        "TF-IDF",
        "honest:",
        "Slides were not embedded.",
    ):
        assert fact in text
    assert "Survival forest: measured in 1 of 2 cancer types" in text
    assert "log-rank p" in text


def test_a_worse_result_is_said_as_plainly_as_a_better_one(page, summary):
    assert summary["paired"]["mean"]["cox_clinical"]["low"] > 0
    assert summary["paired"]["mean"]["cox_clinical_rna"]["high"] < 0
    headline = text_of(page).split("C-index by cancer type")[0]
    assert "Against Cox, clinical , MICE is better" in headline
    assert "Against Cox, clinical + RNA , MICE is worse" in headline


def test_report_names_no_case_and_fetches_nothing(page, evaluation):
    for found in evaluation.held_out:
        assert not [case for case in found.case_id if case in page]
    assert "TCGA-" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"<(script|link|iframe|img)\b", page)
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#)", page)


def slides_of(evaluation, home):
    """Return a study's data in which every second case has a slide, and keep pictures of most of them."""
    folder = home.embeddings / "classical-0123"
    folder.mkdir(parents=True)
    case_ids = [case_id for found in evaluation.held_out for case_id in found.case_id]
    bags = []
    for number, case_id in enumerate(case_ids):
        digest = hashlib.sha256(case_id.encode()).hexdigest()
        bag = BagRecord(f"{case_id}-01Z", case_id, "classical", "a.parquet", 0, 7 + number, 57, 0, "", digest)
        bags.append((bag,) if number % 2 == 0 else ())
        if number % 4 == 0:
            (folder / f"{digest}.jpg").write_bytes(b"picture")
            (folder / f"{digest}.json").write_text(json.dumps({"num_patches": 7 + number}), encoding="utf-8")
    training_set = SimpleNamespace(cases=pl.DataFrame({"case_id": case_ids}), bags=tuple(bags))
    return SimpleNamespace(study=SimpleNamespace(features=SimpleNamespace(modalities=["slide"])), training_set=training_set)


def test_slides_are_counted_and_a_few_linked(evaluation, summary, page, tmp_path):
    home = Home(tmp_path)
    data = slides_of(evaluation, home)
    found = held_out_slides(data, evaluation.held_out, home)
    assert [(row.encoder, row.num_cases, row.num_slides) for row in found.by_encoder] == [("classical", 120, 120)]
    assert [picture.cancer_type for picture in found.pictures] == ["blca", "ucec"] * 3
    home.reports.mkdir()
    write_report(evaluation, summary, home.reports / "report.html", found)
    with_slides = (home.reports / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'<img src="([^"]+)"', with_slides)
    assert len(links) == len(set(links)) == 6
    assert all((home.reports / link).resolve().read_bytes() == b"picture" for link in links)
    assert "data:image/jpeg" not in with_slides
    assert "TCGA-" not in with_slides
    assert f"blca, {found.pictures[0].num_patches} patches" in with_slides
    assert 0 < len(with_slides) - len(page) < 5_000
    gone = (home.reports / links[0]).resolve()
    forget_slides(home, [gone, gone.with_suffix(".json")])  # as erasing the case does
    left = (home.reports / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<img src="([^"]+)"', left) == links[1:]
    assert gone.stem not in left
    assert not gone.exists()
    shutil.rmtree(home.embeddings)
    bare = held_out_slides(data, evaluation.held_out, home)
    assert (len(bare.by_encoder), bare.pictures) == (1, ())
    assert "<img" not in render(evaluation, summary, bare)
    data.study.features.modalities = ["rna"]
    assert render(evaluation, summary, held_out_slides(data, evaluation.held_out, home)) == page


def test_page_is_well_formed_and_ids_are_unique(page):
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.ids = [], []

        def handle_starttag(self, tag, attrs):
            self.ids += [value for name, value in attrs if name == "id"]
            if tag != "meta":
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            self.ids += [value for name, value in attrs if name == "id"]

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    referred = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert referred <= set(checker.ids)
    assert all(checker.ids.count(name) == 1 for name in referred)
    assert "a &lt;small&gt; study" in page


def test_a_choice_by_held_out_cases_is_said_at_the_top(evaluation, summary, page):
    author = text_of(render(replace(evaluation, protocol="author: epochs chosen by the held-out C-index"), summary))
    assert "too good by construction" in author.split("C-index by cancer type")[0]
    assert "no curve shows a held-out case" not in author
    assert "too good by construction" not in page
    assert "no curve shows a held-out case" in text_of(page)


def test_the_start_of_a_fit_may_be_its_chosen_epoch():
    curve = TrainingCurve("finetune", "blca", 0, 3, (1.5, 1.2), (0.5, 0.6), 0)
    started = training_curves_svg("x", [replace(curve, start_c_index=0.65)])
    assert started != training_curves_svg("x", [curve])
    assert ">0</text>" in started


def test_write_report_is_atomic(evaluation, summary, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    write_report(evaluation, summary, path)
    new = path.read_text(encoding="utf-8")
    assert new.startswith("<!DOCTYPE html>")
    monkeypatch.setattr("mice_model.report.render", lambda *_: "\udcff")
    with pytest.raises(UnicodeEncodeError):
        write_report(evaluation, summary, path)
    assert path.read_text(encoding="utf-8") == new
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_undefined_figures_are_shown_as_such(evaluation):
    found = evaluation.held_out[0]
    no_event = replace(found, cancer_type="kirp", event_observed=np.zeros(120, bool), routing=np.empty((120, 0)))
    bare = replace(evaluation, held_out=(no_event,), curves=(), coverage=(), notes=())
    summary = summarise(bare, num_bootstrap=10)
    json.dumps(summary, allow_nan=False)
    assert summary["c_index"]["kirp"]["mice"] == {"c_index": None, "low": None, "high": None}
    assert summary["cohorts"]["kirp"]["num_undefined_folds"] == 3
    text = text_of(render(bare, summary))
    assert "not defined" in text
    assert "kirp: 3 of 3 folds have no comparable pair" in text


def test_mice_must_have_been_scored(evaluation):
    lacking = replace(evaluation.held_out[0], risk_score={"rsf": np.arange(120.0)})
    with pytest.raises(ValueError, match="expected 'mice'"):
        summarise(replace(evaluation, held_out=(lacking,)), num_bootstrap=10)
    with pytest.raises(ValueError, match="0 cancer types"):
        summarise(replace(evaluation, held_out=()), num_bootstrap=10)


def test_coverage_png_stays_under_the_metadata_limit():
    modalities = dict.fromkeys(("rna", "copy_number", "mutations", "report", "slide", "clinical"), 40)
    image = coverage_png([Coverage(f"tcga_{i:02d}", 60, 20, modalities) for i in range(33)])
    assert image.startswith(b"\x89PNG")
    assert len(image) <= MAX_PNG_BYTES
