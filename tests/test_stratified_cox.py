"""The Cox model of many strata: lifelines, hand-computed ties, a literal restatement of the penalty, strata that say little."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.optimize import approx_fprime, minimize

from mice_model.stratified_cox import Coefficients, RiskSets, fit_stratified_cox, partial_loss

NO_PENALTY = 1e-3  # the ridge may not be 0; this one moves coefficients by some 1e-5

# Two deaths on day 3 of stratum 0; stratum 1 has other hazards and its own risk sets. theta = exp(log risk).
TIES = pd.DataFrame(
    [
        # stratum, duration, event, theta
        (0, 5.0, False, 2.0),
        (1, 3.0, True, 4.0),
        (0, 3.0, True, 3.0),
        (0, 2.0, True, 5.0),
        (0, 3.0, True, 1.0),
        (0, 3.0, False, 6.0),
        (1, 7.0, True, 1.0),
        (0, 1.0, False, 9.0),
    ],
    columns=["stratum", "duration", "event", "theta"],
)
# Breslow: each death's theta over the sum of all that live until then, censored on that day and other deaths of it too
TIES_LIKELIHOOD = (3 / 12) * (1 / 12) * (5 / 17) * (4 / 5) * (1 / 1)


def arrays(table):
    columns = (table[name].to_numpy() for name in ("duration", "event", "stratum"))
    return tuple(columns)


def planted(n=400, num_strata=3, d=4, seed=0, spread=0.4):
    """Return X, duration, event, stratum without ties, where every stratum's hazards deviate from shared ones."""
    rng = np.random.default_rng(seed)
    X, stratum = rng.normal(size=(n, d)), rng.integers(num_strata, size=n)
    true = np.linspace(-0.8, 0.8, d) + spread * rng.normal(size=(num_strata, d))
    duration = rng.exponential(np.array([300, 900, 2700])[stratum % 3] * np.exp(-np.einsum("nd,nd->n", X, true[stratum])))
    assert len(np.unique(duration)) == n
    return X, duration, rng.random(n) < 0.7, stratum


def fit(cases, num_strata=3, shared=1.0, own=1.0, start=None):
    penalties = (np.broadcast_to(np.asarray(one, float), (cases[0].shape[1],)) for one in (shared, own))
    return fit_stratified_cox(*cases, num_strata, *penalties, start)


def same(found, expected, atol=2e-4):
    np.testing.assert_allclose(found.shared, expected.shared, atol=atol)
    np.testing.assert_allclose(found.own, expected.own, atol=atol)


def lifelines_coefficients(X, duration, event, stratum):
    frame = pd.DataFrame(X).rename(columns="x{}".format).assign(duration=duration, event=event, stratum=stratum)
    return CoxPHFitter(penalizer=0).fit(frame, "duration", "event", strata=["stratum"]).params_.to_numpy()


def test_shared_coefficients_are_those_of_a_stratified_fit_by_lifelines():
    cases = planted()
    found = fit(cases, shared=NO_PENALTY, own=np.inf)
    np.testing.assert_allclose(found.shared, lifelines_coefficients(*cases), atol=1e-3)
    assert not found.own.any()


def test_own_coefficients_are_those_of_a_fit_by_lifelines_of_each_stratum():
    X, duration, event, stratum = cases = planted()
    found = fit(cases, shared=np.inf, own=NO_PENALTY)
    assert not found.shared.any()
    for index in range(3):
        ours = stratum == index
        expected = lifelines_coefficients(X[ours], duration[ours], event[ours], stratum[ours])
        np.testing.assert_allclose(found.own[index], expected, atol=1e-3)


def test_ties_by_hand():
    log_risk = np.log(TIES["theta"].to_numpy())
    assert partial_loss(*arrays(TIES), log_risk) == pytest.approx(-np.log(TIES_LIKELIHOOD))
    order = np.random.default_rng(0).permutation(len(TIES))
    assert partial_loss(*arrays(TIES.iloc[order]), log_risk[order]) == pytest.approx(-np.log(TIES_LIKELIHOOD))
    shifted = log_risk + np.where(TIES["stratum"] == 0, 700.0, -700.0)  # a stratum's level cancels, and overflows nothing
    assert partial_loss(*arrays(TIES), shifted) == pytest.approx(-np.log(TIES_LIKELIHOOD))


def test_one_tied_death_by_hand():
    """d cases of equal risk that die on one day: each sees all d, so the loss is d log d."""
    d = 5
    loss = partial_loss(np.full(d, 9.0), np.ones(d, bool), np.zeros(d, int), np.full(d, 0.3))
    assert loss == pytest.approx(d * np.log(d))


def test_the_gradient_is_that_of_central_differences():
    sets = RiskSets.of(*arrays(TIES))
    log_risk = np.log(TIES["theta"].to_numpy())[sets.order]
    _, gradient = sets.loss(log_risk)
    for case in range(len(log_risk)):
        step = np.eye(len(log_risk))[case] * 1e-5
        expected = (sets.loss(log_risk + step)[0] - sets.loss(log_risk - step)[0]) / 2e-5
        assert gradient[case] == pytest.approx(expected, abs=1e-8)
    assert gradient.sum() == pytest.approx(0)


def dense_restatement(cases, num_strata, shared, own):
    """Minimise the loss, death by death, over one flat vector: columns [X, X of stratum 0, X of stratum 1, ...]."""
    X, duration, event, stratum = cases
    wide = np.concatenate([X, *(np.where((stratum == index)[:, None], X, 0) for index in range(num_strata))], axis=1)
    ridge = np.concatenate([shared, np.tile(own, num_strata)])

    def loss(flat):
        eta, total = wide @ flat, 0.0
        for case in np.flatnonzero(event):
            at_risk = (stratum == stratum[case]) & (duration >= duration[case])
            total -= eta[case] - np.log(np.exp(eta[at_risk]).sum())
        return total + 0.5 * (ridge * flat**2).sum()

    found = minimize(loss, np.zeros(wide.shape[1]), method="BFGS", options={"gtol": 1e-4}).x
    assert np.abs(approx_fprime(found, loss)).max() < 1e-2
    return Coefficients(found[: X.shape[1]], found[X.shape[1] :].reshape(num_strata, -1))


@pytest.mark.parametrize("has_ties", [False, True])
def test_the_penalty_is_that_of_a_dense_restatement(has_ties):
    X, duration, event, stratum = planted(n=90, num_strata=2, d=2, seed=1)
    cases = (X, np.ceil(duration / 200) if has_ties else duration, event, stratum)
    shared, own = np.array([0.5, 4.0]), np.array([3.0, 9.0])
    expected = dense_restatement(cases, 2, shared, own)
    same(fit(cases, 2, shared, own), expected, atol=1e-3)
    assert np.abs(expected.own).min() > 0.01, "deviations that are all zero show no penalty"


def test_a_penalty_of_infinity_leaves_a_column_out():
    X, *outcome = planted()
    without = fit((X[:, :3], *outcome))
    found = fit((X, *outcome), shared=[1, 1, 1, np.inf], own=[1, 1, 1, np.inf])
    np.testing.assert_allclose(found.shared, [*without.shared, 0], atol=2e-4)
    np.testing.assert_allclose(found.own, np.column_stack([without.own, np.zeros(3)]), atol=2e-4)
    assert not fit((X, *outcome), shared=np.inf, own=np.inf).shared.any()


def test_a_heavier_penalty_on_deviations_borrows_more_from_the_others():
    cases = planted()
    spread = [np.abs(fit(cases, own=own).own).mean() for own in (1.0, 10.0, 1e6)]
    assert spread[0] > spread[1] > spread[2]
    np.testing.assert_allclose(fit(cases, own=1e9).shared, fit(cases, own=np.inf).shared, atol=1e-3)


@pytest.mark.parametrize("kind", ["no event", "one case", "no case"])
def test_a_stratum_that_says_nothing_has_no_deviations_and_changes_nothing(kind):
    X, duration, event, stratum = cases = planted()
    expected = fit(cases)
    if kind != "no case":
        count = 1 if kind == "one case" else 20
        extra = np.random.default_rng(9).normal(size=(count, X.shape[1]))
        cases = (
            np.concatenate([X, extra]),
            np.append(duration, np.arange(1.0, count + 1)),
            np.append(event, np.full(count, kind == "one case")),
            np.append(stratum, np.full(count, 3)),
        )
    found = fit(cases, num_strata=4)
    same(Coefficients(found.shared, found.own[:3]), expected)
    np.testing.assert_allclose(found.own[3], 0, atol=1e-9)


def test_the_start_decides_nothing():
    cases = planted()
    rng = np.random.default_rng(2)
    expected = fit(cases)
    for start in (
        expected,
        Coefficients(rng.normal(size=4), rng.normal(size=(3, 4))),
        Coefficients(np.full(4, 9.0), np.ones((3, 4))),
    ):
        same(fit(cases, start=start), expected, atol=1e-3)


def test_a_start_with_a_column_that_is_left_out_now():
    cases = planted()
    found = fit(cases, own=[1, 1, 1, np.inf], start=fit(cases))
    same(found, fit(cases, own=[1, 1, 1, np.inf]), atol=1e-3)
    assert not found.own[:, 3].any()


def test_log_risk_adds_a_stratum_s_deviations_and_none_for_an_unknown_stratum():
    coefficients = Coefficients(np.array([1.0, 2.0]), np.array([[10.0, 0.0], [0.0, 100.0]]))
    X = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, -1.0]])
    np.testing.assert_allclose(coefficients.log_risk(X, np.array([0, 1, -1, 1])), [13, 103, 3, -100])


def test_the_order_of_cases_decides_nothing():
    cases = planted()
    order = np.random.default_rng(4).permutation(len(cases[0]))
    same(fit(tuple(values[order] for values in cases)), fit(cases))


def test_what_cannot_be_fitted_is_refused():
    X, duration, _, stratum = planted(n=30)
    with pytest.raises(ValueError, match="0 events in 30 cases, expected some"):
        fit((X, duration, np.zeros(30, bool), stratum))
    with pytest.raises(ValueError, match="0 cases, expected some"):
        partial_loss(np.empty(0), np.empty(0, bool), np.empty(0, int), np.empty(0))
