"""Alarms: figures by hand, the extreme cases they are there for, and what the sentences say."""

import math

import numpy as np
import pytest
import torch

from mice_model.alarms import AlarmLimits, Drift, RouterEntropy, alarms, prediction_spread, router_entropy, stand_in_drift


def test_router_entropy_by_hand():
    # one case on two experts alike, one on a third alone, of four; weights need not sum to one
    found = router_entropy(torch.tensor([[0.3, 0.3, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0]]))
    assert found.of_case == pytest.approx((math.log(2) + 0) / 2 / math.log(4))
    assert found.of_mean == pytest.approx((2 * 0.25 * math.log(4) + 0.5 * math.log(2)) / math.log(4))


@pytest.mark.parametrize(
    ("routing", "of_case", "of_mean"),
    [
        (np.full((5, 3), 1 / 3), 1.0, 1.0),  # all alike
        (np.eye(3), 0.0, 1.0),  # each case its own expert
        (np.eye(3)[[1, 1, 1, 1]], 0.0, 0.0),  # everybody the same one
    ],
)
def test_router_entropy_at_the_ends(routing, of_case, of_mean):
    found = router_entropy(routing)
    assert (found.of_case, found.of_mean) == pytest.approx((of_case, of_mean))


def test_spread_is_the_standard_deviation():
    assert prediction_spread(torch.tensor([1.0, 3.0])) == pytest.approx(1.0)
    assert prediction_spread(np.full(9, -2.5)) == 0


def test_drift_by_hand():
    real = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = stand_in_drift(real, torch.tensor([[2.0, 0.0], [3.0, 0.0]]))  # along, and at a right angle
    assert found.cosine == pytest.approx(0.5)
    # means (0.5, 1) and (2.5, 0), deviations (0.5, 1) and (0.5, 0), mean square (1 + 4) / 2
    assert found.frechet == pytest.approx((2**2 + 1 + 0 + 1) / 2.5)


def test_drift_of_the_same_is_zero_and_that_of_zeros_one():
    real = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    same = stand_in_drift(real, real)
    assert (same.cosine, same.frechet) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert stand_in_drift(real, torch.zeros_like(real)).frechet == pytest.approx(1.0)
    assert stand_in_drift(real, -real).cosine == pytest.approx(2.0)


def test_no_alarm_for_what_is_within_its_limits():
    assert alarms() == ()
    healthy = {"entropy": RouterEntropy(0.6, 0.9), "spread": {"blca": 0.4}, "drift": {"rna": Drift(0.3, 0.5)}}
    assert alarms(**healthy) == ()
    limits = AlarmLimits()
    at_limit = RouterEntropy(limits.least_entropy_of_case, limits.least_entropy_of_mean)
    assert alarms(entropy=at_limit, drift={"rna": Drift(limits.most_cosine, limits.most_frechet)}) == ()


def test_alarms_name_the_figure_what_was_expected_and_what_to_do():
    found = alarms(
        entropy=RouterEntropy(0.02, 0.123456),
        spread={"blca": 0.5, "kirc": 0.0},
        drift={"rna": Drift(0.1, 3.0), "slide": Drift(1.5, 0.1)},
    )
    assert [sentence.split(", expected")[0] for sentence in found] == [
        "router entropy of a case: 0.02",
        "router entropy of the mean routing: 0.123",
        "spread of the risk, kirc: 0",
        "cosine distance of stand-ins, slide: 1.5",
        "Frechet distance of stand-ins, rna: 3",
    ]
    assert "expected at least 0.5. Lower the learning rate" in found[1]
    assert all(sentence.endswith(".") for sentence in found)


def test_limits_are_the_callers_and_not_a_number_is_an_alarm():
    assert len(alarms(spread={"blca": 0.5}, limits=AlarmLimits(least_spread=1.0))) == 1
    assert "nan, expected at least" in alarms(spread={"blca": math.nan})[0]
    assert len(alarms(entropy=RouterEntropy(math.nan, math.nan), drift={"rna": Drift(math.nan, math.nan)})) == 4
    assert math.isnan(prediction_spread([1.0, math.nan]))


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (lambda: router_entropy(torch.empty(4, 0)), r"routing_BE: shape \(4, 0\), expected \(B, E\)"),
        (lambda: router_entropy(torch.ones(4, 1)), "E >= 2"),
        (lambda: router_entropy(torch.empty(0, 3)), "B >= 1"),
        (lambda: prediction_spread(torch.ones(1)), r"risk: shape \(1,\)"),
        (lambda: stand_in_drift(torch.ones(3, 2), torch.ones(2, 2)), r"shapes \(3, 2\) and \(2, 2\)"),
        (lambda: stand_in_drift(torch.ones(0, 2), torch.ones(0, 2)), "n >= 1"),
    ],
)
def test_figures_of_nothing_are_refused(figure, message):
    with pytest.raises(ValueError, match=message):
        figure()
