"""What a summary says of Uno's C, AUC(t), Brier scores and calibration, against direct calls of the metrics; its report."""

import html
import json
import math
import re
import zlib
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from mice_model.calibration import calibration, survival_at
from mice_model.comparison import Comparison
from mice_model.comparison_figures import ablation_svg, data_efficiency_svg
from mice_model.discrimination import auc_curves
from mice_model.evaluation import Evaluation, HeldOut
from mice_model.metrics import percentile_interval
from mice_model.report import render
from mice_model.report_words import headings, label
from mice_model.scored_folds import scored_folds
from mice_model.summary import summarise
from mice_model.survival_metrics import (
    CensoringCurve,
    EvaluationGrid,
    cumulative_dynamic_auc,
    integrated_brier_score,
    null_survival,
    resampled_uno_concordance,
    uno_concordance,
)

NUM_BOOTSTRAP = 40
YEAR = 365.25
EDGES = (200.0, 500.0, 900.0)


def held_out(cancer_type, seed, models, n):
    rng = np.random.default_rng(seed)
    severity = rng.normal(size=n)
    duration, event = np.ceil(rng.exponential(900 * np.exp(-severity))), rng.random(n) < 0.6
    fold = np.arange(n) % 3
    hazard = np.exp(0.6 * severity[:, None]) * np.array([0.2, 0.5, 0.9, 1.5])
    return HeldOut(
        cancer_type=cancer_type,
        case_id=tuple(f"TCGA-{cancer_type}-{i:04d}" for i in range(n)),
        fold=fold,
        duration_days=duration,
        event_observed=event,
        risk_score={name: severity + k * rng.normal(size=n) for k, name in enumerate(models)},
        survival_bins=np.exp(-hazard),
        bin_edges_days=dict.fromkeys(range(3), EDGES),
        routing=rng.dirichlet(np.ones(4), n),
        training_outcomes={k: (duration[fold != k], event[fold != k]) for k in range(3)},
    )


@pytest.fixture(scope="module")
def evaluation():
    return Evaluation(
        study="tiny",
        model_version="mice-01",
        training_set_id="ts-01",
        snapshot_id=7,
        endpoint="os",
        protocol="honest",
        encoders={},
        seeds=(0,),
        settings={},
        wall_time_s=1.0,
        created_at="2025-01-01",
        code_version="c0de",
        held_out=(
            held_out("blca", 1, ("mice", "cox_all", "skip"), 150),
            held_out("acc", 2, ("mice", "cox_all"), 36),
        ),
        curves=(),
        coverage=(),
    )


@pytest.fixture(scope="module")
def summary(evaluation):
    return summarise(evaluation, num_bootstrap=NUM_BOOTSTRAP, seed=3)


def text_of(page):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def folds_of(found):
    """Return each fold's rows, grid, censoring curve and training outcomes, straight from the metrics."""
    for fold, training in found.training_outcomes.items():
        grid = EvaluationGrid.fit(*training)
        yield fold, np.flatnonzero(found.fold == fold), grid, CensoringCurve.fit(grid, *training), training


def test_uno_and_auc_are_what_the_metrics_say(evaluation, summary):
    for found in evaluation.held_out:
        for name, risk in found.risk_score.items():
            points, samples, aucs = [], [], []
            for fold, rows, grid, censoring, _ in folds_of(found):
                case = grid, censoring, found.duration_days[rows], found.event_observed[rows], risk[rows]
                seed = 3, zlib.crc32(found.cancer_type.encode()), fold
                points.append(uno_concordance(*case))
                samples.append(resampled_uno_concordance(*case, num_samples=NUM_BOOTSTRAP, seed=seed))
                aucs.append(cumulative_dynamic_auc(*case)[1])
            interval = percentile_interval(np.nanmean(samples, axis=0))
            row = summary["uno"][found.cancer_type][name]
            assert list(row.values()) == pytest.approx([np.mean(points), interval.low, interval.high])
            assert summary["auc"][found.cancer_type][name] == pytest.approx(np.mean(aucs))
    assert summary["undefined_folds"] == {name: {"uno": 0, "auc": 0, "brier": 0} for name in ("blca", "acc")}
    assert summary["left_out"] == []


def test_the_mean_is_over_the_cancer_types_a_model_has(summary):
    uno, auc = summary["uno"], summary["auc"]
    assert uno["mean"]["mice"]["c_index"] == pytest.approx((uno["blca"]["mice"]["c_index"] + uno["acc"]["mice"]["c_index"]) / 2)
    assert uno["mean"]["skip"] == {**uno["blca"]["skip"], "num_cancer_types": 1}
    assert auc["mean"]["mice"] == pytest.approx((auc["blca"]["mice"] + auc["acc"]["mice"]) / 2)
    assert auc["mean"]["skip"] == auc["blca"]["skip"]
    assert "skip" not in auc["acc"]


def test_brier_and_calibration_are_what_the_metrics_say(evaluation, summary):
    for found in evaluation.held_out:
        scores, null, survival = [], [], {years: np.zeros(len(found.fold)) for years in (1, 3, 5)}
        for _, rows, grid, censoring, training in folds_of(found):
            case = grid, censoring, found.duration_days[rows], found.event_observed[rows]
            bins, last_day = found.survival_bins[rows], training[0].max()
            assert last_day > 5 * YEAR
            scores.append(integrated_brier_score(*case, survival_at(bins, EDGES, grid.times_days, last_day)))
            null.append(integrated_brier_score(*case, null_survival(grid, *training, len(rows))))
            for years, values in survival.items():
                values[rows] = survival_at(bins, EDGES, [years * YEAR], last_day)[:, 0]
        row = summary["brier"][found.cancer_type]
        assert row == {"mice": pytest.approx(np.mean(scores)), "kaplan_meier": pytest.approx(np.mean(null))}
        num_groups = {"blca": 5, "acc": 1}[found.cancer_type]
        for years, values in survival.items():
            expected = calibration(found.duration_days, found.event_observed, values, years * YEAR, num_groups)
            entry = summary["calibration"][found.cancer_type][str(years)]
            assert entry["mean_absolute_error"] == pytest.approx(expected.mean_absolute_error)
            assert sorted(entry["predicted"]) == pytest.approx(expected.predicted)
            assert (sum(entry["num_cases"]), entry["num_folds"]) == (len(found.fold), 3)
    errors = [summary["calibration"][name]["3"]["mean_absolute_error"] for name in ("blca", "acc")]
    assert summary["calibration"]["mean"]["3"] == {"mean_absolute_error": pytest.approx(np.mean(errors)), "num_cancer_types": 2}
    assert summary["brier"]["mean"]["mice"] == pytest.approx(np.mean([summary["brier"][n]["mice"] for n in ("blca", "acc")]))


def test_it_is_plain_json(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def without_outcomes(evaluation):
    return replace(evaluation, held_out=tuple(replace(each, training_outcomes={}) for each in evaluation.held_out))


def test_without_training_outcomes_these_parts_are_left_out(evaluation, summary):
    old = summarise(without_outcomes(evaluation), num_bootstrap=NUM_BOOTSTRAP, seed=3)
    assert all(old[key] == {} for key in ("uno", "auc", "brier", "calibration", "undefined_folds"))
    assert old["c_index"] == summary["c_index"]
    text = text_of(render(without_outcomes(evaluation), old))
    assert "Discrimination" not in text
    assert "Kaplan-Meier gives" not in text
    assert "not measured, no training outcomes were kept" in text


def test_folds_of_which_some_lack_outcomes_are_refused(evaluation):
    found = evaluation.held_out[0]
    lacking = replace(found, training_outcomes={0: found.training_outcomes[0]})
    with pytest.raises(ValueError, match=r"blca: training outcomes of folds \[0\], expected those of \[0, 1, 2\] too"):
        scored_folds(lacking)


def test_undefined_folds_are_left_out_and_counted(evaluation):
    found = evaluation.held_out[0]
    duration, event = found.training_outcomes[0]
    outcomes = found.training_outcomes | {0: (duration, np.zeros_like(event)), 1: (np.minimum(duration, 800), event)}
    odd = replace(found, training_outcomes=outcomes)
    summary = summarise(replace(evaluation, held_out=(odd,)), num_bootstrap=5)
    assert summary["undefined_folds"]["blca"] == {"uno": 1, "auc": 1, "brier": 2}
    no_grid, no_curves = summary["left_out"]
    assert no_grid.startswith("blca, fold 0: no Uno's C, AUC(t) and Brier score (evaluation grid: no event among 100 training")
    assert no_curves == (
        "blca, fold 1: no Brier score and calibration, since the last time bin starts on day 900 and training follow-up ends on"
        " day 800."
    )
    assert summary["calibration"]["blca"]["1"]["num_folds"] == 2
    text = text_of(render(replace(evaluation, held_out=(odd,)), summary))
    assert "of 3 folds, undefined is Uno's C in 1, mean AUC(t) in 1, integrated Brier score in 2." in text


def test_where_nothing_is_defined_the_page_says_so(evaluation):
    found = evaluation.held_out[1]
    short = {fold: (np.full(24, 30.0), np.ones(24, bool)) for fold in range(3)}
    bare = replace(evaluation, held_out=(replace(found, training_outcomes=short),))
    summary = summarise(bare, num_bootstrap=5)
    json.dumps(summary, allow_nan=False)
    assert summary["uno"]["acc"]["mice"] == {"c_index": None, "low": None, "high": None}
    assert summary["brier"]["acc"] == {"mice": None, "kaplan_meier": None}
    assert summary["calibration"] == {"acc": {}, "mean": {}}
    text = text_of(render(bare, summary))
    assert "Discrimination: Uno's C is not defined" in text
    assert "Calibration: no Brier score is defined" in text
    assert "not followed" in text


def test_auc_curves_are_at_times_within_every_grid(evaluation):
    found = evaluation.held_out[0]
    folds = scored_folds(found)
    times, curves = auc_curves(found, folds, ["mice", "skip"], num_times=4)
    grids = [each.grid for each in folds]
    assert times[0] == max(grid.times_days[0] for grid in grids)
    assert times[-1] == min(grid.times_days[-1] for grid in grids)
    by_fold = []
    for _, rows, grid, censoring, _ in folds_of(found):
        case = found.duration_days[rows], found.event_observed[rows], found.risk_score["skip"][rows]
        by_fold.append(cumulative_dynamic_auc(EvaluationGrid(grid.tau_days, tuple(times)), censoring, *case)[0])
    assert curves["skip"] == pytest.approx(np.nanmean(by_fold, axis=0))
    assert [len(found) for found in auc_curves(found, [], ["mice"])] == [0, 0]


def test_the_report_shows_them_and_comparisons(evaluation, summary):
    drawn = data_efficiency_svg([0.5, 1], {"MICE": [(0.6, 0.5, 0.7), (0.7, 0.6, 0.8)]})
    comparisons = (
        Comparison("A third of the cases is enough <b>", "Shares of the training cases.", drawn),
        Comparison("Without routing it is worse", "Each without one part.", "", ("variant", "C"), (("no <i>router", "0.1"),)),
    )
    page = render(evaluation, summary, None, comparisons)
    text = text_of(page)
    assert "TCGA-" not in page
    assert "A third of the cases is enough <b>" in text
    assert "no <i>router 0.1" in text
    assert "<i>" not in page
    assert drawn in page
    for row in summary["uno"].values():
        for entry in row.values():
            assert f"{entry['c_index']:.3f} {entry['low']:.3f} to {entry['high']:.3f}" in text
    for value in (*summary["brier"]["mean"].values(), *summary["auc"]["mean"].values()):
        assert f"{value:.3f}" in text
    for found in evaluation.held_out:
        assert f"Time-dependent AUC of every model over years, {found.cancer_type}" in page
        assert f"Calibration: observed against predicted probability of an event, {found.cancer_type}" in page
    assert "Cox skip of MICE alone" in text
    assert headings(summary)["discrimination"] in text
    assert headings(summary)["calibration"] in text
    referred = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert all(page.count(f' id="{name}"') == 1 for name in referred)


def test_the_heading_names_the_highest_even_if_it_is_not_mice(summary):
    means = summary["uno"]["mean"]
    beaten = {**means, "cox_all": {**means["cox_all"], "c_index": 0.99}}
    found = headings({**summary, "uno": {**summary["uno"], "mean": beaten}})["discrimination"]
    assert (
        found == f"Discrimination: the highest mean Uno's C is 0.990, of Cox, all features; MICE: {means['mice']['c_index']:.3f}"
    )
    only_few = {**means, "skip": {**means["skip"], "c_index": 0.999}}
    assert "skip" not in headings({**summary, "uno": {**summary["uno"], "mean": only_few}})["discrimination"]
    assert label("mice") == "MICE"
    assert label("a new one") == "a new one"


def test_many_models_leave_the_figures_readable(evaluation):
    found = evaluation.held_out[0]
    risk = found.risk_score["skip"]
    many = replace(found, risk_score={"mice": found.risk_score["mice"]} | {f"m{k}": risk + 0.01 * k for k in range(9)})
    many = replace(many, risk_score=many.risk_score | {"bad": -risk})
    crowded = replace(evaluation, held_out=(many,))
    page = render(crowded, summarise(crowded, num_bootstrap=5))
    assert "MICE and the baselines with the highest mean C-index" in page
    assert ">bad</text>" not in page
    assert "<th>bad</th>" in page


def test_a_comparison_has_rows_of_one_width():
    with pytest.raises(ValueError, match=r"comparison 'x': rows of \[1, 2\] cells"):
        Comparison("x", "", "", ("a", "b"), (("c",),))


def valid(svg):
    root = ET.fromstring(f'<div xmlns:xlink="http://www.w3.org/1999/xlink">{svg}</div>')  # as in the page, where xlink is known
    return [child.tag for child in root] == ["svg"]


def test_an_ablation_without_a_difference_is_named():
    svg = ablation_svg([("no A", -0.01, -0.02, 0.0), ("no B", math.nan, math.nan, math.nan), ("no C", -0.05, -0.1, 0.01)])
    assert valid(svg)
    order = [svg.index(text) for text in (">no C<", ">no A<", ">no B (not defined)<")]
    assert order == sorted(order)
    assert svg == ablation_svg([("no C", -0.05, -0.1, 0.01), ("no A", -0.01, -0.02, 0.0), ("no B", *[math.nan] * 3)])


def test_data_efficiency_does_not_depend_on_the_order_of_shares():
    low, high = (0.5, 0.4, 0.6), (0.7, 0.6, 0.8)
    svg = data_efficiency_svg([1.0, 0.25], {"MICE": [high, low], "Cox & co": [low, (math.nan,) * 3]}, "BLCA")
    assert svg == data_efficiency_svg([0.25, 1.0], {"MICE": [low, high], "Cox & co": [(math.nan,) * 3, low]}, "BLCA")
    assert valid(svg)
    assert "Cox &amp; co" in svg
    assert 'aria-label="C-index of every model by share of the training cases, BLCA"' in svg
    assert ">25</text>" in svg


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data_efficiency_svg([0.5], {}), "data-efficiency figure: {} values of 0 models"),
        (lambda: data_efficiency_svg([], {"a": []}), "data-efficiency figure"),
        (lambda: data_efficiency_svg([0.5], {"a": []}), "{'a': 0} values of 1 models, expected 1 of each"),
        (lambda: ablation_svg([]), "ablation figure: no variants"),
    ],
)
def test_figures_without_data_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
