"""Losses and time bins: hand-computed tables, literal loops, and the degenerate batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mice_model.losses import RANKING_SCALE, TEMPERATURE, contrastive_loss, cox_loss, ranking_loss, survival_nll, total_loss
from mice_model.time_bins import assign_time_bin, fit_time_bins

HAZARDS = torch.tensor([[0.5, 0.2, 0.1]], dtype=torch.float64)
SURVIVAL = torch.tensor([[0.5, 0.4, 0.36]], dtype=torch.float64)  # 0.5; 0.5 * 0.8; 0.4 * 0.9


@pytest.mark.parametrize(
    ("time_bin", "is_event", "likelihood"),
    [
        (0, True, 1.0 * 0.5),  # S_{-1} h_0
        (1, True, 0.5 * 0.2),  # S_0 h_1
        (2, True, 0.4 * 0.1),  # S_1 h_2
        (0, False, 0.5),  # S_0
        (1, False, 0.4),
        (2, False, 0.36),
    ],
)
def test_survival_nll_by_hand(time_bin, is_event, likelihood):
    loss = survival_nll(HAZARDS, SURVIVAL, torch.tensor([time_bin]), torch.tensor([is_event]))
    assert loss.item() == pytest.approx(-math.log(likelihood))


def test_survival_nll_is_the_mean_over_cases():
    loss = survival_nll(HAZARDS.expand(2, 3), SURVIVAL.expand(2, 3), torch.tensor([0, 2]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.36)) / 2)


def test_survival_nll_is_clamped():
    certain = torch.tensor([[1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    survival = torch.cumprod(1 - certain, dim=1)
    event = survival_nll(certain, survival, torch.tensor([1]), torch.tensor([True]))
    assert event.item() == pytest.approx(-math.log(1e-7))  # S_0 = 0, h_1 = 1
    event.backward()
    assert torch.isfinite(certain.grad).all()
    censored = survival_nll(certain.detach(), survival.detach(), torch.tensor([1]), torch.tensor([False]))
    assert censored.item() == pytest.approx(-math.log(1e-7))


def literal_contrastive(features, present):
    real = [(case, x[case] / x[case].norm()) for name, x in features.items() for case in range(x.shape[0]) if present[name][case]]
    terms = []
    for i, (case, z) in enumerate(real):
        others = [j for j in range(len(real)) if j != i]
        positives = [j for j in others if real[j][0] == case]
        if not positives:
            continue
        denominator = sum(torch.exp(z @ real[a][1] / TEMPERATURE) for a in others)
        likelihoods = [torch.log(torch.exp(z @ real[p][1] / TEMPERATURE) / denominator) for p in positives]
        terms.append(-sum(likelihoods) / len(positives))
    return sum(terms) / len(terms)


@pytest.fixture
def features():
    g = torch.Generator().manual_seed(3)
    return {n: torch.randn(5, 4, generator=g, dtype=torch.float64).requires_grad_() for n in ("slide", "rna", "report")}


@pytest.fixture
def present():
    return {
        "slide": torch.tensor([True, True, False, False, True]),
        "rna": torch.tensor([True, False, True, False, True]),
        "report": torch.tensor([True, True, False, False, False]),
    }


def test_contrastive_against_the_literal_loop(features, present):
    expected = literal_contrastive(features, present)
    expected_grads = torch.autograd.grad(expected, list(features.values()))
    found = contrastive_loss(features, present)
    found_grads = torch.autograd.grad(found, list(features.values()))
    torch.testing.assert_close(found, expected)
    for name, grad, expected_grad in zip(features, found_grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.count_nonzero(grad[~present[name]]) == 0, name


def test_contrastive_by_hand():
    # One case with two orthogonal features and another with one, equal to the first: anchors are the first two only.
    features = {"a": torch.tensor([[1.0, 0.0], [3.0, 0.0]]), "b": torch.tensor([[0.0, 2.0], [9.0, 9.0]])}
    present = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}
    anchor_a = -math.log(1 / (1 + math.exp(10)))  # positive at similarity 0, the other case at 1 / 0.1
    anchor_b = -math.log(1 / 2)
    assert contrastive_loss(features, present).item() == pytest.approx((anchor_a + anchor_b) / 2, rel=1e-6)


def test_synthesised_features_never_enter(features, present):
    changed = {n: torch.where(present[n][:, None], x, torch.full_like(x, 100.0)) for n, x in features.items()}
    torch.testing.assert_close(contrastive_loss(changed, present), contrastive_loss(features, present))


@pytest.mark.parametrize("who", [{"slide": [0, 1]}, {"slide": [0], "rna": [1]}, {}])
def test_no_anchor_is_zero_with_a_gradient(features, who):
    present = {n: torch.isin(torch.arange(5), torch.tensor(who.get(n, []), dtype=torch.int64)) for n in features}
    loss = contrastive_loss(features, present)
    assert loss.item() == 0
    loss.backward()
    assert all(torch.count_nonzero(x.grad) == 0 for x in features.values())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_total_loss(features, present, alpha):
    output = SimpleNamespace(hazards_BK=HAZARDS.expand(5, 3), survival_BK=SURVIVAL.expand(5, 3), modality_features=features)
    batch = SimpleNamespace(
        time_bin_B=torch.tensor([0, 1, 2, 0, 1]),
        event_observed_B=torch.tensor([True, True, False, False, True]),
        present=present,
    )
    parts = total_loss(output, batch, alpha=alpha)
    survival = survival_nll(output.hazards_BK, output.survival_BK, batch.time_bin_B, batch.event_observed_B)
    contrastive = contrastive_loss(features, present) if alpha else torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(parts.survival, survival)
    torch.testing.assert_close(parts.contrastive, contrastive)
    torch.testing.assert_close(parts.total, survival + alpha * contrastive)


def literal_cox(risk, days, event, cancer):
    terms = []
    for i in range(len(risk)):
        if event[i]:
            at_risk = [risk[j] for j in range(len(risk)) if cancer[j] == cancer[i] and days[j] >= days[i]]
            terms.append(torch.log(sum(torch.exp(r) for r in at_risk)) - risk[i])
    return sum(terms) / len(terms)


def literal_ranking(risk, days, event, cancer):
    terms = []
    for i in range(len(risk)):
        for j in range(len(risk)):
            later = days[i] < days[j] or (days[i] == days[j] and not event[j])
            if event[i] and later and cancer[i] == cancer[j]:
                terms.append(torch.log(1 + torch.exp(-(risk[i] - risk[j]) / RANKING_SCALE)))
    return sum(terms) / len(terms)


@pytest.fixture
def outcomes():
    """30 cases of 4 types (one with a single case) with many tied times, in no order."""
    g = torch.Generator().manual_seed(11)
    days = torch.randint(1, 8, (30,), generator=g).float()
    event = torch.rand(30, generator=g) < 0.5
    cancer = torch.cat((torch.tensor([7]), torch.randint(0, 3, (29,), generator=g)))
    return days, event, cancer


@pytest.mark.parametrize(("loss", "literal"), [(cox_loss, literal_cox), (ranking_loss, literal_ranking)])
def test_risk_losses_against_the_literal_loop(outcomes, loss, literal):
    risk = torch.randn(30, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    expected, found = literal(risk, *outcomes), loss(risk, *outcomes)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, risk)[0], torch.autograd.grad(expected, risk)[0])
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(loss(risk[order], *(x[order] for x in outcomes)), found)


def test_cox_loss_by_hand():
    # one type: risks log 1, log 2, log 3 at 1, 2, 3 days, the second censored: log(6 / 1) and log(3 / 3)
    risk, days, event = torch.tensor([1.0, 2.0, 3.0]).log(), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True])
    assert cox_loss(risk, days, event, torch.zeros(3, dtype=torch.int64)).item() == pytest.approx(math.log(6) / 2)
    # the third of a type of its own leaves the first a risk set of 1 + 2
    assert cox_loss(risk, days, event, torch.tensor([0, 0, 1])).item() == pytest.approx(math.log(3) / 2)
    # both at the same time, Breslow: both have the risk set of both
    tied = cox_loss(risk[:2], torch.ones(2), torch.tensor([True, True]), torch.zeros(2, dtype=torch.int64))
    assert tied.item() == pytest.approx((math.log(3) + math.log(3 / 2)) / 2)


def test_cox_loss_in_float32_neither_overflows_nor_cancels(outcomes):
    risk = torch.randn(30, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 100
    risk = torch.where(outcomes[2] == 1, risk + 1000, risk)  # one type far above the others
    low = risk.float().requires_grad_()
    found = cox_loss(low, *outcomes)
    risk.requires_grad_()
    # a shift of a whole type cancels: the literal sum would overflow without
    shifted = torch.where(outcomes[2] == 1, risk - 1000, risk)
    expected = literal_cox(shifted, *outcomes)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        torch.autograd.grad(found, low)[0].double(), torch.autograd.grad(expected, risk)[0], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("loss", [cox_loss, ranking_loss])
def test_risk_losses_without_an_event_are_zero_with_a_gradient(loss):
    risk = torch.randn(4).requires_grad_()
    found = loss(risk, torch.arange(4.0) + 1, torch.zeros(4, dtype=torch.bool), torch.zeros(4, dtype=torch.int64))
    assert found.item() == 0
    found.backward()
    assert torch.equal(risk.grad, torch.zeros(4))


def test_ranking_loss_falls_as_pairs_get_in_order(outcomes):
    days, event, cancer = outcomes
    assert ranking_loss(-days, days, event, cancer) < 0.1 * ranking_loss(days, days, event, cancer)


WEIGHTS = {"survival_weight": 0.5, "alpha": 2.0, "cox_weight": 0.3, "ranking_weight": 0.7}


@pytest.mark.parametrize("only", [*WEIGHTS, None])
def test_each_term_has_its_weight_and_reads_zero_without(features, present, only):
    risk = torch.linspace(-2, 0, 5, dtype=torch.float64)
    output = SimpleNamespace(
        hazards_BK=HAZARDS.expand(5, 3), survival_BK=SURVIVAL.expand(5, 3), modality_features=features, risk_score_B=risk
    )
    batch = SimpleNamespace(
        time_bin_B=torch.tensor([0, 1, 2, 0, 1]),
        event_observed_B=torch.tensor([True, True, False, False, True]),
        duration_days_B=torch.tensor([3.0, 1.0, 5.0, 4.0, 2.0]),
        cancer_type_B=torch.tensor([0, 0, 0, 1, 1]),
        present=present,
    )
    outcome = (batch.duration_days_B, batch.event_observed_B, batch.cancer_type_B)
    terms = {
        "survival_weight": survival_nll(output.hazards_BK, output.survival_BK, batch.time_bin_B, batch.event_observed_B),
        "alpha": contrastive_loss(features, present),
        "cox_weight": cox_loss(risk, *outcome),
        "ranking_weight": ranking_loss(risk, *outcome),
    }
    weights = {name: weight if only in {None, name} else 0.0 for name, weight in WEIGHTS.items()}
    parts = total_loss(output, batch, **weights)
    torch.testing.assert_close(parts.total, sum(weights[name] * term for name, term in terms.items()))
    expected = [terms[name] if weights[name] else torch.tensor(0.0, dtype=torch.float64) for name in WEIGHTS]
    for found, term in zip(parts[1:], expected, strict=True):
        torch.testing.assert_close(found, term)


def test_a_loss_of_nothing_is_refused(features, present):
    with pytest.raises(ValueError, match="all 0, expected at least one above"):
        total_loss(SimpleNamespace(hazards_BK=HAZARDS), SimpleNamespace(), 0.0, survival_weight=0.0)


def test_bins_are_quantiles_of_the_uncensored_times():
    days, event = [10, 20, 30, 40, 50, 1000, 2000], [True] * 5 + [False] * 2
    assert fit_time_bins(days, event, 4).tolist() == [20, 30, 40]
    assert fit_time_bins(days, event, 2).tolist() == [30]
    assert fit_time_bins(days, event, 1).tolist() == []


def test_tied_times_still_give_increasing_edges():
    edges = fit_time_bins([5, 5, 5, 5, 5, 5, 6, 7, 8], [True] * 9, 4)
    assert (np.diff(edges) > 0).all()
    assert edges.tolist() == [5.75, 6.5, 7.25]


@pytest.mark.parametrize(
    ("days", "event", "num_bins", "message"),
    [
        ([1, 2, 3], [False] * 3, 2, "0 distinct event times among 3 training cases, expected at least 2"),
        ([1, 1, 2, 9], [True, True, True, False], 3, "2 distinct event times"),
        ([1, float("nan")], [True, True], 1, "not finite"),
        ([1, 2], [True], 1, "shapes"),
        ([1, 2], [True, True], 0, "num_bins: 0"),
    ],
)
def test_bins_refused(days, event, num_bins, message):
    with pytest.raises(ValueError, match=message):
        fit_time_bins(days, event, num_bins)


def test_assign_time_bin():
    bins = assign_time_bin([0.5, 20, 20.01, 39.9, 40, 1e9], [20.0, 40.0])
    assert bins.dtype == np.int64
    assert bins.tolist() == [0, 1, 1, 1, 2, 2]
    assert assign_time_bin([1.0, 2.0], []).tolist() == [0, 0]
    with pytest.raises(ValueError, match="strictly increasing"):
        assign_time_bin([1.0], [20.0, 20.0])
    with pytest.raises(ValueError, match="not finite"):
        assign_time_bin([float("inf")], [20.0])
