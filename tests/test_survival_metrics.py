"""survival_metrics.py, calibration.py and their figures against tables by hand, scikit-survival and what must hold."""

import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from mice_model.calibration import Calibration, calibration, survival_at
from mice_model.metrics import concordance_index
from mice_model.survival_figures import auc_svg, calibration_svg
from mice_model.survival_metrics import (
    CensoringCurve,
    EvaluationGrid,
    brier_scores,
    cumulative_dynamic_auc,
    integrated_brier_score,
    kaplan_meier,
    null_survival,
    resampled_uno_concordance,
    uno_concordance,
)

# Training: an event on day 1, one event and one censored on day 2, censored on 3, event on 4, censored on 5.
# Day 2: the event goes first, so 4 cases can be censored and 1 is: G(2) = 3/4. Day 3: 1 of 3: G(3) = 3/4 * 2/3 = 1/2.
TRAINING = [1, 2, 2, 3, 4, 5], [1, 1, 0, 0, 1, 0]
GRID = EvaluationGrid(4.5, (1.5, 3.5))
G = CensoringCurve.fit(GRID, *TRAINING)
# Held out: A dies on day 3, B on day 1, C is censored on day 4, D dies on day 5 (after tau).
DURATION, EVENT, RISK = [3, 1, 4, 5], [1, 1, 0, 1], [2, 1, 0, 3]


def test_the_censoring_curve_by_hand():
    assert G.at([0.5, 1, 2, 2.5, 3, 4, 4.5]) == pytest.approx([1, 1, 3 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 2])
    assert G.left([0.5, 1, 2, 2.5, 3, 4, 4.5]) == pytest.approx([1, 1, 1, 3 / 4, 3 / 4, 1 / 2, 1 / 2])
    assert G.at(0) == G.left(0) == 1


def test_beyond_tau_the_censoring_curve_stays_above_zero():
    assert G.at([5, 1000.0]).tolist() == G.left([5, 1000.0]).tolist() == pytest.approx([1 / 2, 1 / 2])


# name: risks of A, B, C, D, and Uno's C. B counts 1/G(1-)^2 = 1 against A, C, D; A counts 1/G(3-)^2 = 16/9 against C, D.
# Together the five pairs count 3 * 1 + 2 * 16/9 = 59/9.
UNO = {
    "B above C, A above C: (1 + 16/9) / (59/9)": ([2, 1, 0, 3], 25 / 59),
    "B above all, A below both: 3 / (59/9)": ([0, 9, 1, 2], 27 / 59),
    "A and B equal: (1/2 + 1 + 1 + 2 * 16/9) / (59/9)": ([2, 2, 1, 0], 54.5 / 59),
    "perfect": ([3, 4, 2, 1], 1.0),
    "reversed": ([2, 1, 3, 4], 0.0),
    "constant": ([7, 7, 7, 7], 0.5),
}


@pytest.mark.parametrize("name", UNO)
def test_uno_by_hand(name):
    risk, expected = UNO[name]
    assert uno_concordance(GRID, G, DURATION, EVENT, risk) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("duration", "event"), [([1, 2], [0, 0]), ([3], [1]), ([2, 2], [1, 1]), ([4.5, 6], [1, 1])], ids=str)
def test_uno_without_a_comparable_pair_before_tau_is_undefined(duration, event):
    risk = np.arange(len(duration))
    assert math.isnan(uno_concordance(GRID, G, duration, event, risk))
    assert np.isnan(resampled_uno_concordance(GRID, G, duration, event, risk, num_samples=5)).all()


def test_auc_by_hand():
    # Day 1.5: B (risk 1) against A, C, D (2, 0, 3): 1 of 3. Day 3.5: B weighs 1, A 1/G(3-) = 4/3, each above C (0) and
    # below D (3): 1/2. Kaplan-Meier of the four: 3/4 on day 1.5, 3/4 * 2/3 = 1/2 on day 3.5: drops of 1/4 and 1/4.
    auc, mean = cumulative_dynamic_auc(GRID, G, DURATION, EVENT, RISK)
    assert auc == pytest.approx([1 / 3, 1 / 2], abs=1e-12)
    assert mean == pytest.approx(5 / 12, abs=1e-12)


def test_auc_is_undefined_without_cases_or_without_controls():
    early, late = [1, 1, 3], [2, 3, 4]  # no control after day 3; no case by day 1.5
    auc, mean = cumulative_dynamic_auc(GRID, G, early, [1, 1, 1], [3, 2, 1])
    assert (auc[0], mean) == (1, 1)
    assert math.isnan(auc[1])
    auc, mean = cumulative_dynamic_auc(GRID, G, late, [1, 0, 1], [1, 9, 2])
    assert math.isnan(auc[0])
    assert (auc[1], mean) == (0, 0)
    auc, mean = cumulative_dynamic_auc(GRID, G, early, [0, 0, 0], [3, 2, 1])
    assert np.isnan([*auc, mean]).all()


def test_brier_by_hand():
    # S = 1/2 for all. Day 1.5: four times 1/4 with weight 1. Day 3.5: B 1/4, A 1/4 / (3/4) = 1/3, and C and D
    # 1/4 / G(3.5) = 1/2 each: 19/12 over four cases. The trapezoid has the mean of both as its height.
    half = np.full((4, 2), 0.5)
    assert brier_scores(GRID, G, DURATION, EVENT, half) == pytest.approx([1 / 4, 19 / 48], abs=1e-12)
    assert integrated_brier_score(GRID, G, DURATION, EVENT, half) == pytest.approx((1 / 4 + 19 / 48) / 2, abs=1e-12)
    perfect = np.array([[1, 0], [0, 0], [1, 1], [1, 1]])
    assert brier_scores(GRID, G, DURATION, EVENT, perfect).tolist() == [0, 0]
    assert brier_scores(GRID, G, DURATION, EVENT, 1 - perfect) == pytest.approx([1, (1 + 4 / 3 + 2 + 2) / 4])


def test_a_time_on_the_day_of_an_outcome_comes_after_it():
    # Day 3: A is dead, C and D are controls, all as on day 3.5. Day 4: C was just censored, so D (risk 3, above all) is the
    # only control, and of the Brier score A and B are left as before, and D: 1/4 + 1/3 + 1/2 = 13/12 over four cases.
    grid = EvaluationGrid(4.5, (3.0, 4.0))
    assert cumulative_dynamic_auc(grid, G, DURATION, EVENT, RISK)[0] == pytest.approx([1 / 2, 0], abs=1e-12)
    assert brier_scores(grid, G, DURATION, EVENT, np.full((4, 2), 0.5)) == pytest.approx([19 / 48, 13 / 48], abs=1e-12)


def test_a_censored_case_counts_until_it_is_censored():
    # C alone, censored on day 2: it outlives day 1.5 (weight 1), and of day 3.5 nothing is known.
    assert brier_scores(GRID, G, [2], [0], [[0.5, 0.5]]).tolist() == [0.25, 0]


# name: S at the bins' ends, inner edges, last day, {time: S}
SURVIVAL_AT = {
    "two bins": ([0.5, 0.125], [10], 30, {0: 1, 5: 0.5**0.5, 10: 0.5, 20: (0.5 * 0.125) ** 0.5, 30: 0.125, 99: 0.125}),
    "one open bin": ([0.25], [], 8, {0: 1, 4: 0.5, 8: 0.25, 9: 0.25}),
    "nobody outlives the last bin": ([0.5, 0.0], [10], 30, {5: 0.5**0.5, 10: 0.5, 10.001: 0, 30: 0, 99: 0}),
    "nobody outlives the first bin": ([0.0, 0.0], [10], 30, {0: 1, 1: 0, 10: 0, 20: 0, 30: 0}),
    "no hazard": ([1.0, 1.0], [10], 30, {0: 1, 20: 1, 99: 1}),
}


@pytest.mark.parametrize("name", SURVIVAL_AT)
def test_survival_at_by_hand(name):
    survival, edges, last_day, expected = SURVIVAL_AT[name]
    found = survival_at([survival, [1.0] * len(survival)], edges, list(expected), last_day)
    np.testing.assert_allclose(found, [list(expected.values()), [1.0] * len(expected)], atol=1e-12)


def test_calibration_by_hand():
    # Day 3, two groups. Low risk: one of three dies on day 1: 1/3, predicted 1 - 0.8. High risk: deaths on days 1 and 2, and
    # on day 4, which is too late: 2/3, predicted 1 - 0.1.
    survival = [0.1, 0.9, 0.0, 0.7, 0.2, 0.8]
    duration, event = [1, 5, 2, 1, 4, 2], [1, 0, 1, 1, 1, 0]
    found = calibration(duration, event, survival, 3, num_groups=2)
    assert (found.time_days, found.num_cases) == (3, (3, 3))
    assert found.predicted == pytest.approx((0.2, 0.9))
    assert found.observed == pytest.approx((1 / 3, 2 / 3))
    assert found.mean_absolute_error == pytest.approx((1 / 3 - 0.2 + 0.9 - 2 / 3) / 2)
    assert calibration(duration, event, survival, 2, num_groups=2).observed == found.observed  # the death on day 2 is by day 2
    # Greenwood: var(log S) = 1/(3*2) for S = 2/3, and 1/(3*2) + 1/(2*1) for S = 1/3; the interval is S^exp(+-1.96 sd / log S)
    for g, (s, variance) in enumerate([(2 / 3, 1 / 6), (1 / 3, 2 / 3)]):
        half_width = 1.959964 * variance**0.5 / math.log(s)
        ends = sorted(1 - s ** math.exp(sign * half_width) for sign in (-1, 1))
        assert (found.low[g], found.high[g]) == pytest.approx(ends, abs=1e-6)


def test_calibration_of_groups_that_are_not_followed_or_without_deaths_or_survivors():
    # In order of risk: censored before day 3; no death by day 3; both dead by day 3.
    duration, event = [1, 2, 4, 5, 1, 2], [0, 0, 1, 0, 1, 1]
    found = calibration(duration, event, [0.9, 0.9, 0.5, 0.5, 0.1, 0.1], 3, num_groups=3)
    np.testing.assert_equal(found.observed, (np.nan, 0, 1))
    assert np.isnan([*found.low, *found.high]).all()
    assert found.mean_absolute_error == pytest.approx((0.5 + 0.1) / 2)
    assert math.isnan(calibration([1, 2], [0, 0], [0.5, 0.5], 3, num_groups=1).mean_absolute_error)


def test_calibration_weighs_groups_by_their_cases():
    found = calibration([9] * 5, [0] * 5, [0.9, 0.9, 0.9, 0.4, 0.4], 3, num_groups=2)
    assert found.num_cases == (3, 2)
    assert found.mean_absolute_error == pytest.approx((3 * 0.1 + 2 * 0.6) / 5)


def test_the_grid_comes_from_quantiles_of_training_outcomes():
    days = np.arange(1.0, 102)  # 90th percentile 91
    grid = EvaluationGrid.fit(days, days <= 51, num_times=5)  # events on days 1 to 51: 6 to 46
    assert grid.tau_days == pytest.approx(91)
    assert grid.times_days == pytest.approx((6, 16, 26, 36, 46))
    late = EvaluationGrid.fit(days, days > 51, num_times=5)  # events on days 52 to 101: 56.9 to 96.1, beyond tau
    assert late.times_days[0] == pytest.approx(56.9)
    assert late.times_days[-1] == pytest.approx(91)
    assert late.times_days[-1] < late.tau_days


def test_tau_is_before_the_last_day_when_most_are_censored_on_it():
    duration, event = np.r_[np.arange(1.0, 21), np.full(80, 50.0)], np.arange(100) < 20
    grid = EvaluationGrid.fit(duration, event)
    assert 49.99 < grid.tau_days < 50
    assert CensoringCurve.fit(grid, duration, event).at(60) == 1


def random_cases(seed, n, is_tied):
    """Training and held-out cases; tied ones have many equal days and risks. Training is followed longest."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 40, n).astype(float) if is_tied else rng.uniform(1, 40, n)
    event = rng.random(n) < 0.6
    risk = rng.normal(size=n) - duration / 15
    duration[0], event[0], duration[n // 2], duration[-1] = 99, False, 1, 45
    risk = risk.round(0 if is_tied else 9)
    return (duration[: n // 2], event[: n // 2]), (duration[n // 2 :], event[n // 2 :]), risk[n // 2 :]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "continuous"])
def test_agrees_with_scikit_survival(seed, is_tied):
    metrics = pytest.importorskip("sksurv.metrics", reason="scikit-survival is not installed")
    from sksurv.util import Surv

    training, held_out, risk = random_cases(seed, 200, is_tied)
    grid = EvaluationGrid.fit(*training, num_times=9)
    if is_tied:
        # The oracle takes G(t) of an event's day, we G(t-). With its censored cases leaving half a day later (and times that
        # are three quarters after one), both are the same.
        grid = EvaluationGrid(grid.tau_days, tuple(np.unique(np.floor(grid.times_days) - 0.25)))
        oracle_training = Surv.from_arrays(training[1], training[0] + 0.5 * ~training[1])
    else:
        oracle_training = Surv.from_arrays(*training[::-1])
    oracle = oracle_training, Surv.from_arrays(*held_out[::-1])
    censoring = CensoringCurve.fit(grid, *training)
    assert 0.1 < censoring.at(grid.tau_days) < 0.9

    expected = metrics.concordance_index_ipcw(*oracle, risk, tau=grid.tau_days)[0]
    assert uno_concordance(grid, censoring, *held_out, risk) == pytest.approx(expected, abs=1e-12)
    auc, mean = cumulative_dynamic_auc(grid, censoring, *held_out, risk)
    expected_auc, expected_mean = metrics.cumulative_dynamic_auc(*oracle, risk, grid.times_days)
    np.testing.assert_allclose(auc, expected_auc, atol=1e-12)
    assert mean == pytest.approx(expected_mean, abs=1e-12)
    survival = np.sort(np.random.default_rng(seed).random((100, len(grid.times_days))))[:, ::-1]
    expected_brier = metrics.brier_score(*oracle, survival, grid.times_days)[1]
    np.testing.assert_allclose(brier_scores(grid, censoring, *held_out, survival), expected_brier, atol=1e-12)
    expected_mean = metrics.integrated_brier_score(*oracle, survival, grid.times_days)
    assert integrated_brier_score(grid, censoring, *held_out, survival) == pytest.approx(expected_mean, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rankings_that_are_perfect_reversed_or_constant(seed):
    training, (duration, event), risk = random_cases(seed, 200, is_tied=False)
    grid = EvaluationGrid.fit(*training, num_times=9)
    censoring = CensoringCurve.fit(grid, *training)
    for score in (
        lambda risk: np.array([uno_concordance(grid, censoring, duration, event, risk)]),
        lambda risk: cumulative_dynamic_auc(grid, censoring, duration, event, risk)[0],
        lambda risk: np.array([cumulative_dynamic_auc(grid, censoring, duration, event, risk)[1]]),
    ):
        np.testing.assert_allclose(score(-duration), 1)
        np.testing.assert_allclose(score(duration), 0)
        np.testing.assert_allclose(score(np.zeros(100)), 0.5)
        np.testing.assert_allclose(score(-risk), 1 - score(risk))
        np.testing.assert_allclose(score(np.exp(risk)), score(risk))  # only ranks count


@pytest.mark.parametrize("seed", range(3))
def test_without_censoring_the_weights_are_one(seed):
    training, (duration, _), risk = random_cases(seed, 200, is_tied=True)
    event, survival = np.ones(100, bool), np.tile(np.linspace(0.9, 0.1, 9), (100, 1))
    grid = EvaluationGrid(50.0, tuple(np.linspace(5, 30, 9)))
    censoring = CensoringCurve.fit(grid, training[0], np.ones(100))
    assert uno_concordance(grid, censoring, duration, event, risk) == pytest.approx(concordance_index(duration, event, risk))
    is_alive = duration[:, None] > grid.times_days
    np.testing.assert_allclose(brier_scores(grid, censoring, duration, event, survival), ((is_alive - survival) ** 2).mean(0))


@pytest.mark.parametrize("is_tied", [True, False])
def test_brier_of_the_null_model_on_its_own_cases_is_the_variance(is_tied):
    """Weighted by 1/G, a share S(t) of the cases outlives t, exactly: the Brier score is S(1 - S)."""
    training, _, _ = random_cases(0, 400, is_tied)
    grid = EvaluationGrid.fit(*training)
    survival = null_survival(grid, *training, num_cases=200)
    assert survival.shape == (200, 50)
    censoring = CensoringCurve.fit(grid, *training)
    expected = survival[0] * (1 - survival[0])
    np.testing.assert_allclose(brier_scores(grid, censoring, *training, survival), expected, atol=1e-12)


def test_kaplan_meier_by_hand():
    # Six at risk on day 1, five on day 2, two on day 4: 5/6, 5/6 * 4/5 = 2/3, 2/3 * 1/2 = 1/3; nobody after day 5.
    found = kaplan_meier(*TRAINING, [0.5, 1, 1.5, 2, 3.9, 4, 5, 100])
    assert found == pytest.approx([1, 5 / 6, 5 / 6, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3])


def test_resampled_uno_is_uno_of_the_drawn_rows():
    training, (duration, event), risk = random_cases(3, 120, is_tied=True)
    grid = EvaluationGrid.fit(*training)
    censoring = CensoringCurve.fit(grid, *training)
    counts_SN = np.random.default_rng(5).multinomial(60, np.full(60, 1 / 60), size=20)
    drawn = [np.repeat(np.arange(60), counts) for counts in counts_SN]
    expected = [uno_concordance(grid, censoring, duration[rows], event[rows], risk[rows]) for rows in drawn]
    found = resampled_uno_concordance(grid, censoring, duration, event, risk, num_samples=20, seed=5)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EvaluationGrid.fit([1, 2], [0, 0]), "evaluation grid: no event among 2 training cases, expected some"),
        (lambda: EvaluationGrid.fit([3, 3], [1, 1]), "evaluation grid: 50 times from day 3 to 3, of 2 training events"),
        (lambda: EvaluationGrid.fit(range(1, 101), [0] * 99 + [1]), "of 1 training events, expected at least two"),
        (lambda: EvaluationGrid.fit([1, 2, 3], [1, 1, 1], num_times=1), "evaluation grid: 1 times"),
        (lambda: EvaluationGrid.fit([1, 2], [1]), "event_observed: shape"),
        (lambda: EvaluationGrid(3.0, (1.0, 3.0)), "evaluation grid: 0, times, tau are .* expected ascending"),
        (lambda: EvaluationGrid(3.0, (0.0, 1.0)), "evaluation grid: 0, times, tau"),
        (lambda: EvaluationGrid(3.0, (1.0,)), "evaluation grid: .* at least two times"),
        (lambda: EvaluationGrid(math.inf, (1.0, 2.0)), "evaluation grid"),
        (lambda: CensoringCurve.fit(GRID, [1, 4.5], [1, 0]), r"censoring curve: follow-up of 4.5 days, expected beyond tau, 4.5"),
        (lambda: uno_concordance(GRID, G, [1, 2], [1, 0], [0.1]), "risk_score: shape"),
        (lambda: cumulative_dynamic_auc(GRID, G, [1, -2], [1, 0], [1, 2]), "duration_days: 1 bad values"),
        (lambda: brier_scores(GRID, G, [1, 2], [1, 0], [[0.5], [0.5]]), r"survival_nT: shape \(2, 1\), expected \(2, 2\)"),
        (lambda: brier_scores(GRID, G, [1, 2], [1, 0], [[0.5, 0.5], [1.5, 0.5]]), "survival_nT: 1 bad .*; first at row 1"),
        (lambda: survival_at([[0.5, 0.4]], [10, 20], [1], 30), r"survival_bins_nK: shape \(1, 2\), expected \(1, 3\)"),
        (lambda: survival_at([[0.5, math.nan]], [10], [1], 30), "survival_bins_nK: 1 bad values"),
        (lambda: survival_at([[0.9, 0.8], [0.4, 0.5]], [10], [1], 30), r"survival_bins_nK: 1 rows rise.*first at \[1\]"),
        (lambda: survival_at([[0.5, 0.4]], [10], [1], 10), r"time bins: 0, edges, last_day are \[0.0, 10.0, 10.0\]"),
        (lambda: survival_at([[0.5, 0.4]], [10], [-1], 30), "times_days"),
        (lambda: calibration([1, 2], [1, 0], [0.5, 0.5], 3), "calibration: 5 groups of 2 cases"),
        (lambda: calibration([1, 2], [1, 0], [0.5, 0.5], 0, num_groups=1), "calibration: .* on day 0"),
        (lambda: calibration([1, 2], [1, 0], [0.5, 2], 3, num_groups=1), "survival_at_t: 1 bad values"),
        (lambda: calibration_svg("x", {}), "calibration figure 'x': no times"),
        (lambda: auc_svg("x", [1, 2], {}), "AUC figure 'x': .* of 0 models"),
        (lambda: auc_svg("x", [1, 2], {"a": np.ones(3)}), r"AUC figure 'x': shapes {'a': \(3,\)} .* all \(2,\)"),
    ],
)
def test_unusable_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def parsed(svg):
    root = ET.fromstring(f'<div xmlns:xlink="http://www.w3.org/1999/xlink">{svg}</div>')  # as in the page, where xlink is known
    assert [child.tag for child in root] == ["svg"]
    return root[0], " ".join(text.text for text in root.iter("text") if text.text)


def test_calibration_figure():
    nan = math.nan
    good = Calibration(365.25, (10, 10), (0.1, 0.5), (0.2, 0.6), (0.1, 0.4), (0.4, 0.8))
    partly = Calibration(1095.75, (10, 10), (0.3, 0.9), (nan, 1.0), (nan, nan), (nan, nan))
    missing = Calibration(1826.25, (10, 10), (0.5, 0.9), (nan, nan), (nan, nan), (nan, nan))
    svg = calibration_svg("A <b>", {1.0: good, 3.0: partly, 5.0: missing})
    picture, text = parsed(svg)
    assert picture.get("role") == "img"
    assert picture.get("aria-label").endswith("A <b>")
    assert "1 year: mean absolute error 0.100" in text
    assert "3 years: mean absolute error 0.100, 1 of 2 groups" in text
    assert "5 years: no group is followed that long" in text
    assert svg == calibration_svg("A <b>", {5.0: missing, 3.0: partly, 1.0: good})


def test_auc_figure():
    svg = auc_svg("glioblastoma", [100, 200, 300], {"MICE": np.array([0.7, np.nan, 0.8]), "Cox & all": np.full(3, np.nan)})
    picture, text = parsed(svg)
    assert picture.get("aria-label") == "Time-dependent AUC of every model over years, glioblastoma"
    assert "MICE" in text
    assert "Cox & all" in text
