"""Baseline hazards: predicted events add up to those there were, given log risks; a hand-made table; types without events."""

import numpy as np
from scipy.special import expit

from mice_model.baseline_hazard import _PSEUDO_CASES, fit_baseline


def test_equal_risks_give_the_life_table():
    """Log risks 0: hazard = (events + m * pooled) / (at risk + m); 10 and 6 cases at risk in bins 0 and 1, 3 and 2 deaths."""
    time_bin = np.array([0] * 4 + [1] * 6)
    event = np.array([True] * 3 + [False] + [True] * 2 + [False] * 4)
    logits = fit_baseline(time_bin, event, np.zeros(10, np.int64), np.zeros(10), 1, 2)
    pooled = np.array([3.5 / 11, 2.5 / 7])
    expected = (np.array([3, 2]) + _PSEUDO_CASES * pooled) / (np.array([10, 6]) + _PSEUDO_CASES)
    np.testing.assert_allclose(expit(logits[0]), expected, rtol=1e-6)


def test_hazards_of_those_at_risk_add_up_to_the_events_of_each_type_and_bin():
    rng = np.random.default_rng(0)
    n, num_bins = 3000, 5
    time_bin, event = rng.integers(0, num_bins, n), rng.random(n) < 0.4
    cancer, log_risk = rng.integers(0, 3, n), rng.normal(0, 1.5, n)
    logits = fit_baseline(time_bin, event, cancer, log_risk, 3, num_bins)
    for c in range(3):
        for k in range(num_bins):
            at_risk = (cancer == c) & (time_bin >= k)
            found = expit(logits[c, k] + log_risk[at_risk]).sum()
            events = ((cancer == c) & (time_bin == k) & event).sum()
            assert abs(found - events) < _PSEUDO_CASES


def test_a_type_without_cases_has_the_hazards_of_all():
    time_bin, event = np.array([0, 0, 1, 1]), np.array([True, False, True, False])
    logits = fit_baseline(time_bin, event, np.zeros(4, np.int64), np.zeros(4), 2, 2)
    np.testing.assert_allclose(expit(logits[1]), [1.5 / 5, 1.5 / 3], rtol=1e-6)
