"""Comparison networks: literal restatements of one case, the same call as MICE, every missing pattern, refusals."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_model import BAGS, CONFIG, EXPERTS, PRESENT, make_batch, select
from torch.nn import functional as F

from mice_model.losses import total_loss
from mice_model.model import MICE
from mice_model.neural_baselines import ModalityMlp, SlideAttention, TopKMixture, build_network, network_kinds
from mice_model.training import predict

KINDS = [
    "mice",
    "experts:consensual",
    "experts:specialised",
    "experts:overlapping",
    "mlp:rna",
    "mlp:report",
    "abmil",
    "concatenation",
    "top_k_moe",
]


def build(kind, config=CONFIG):
    """Return a network in double precision whose parameters are none of them zero."""
    torch.manual_seed(0)
    network = build_network(kind, config).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    return network


def bag_of(batch, case):
    bags = batch.patches_Pd.split(batch.cu_seqlens.diff().tolist())
    return bags[batch.bag_case_S.tolist().index(case)]


def hazard_logits(network, x, batch, case):
    bias = network.type_bias.vectors[int(batch.cancer_type_B[case])]
    return x @ network.head.weight.T + network.head.bias + bias


def encoded(network, batch, case):
    """Return one case's encodings side by side, zeros where missing, and the flags."""
    parts, flags = [], []
    for modality in network.config.modalities:
        is_there = bool(batch.present[modality.name][case])
        flags.append(float(is_there))
        if not is_there:
            parts.append(torch.zeros(8, dtype=torch.float64))
            continue
        encoder = network.encoders[modality.name]
        if modality.kind == "bag":
            patches = bag_of(batch, case)
            parts.append(encoder(patches, torch.tensor([0, len(patches)]))[0][0])
        else:
            parts.append(encoder(batch.vectors[modality.name][case][None])[0])
    return torch.cat((*parts, torch.tensor(flags, dtype=torch.float64)))


def test_kinds_are_those_that_the_modalities_allow():
    assert list(network_kinds(CONFIG)) == KINDS
    vectors_only = dataclasses.replace(CONFIG, modalities=CONFIG.modalities[1:])
    assert "abmil" not in network_kinds(vectors_only)
    with pytest.raises(ValueError, match=r"network kind: 'abmil', expected one of mice, .*top_k_moe"):
        build_network("abmil", vectors_only)
    for wrong in ("mlp:slide", "mlp", "mice:x", "experts:shared", "cox"):
        with pytest.raises(ValueError, match="network kind"):
            build_network(wrong, CONFIG)
    assert isinstance(build_network("experts:specialised", CONFIG), MICE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bags", "present"),
    [
        (BAGS, PRESENT),
        ({}, PRESENT),
        ({}, {"rna": [0] * 6, "report": [0] * 6}),
        (dict.fromkeys(range(6), 3), {"rna": [1] * 6, "report": [1] * 6}),
        ({1: 0, 4: 5}, PRESENT),
    ],
    ids=["mixed", "no patches", "nothing", "everything", "a bag without patches"],
)
def test_every_kind_trains_on_every_missing_pattern(kind, bags, present):
    network, batch = build(kind).train(), make_batch(bags, present)
    output = network(batch)
    assert output.logits_BK.shape == output.survival_BK.shape == (6, 4)
    assert output.routing_BE.shape == (6, 4 if kind in {"mice", "experts:overlapping", "top_k_moe"} else 0)
    torch.testing.assert_close(output.risk_score_B, -output.survival_BK.sum(1))
    loss = total_loss(output, batch, cox_weight=1.0, ranking_weight=1.0).total
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_the_same_alone_and_in_a_batch(kind):
    network, batch = build(kind), make_batch()
    together = network(batch)
    for rows in ([0], [5], [3, 1], [4, 2, 0, 5, 1, 3]):
        apart = network(select(batch, rows))
        torch.testing.assert_close(apart.logits_BK, together.logits_BK[rows], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_the_skip(kind):
    offset = [2.0, -1.0, 0.0, 0.5, -3.0, 1.0]
    torch.manual_seed(0)
    network = build_network(kind, dataclasses.replace(CONFIG, cox_skip=True, head_scale=0.0)).double().eval()
    assert network(make_batch(offset=offset)).risk_score_B.argsort().tolist() == torch.tensor(offset).argsort().tolist()
    with pytest.raises(ValueError, match=r"batch.offset_B: None"):
        network(make_batch())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_predicted_with_and_refuses_a_type_it_does_not_know(kind):
    network, batch = build(kind), make_batch()
    fold_data = SimpleNamespace(batch=lambda rows, rng: select(batch, rows.tolist()))
    predicted = predict(network, fold_data, np.array([3, 0, 5, 1]), batch_size=3)
    torch.testing.assert_close(torch.from_numpy(predicted.risk), network(batch).risk_score_B[[3, 0, 5, 1]].detach())
    assert predicted.routing.shape[0] == 4
    with pytest.raises(ValueError, match=r"cancer_type_B: \[3\], expected 0 to 2"):
        network(dataclasses.replace(batch, cancer_type_B=torch.tensor([1, 0, 3, 2, 0, 1])))


def test_modality_mlp_against_its_formula():
    network, batch = build("mlp:rna"), make_batch()
    output = network(batch)
    for case in range(6):
        x = batch.vectors["rna"][case]
        for layer in network.encoder.layers:
            x = F.selu(x @ layer.linear.weight.T + layer.linear.bias)
        x = x if PRESENT["rna"][case] else network.absent
        torch.testing.assert_close(output.modality_features["rna"][case], x)
        torch.testing.assert_close(output.logits_BK[case], hazard_logits(network, x, batch, case))
    with pytest.raises(ValueError, match="expected one of kind 'vector' named 'slide'"):
        ModalityMlp(CONFIG, "slide")


@pytest.mark.parametrize("is_gated", [True, False])
def test_attention_pooling_against_its_formula(is_gated):
    torch.manual_seed(0)
    network, batch = SlideAttention(CONFIG, is_gated=is_gated).double().eval(), make_batch()
    output, attention = network(batch), []
    pooling = network.encoder
    for case in range(6):
        x = network.absent
        if case in BAGS:
            h = F.selu(pooling.embed.linear(bag_of(batch, case)))
            gate = 1 / (1 + torch.exp(-(h @ pooling.gate.weight.T + pooling.gate.bias))) if is_gated else 1.0
            scores = (torch.tanh(h @ pooling.content.weight.T + pooling.content.bias) * gate) @ pooling.score.weight[0]
            weights = torch.exp(scores) / torch.exp(scores).sum()
            attention.append(weights)
            x = sum(w * patch for w, patch in zip(weights, h, strict=True))
        torch.testing.assert_close(output.logits_BK[case], hazard_logits(network, x, batch, case))
    torch.testing.assert_close(output.attention_P, torch.cat(attention))


def test_concatenation_against_its_formula():
    network, batch = build("concatenation"), make_batch()
    output = network(batch)
    for case in range(6):
        joint = encoded(network, batch, case)
        x = F.selu(joint @ network.joint.linear.weight.T + network.joint.linear.bias)
        torch.testing.assert_close(output.logits_BK[case], hazard_logits(network, x, batch, case))
    assert torch.count_nonzero(output.modality_features["rna"][~batch.present["rna"]]) == 0


def test_top_k_mixture_against_its_formula():
    network, batch = build("top_k_moe"), make_batch()
    output = network(batch)
    for case in range(6):
        joint = encoded(network, batch, case)
        scores = joint @ network.router.weight.T + network.router.bias
        p = torch.exp(scores) / torch.exp(scores).sum()
        kept = sorted(range(4), key=lambda e, p=p: -p[e].item())[:2]
        share = {e: p[e] / sum(p[i] for i in kept) for e in kept}
        x = torch.zeros(8, dtype=torch.float64)
        for e, weight in share.items():
            hidden = F.selu(joint @ network.first_weight_EXW[e] + network.first_bias_E1W[e, 0])
            x = x + weight * (hidden @ network.second_weight_EWW[e] + network.second_bias_E1W[e, 0])
            torch.testing.assert_close(output.routing_BE[case, e], weight)
        assert output.routing_BE[case].nonzero().squeeze(1).tolist() == sorted(kept)
        torch.testing.assert_close(output.logits_BK[case], hazard_logits(network, x, batch, case))
    with pytest.raises(ValueError, match="top_k: 5, expected 1 to 4"):
        TopKMixture(dataclasses.replace(CONFIG, experts=dataclasses.replace(EXPERTS, top_k=5)))


def test_bfloat16_autocast_runs():
    batch = make_batch()
    batch = dataclasses.replace(
        batch, vectors={n: x.float() for n, x in batch.vectors.items()}, patches_Pd=batch.patches_Pd.float()
    )
    for kind in KINDS:
        network = build(kind).float()
        with torch.autocast("cpu", torch.bfloat16):
            low = network(batch)
        assert low.logits_BK.dtype == torch.float32
        torch.testing.assert_close(low.hazards_BK, network(batch).hazards_BK, rtol=0.1, atol=0.05)
        total_loss(low, batch).total.backward()
