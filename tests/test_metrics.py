"""metrics.py and resampling.py against hand-counted tables, lifelines, scikit-survival and brute-force resampling."""

import math

import numpy as np
import pytest
from lifelines.utils import concordance_index as lifelines_concordance_index

from mice_model.metrics import (
    concordance_index,
    fold_mean_concordance,
    log_rank_p,
    paired_difference,
    percentile_interval,
    resampled_concordance,
    risk_groups,
)
from mice_model.resampling import weighted_concordance

# name: durations, events, risks, C-index counted by hand
HAND_COUNTED = {
    "perfect": ([1, 2, 3], [1, 1, 1], [3, 2, 1], 1.0),
    "reversed": ([1, 2, 3], [1, 1, 1], [1, 2, 3], 0.0),
    "one of three pairs wrong": ([1, 2, 3], [1, 1, 1], [3, 1, 2], 2 / 3),
    "equal risks count half": ([1, 2], [1, 1], [5, 5], 0.5),
    "one tie in three pairs": ([1, 2, 3], [1, 1, 1], [2, 2, 1], 2.5 / 3),
    "pairs that start with a censored case do not count": ([1, 2, 3], [0, 1, 1], [0, 2, 1], 1.0),
    "censored on the day of a death outlives it": ([5, 5], [1, 0], [2, 1], 1.0),
    "two deaths on one day are not comparable": ([5, 5, 6], [1, 1, 0], [9, 1, 5], 0.5),
}


def interval_of(duration, event, risk, fold, **how):
    return percentile_interval(resampled_concordance(duration, event, {"a": risk}, fold, **how)["a"])


def paired_of(duration, event, risk_a, risk_b, fold, **how):
    risks = {"a": risk_a, "b": risk_b}
    samples = resampled_concordance(duration, event, risks, fold, **how)
    a, b = (fold_mean_concordance(duration, event, risk, fold).mean for risk in risks.values())
    return paired_difference(a - b, samples["a"] - samples["b"])


@pytest.mark.parametrize("name", HAND_COUNTED)
def test_hand_counted(name):
    duration, event, risk, expected = HAND_COUNTED[name]
    assert concordance_index(duration, event, risk) == pytest.approx(expected, abs=1e-12)
    weights = np.ones((1, len(duration)))
    arrays = np.array(duration, float), np.array(event, bool), np.array([risk], float)
    assert weighted_concordance(*arrays, weights)[0, 0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("duration", "event"), [([3.0, 4.0], [0, 0]), ([3.0], [1]), ([3.0, 3.0], [1, 1]), ([1.0, 2.0], [0, 1])])
def test_no_comparable_pair_is_undefined(duration, event):
    risk = np.arange(float(len(duration)))
    assert math.isnan(concordance_index(duration, event, risk))
    assert math.isnan(fold_mean_concordance(duration, event, risk, np.zeros(len(duration), int)).mean)
    interval = interval_of(duration, event, risk, np.zeros(len(duration), int), num_samples=20)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(paired_of(duration, event, risk, -risk, [0] * len(duration), num_samples=20).p_value)


def random_cases(seed, n=60):
    """Cases with many tied days and tied risks."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(1, 25, n).astype(float)
    event = rng.random(n) < 0.5
    risk_a = (rng.normal(size=n) - duration / 10).round(1)
    return duration, event, risk_a, rng.normal(size=n).round(1), rng.integers(0, 3, n)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_lifelines(seed):
    duration, event, risk, _, _ = random_cases(seed)
    ours = concordance_index(duration, event, risk)
    weighted = weighted_concordance(duration, event, risk[None], np.ones((1, len(risk))))[0, 0]
    assert ours == pytest.approx(lifelines_concordance_index(duration, -risk, event), abs=1e-12)
    assert weighted == pytest.approx(ours, abs=1e-12)
    assert concordance_index(duration, event, -risk) == pytest.approx(1 - ours, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_survival(seed):
    metrics = pytest.importorskip("sksurv.metrics", reason="scikit-survival is not installed")
    duration, event, risk, _, _ = random_cases(seed)
    expected = metrics.concordance_index_censored(event, duration, risk)[0]
    assert concordance_index(duration, event, risk) == pytest.approx(expected, abs=1e-12)


def test_fold_mean_leaves_out_and_counts_undefined_folds():
    duration, event = [1, 2, 1, 2, 3, 4], [1, 1, 1, 1, 0, 0]
    result = fold_mean_concordance(duration, event, [2, 1, 1, 2, 0, 0], [0, 0, 1, 1, 2, 2])
    assert result.mean == 0.5  # folds 1.0 and 0.0; fold 2 has no event
    assert result.num_undefined == 1
    assert result.by_fold[:2] == (1.0, 0.0)
    assert math.isnan(result.by_fold[2])


def test_risks_of_different_folds_are_never_compared():
    duration, event, risk, _, fold = random_cases(1)
    shifted = risk + 100.0 * fold
    assert fold_mean_concordance(duration, event, shifted, fold) == fold_mean_concordance(duration, event, risk, fold)


def test_bootstrap_equals_resampling_by_hand():
    duration, event, risk_a, risk_b, fold = random_cases(7)
    samples = resampled_concordance(duration, event, {"a": risk_a, "b": risk_b}, fold, num_samples=30, seed=11)
    rng = np.random.default_rng(11)
    by_fold = {"a": [], "b": []}
    for k in np.unique(fold):
        rows = np.flatnonzero(fold == k)
        draws = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=30)
        for name, risk in (("a", risk_a), ("b", risk_b)):
            drawn = [np.repeat(rows, counts) for counts in draws]
            by_fold[name].append([lifelines_concordance_index(duration[r], -risk[r], event[r]) for r in drawn])
    for name, per_fold in by_fold.items():
        np.testing.assert_allclose(samples[name], np.mean(per_fold, axis=0), atol=1e-12)
    interval = interval_of(duration, event, risk_a, fold, num_samples=30, seed=11)
    assert (interval.low, interval.high) == pytest.approx(np.percentile(samples["a"], (2.5, 97.5)), abs=1e-12)
    paired = paired_of(duration, event, risk_a, risk_b, fold, num_samples=30, seed=11)
    difference = samples["a"] - samples["b"]
    assert (paired.low, paired.high) == pytest.approx(np.percentile(difference, (2.5, 97.5)), abs=1e-12)
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    assert paired.p_value == pytest.approx(min(1, 2 * (tail + 1) / 31))


def test_paired_difference_of_a_better_an_equal_and_a_worse_risk():
    rng = np.random.default_rng(0)
    duration = rng.exponential(500, 200) + 1
    event, fold = rng.random(200) < 0.7, np.arange(200) % 5
    good, noise = -duration + rng.normal(size=200) * 100, rng.normal(size=200)
    better = paired_of(duration, event, good, noise, fold, num_samples=200)
    worse = paired_of(duration, event, noise, good, fold, num_samples=200)
    equal = paired_of(duration, event, noise, noise, fold, num_samples=200)
    assert better.low > 0
    assert better.p_value == pytest.approx(2 / 201)
    assert (worse.difference, worse.low) == pytest.approx((-better.difference, -better.high))
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0, 0, 0, 1)


def test_interval_covers_the_estimate_and_narrows_with_cases():
    widths = []
    for n in (60, 600):
        rng = np.random.default_rng(n)
        duration = rng.exponential(500, n) + 1
        risk, event, fold = -duration + rng.normal(size=n) * 500, rng.random(n) < 0.6, np.arange(n) % 3
        interval = interval_of(duration, event, risk, fold, num_samples=300)
        assert interval.low < fold_mean_concordance(duration, event, risk, fold).mean < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2


def test_same_seed_same_interval():
    duration, event, risk, _, fold = random_cases(3)
    first, again, other = (interval_of(duration, event, risk, fold, num_samples=50, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_risk_groups_split_within_folds():
    risk = [1, 2, 3, 4, 101, 102, 103, 103]
    fold = [0, 0, 0, 0, 1, 1, 1, 1]
    assert risk_groups(risk, fold).tolist() == [False, False, True, True, False, False, True, True]
    assert not risk_groups([5.0, 5.0, 5.0], [0, 0, 0]).any()
    with pytest.raises(ValueError, match="risk_score"):
        risk_groups([1.0, float("nan")], [0, 0])


def test_log_rank():
    rng = np.random.default_rng(0)
    duration, group = rng.exponential(500, 200) + 1, np.arange(200) % 2
    event = np.ones(200, bool)
    assert log_rank_p(duration, event, group) > 0.01
    assert log_rank_p(np.where(group == 1, duration / 5 + 1, duration), event, group) < 1e-6
    assert math.isnan(log_rank_p(duration, event, np.zeros(200)))
    assert math.isnan(log_rank_p(duration, np.zeros(200, bool), group))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration_days": [1.0, 0.0, 2.0]}, r"duration_days: 1 bad values.*> 0; first at row 1"),
        ({"duration_days": [1.0, float("nan"), 2.0]}, "duration_days: 1 bad"),
        ({"duration_days": []}, "duration_days: shape"),
        ({"event_observed": [1, 0, 2]}, "event_observed: 1 bad values, expected 0 or 1; first at row 2"),
        ({"event_observed": [1, 0]}, r"event_observed: shape \(2,\), expected \(3,\)"),
        ({"risk_score": [0.1, float("nan"), 0.3]}, "risk_score: 1 bad"),
        ({"risk_score": [0.1, 0.2]}, "risk_score: shape"),
    ],
)
def test_unusable_inputs_are_refused(change, message):
    usable = {"duration_days": [1.0, 2.0, 3.0], "event_observed": [1, 0, 1], "risk_score": [0.3, 0.2, 0.1]}
    with pytest.raises(ValueError, match=message):
        concordance_index(**{**usable, **change})
