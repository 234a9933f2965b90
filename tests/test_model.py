"""The network against a slow literal restatement, one case at a time; missing modalities, batches, gradients, sizes.

The restatement reads parameters by their state-dict names and shares no code with the model but the kernels' oracles,
which test_kernels.py checks.
"""

import dataclasses
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from kernels.causal_conv1d import causal_conv1d_reference
from kernels.selective_scan import selective_scan_reference
from mice_model.batch import Batch, drop_modalities
from mice_model.blocks import FeedForwardBlock, Transformer, mlp
from mice_model.config import EXPERT_GROUPS, ExpertConfig, ModalityConfig, ModelConfig, ScanConfig
from mice_model.encoders import segment_softmax
from mice_model.experts import Router
from mice_model.losses import total_loss
from mice_model.mamba import MambaBlock, strided_order
from mice_model.model import MICE

EXPERTS = ExpertConfig(
    consensual_rank=5,
    specialised_rank=3,
    overlapping_ranks=(2, 4, 6, 8),
    top_k=2,
    num_heads=2,
    router_dim=7,
    pre_encoder_dim_head=3,
    pre_encoder_mlp_dim=9,
    fusion_dim_head=4,
    fusion_mlp_dim=11,
)
CONFIG = ModelConfig(
    cancer_types=("BLCA", "BRCA", "KIRC"),
    modalities=(
        ModalityConfig("slide", "bag", 6),
        ModalityConfig("rna", "vector", 9, (5,)),
        ModalityConfig("report", "vector", 4, ()),
    ),
    width=8,
    num_time_bins=4,
    scan=ScanConfig(state_dim=3, attention_dim=5),
    experts=EXPERTS,
)
PRESENT = {"rna": [1, 1, 0, 1, 0, 0], "report": [1, 0, 1, 0, 1, 0]}
BAGS = {0: 7, 2: 1, 3: 12}  # batch row -> patches; case 5 has nothing at all


def make_model(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return MICE(config).double().eval()


def make_batch(bags=None, present=None, seed=1, offset=None):
    bags, present = BAGS if bags is None else bags, PRESENT if present is None else present
    g = torch.Generator().manual_seed(seed)
    num_cases, widths = 6, {"rna": 9, "report": 4}
    masks = {name: torch.tensor(rows, dtype=torch.bool) for name, rows in present.items()}
    vectors = {n: torch.randn(num_cases, d, generator=g, dtype=torch.float64) * masks[n][:, None] for n, d in widths.items()}
    masks["slide"] = torch.tensor([case in bags for case in range(num_cases)])
    return Batch(
        case_ids=[f"case{b}" for b in range(num_cases)],
        cancer_type_B=torch.tensor([1, 0, 1, 2, 0, 1]),
        vectors=vectors,
        present=masks,
        patches_Pd=torch.randn(sum(bags.values()), 6, generator=g, dtype=torch.float64),
        cu_seqlens=torch.tensor([0, *bags.values()]).cumsum(0).int(),
        bag_case_S=torch.tensor(list(bags), dtype=torch.int64),
        duration_days_B=torch.rand(num_cases, generator=g) * 1000 + 1,
        event_observed_B=torch.tensor([True, False, True, True, False, False]),
        time_bin_B=torch.tensor([0, 1, 2, 3, 0, 1]),
        offset_B=None if offset is None else torch.tensor(offset),
    )


def select(batch, rows):
    """Return the batch of these cases only, in this order."""
    bags = dict(zip(batch.bag_case_S.tolist(), batch.patches_Pd.split(batch.cu_seqlens.diff().tolist()), strict=True))
    own = [(new, bags[old]) for new, old in enumerate(rows) if old in bags]
    lengths = [len(patches) for _, patches in own]
    return Batch(
        case_ids=[batch.case_ids[b] for b in rows],
        cancer_type_B=batch.cancer_type_B[rows],
        vectors={n: x[rows] for n, x in batch.vectors.items()},
        present={n: x[rows] for n, x in batch.present.items()},
        patches_Pd=torch.cat([batch.patches_Pd[:0], *(patches for _, patches in own)]),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        bag_case_S=torch.tensor([new for new, _ in own], dtype=torch.int64),
        duration_days_B=batch.duration_days_B[rows],
        event_observed_B=batch.event_observed_B[rows],
        time_bin_B=batch.time_bin_B[rows],
    )


class Literal:
    """One case at a time, every formula as the design states it."""

    def __init__(self, model):
        self.p = {name: t.detach() for name, t in model.named_parameters()}
        self.config = model.config

    def linear(self, name, x):
        y = x @ self.p[f"{name}.weight"].T
        return y + self.p[f"{name}.bias"] if f"{name}.bias" in self.p else y

    def block(self, name, x):
        y = self.linear(f"{name}.linear", x)
        return F.selu(y) if self.config.block == "snn" else torch.relu(y)

    def norm(self, x, weight=1.0, bias=0.0):
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * weight + bias

    def named_norm(self, name, x):
        return self.norm(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def transformer(self, name, x_TD):
        for i in range(EXPERTS.depth):
            layer = f"{name}.layers.{i}"
            heads = []
            q_w, k_w, v_w = self.p[f"{layer}.qkv.weight"].chunk(3)
            normed = self.named_norm(f"{layer}.norm1", x_TD)
            for h in range(EXPERTS.num_heads):
                q, k, v = (normed @ w.chunk(EXPERTS.num_heads)[h].T for w in (q_w, k_w, v_w))
                heads.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v)
            x_TD = x_TD + self.linear(f"{layer}.out", torch.cat(heads, dim=1))
            hidden = self.linear(f"{layer}.fc1", self.named_norm(f"{layer}.norm2", x_TD))
            gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            x_TD = x_TD + self.linear(f"{layer}.fc2", gelu)
        return x_TD

    def cls_of(self, name, tokens_TD):
        return self.transformer(f"{name}.transformer", torch.cat((self.p[f"{name}.cls"][None], tokens_TD)))[0]

    def mamba(self, name, x_PD):
        u, z = self.linear(f"{name}.in_proj", x_PD).chunk(2, dim=1)
        y = self.branch(name, u, z)
        if self.config.scan.reordered:  # every rate-th token, from the first, then from the second, ...
            rows = [i for start in range(self.config.scan.rate) for i in range(start, len(x_PD), self.config.scan.rate)]
            strided = self.branch(f"{name}.strided", torch.stack([u[i] for i in rows]), torch.stack([z[i] for i in rows]))
            y = torch.stack([y[i] + strided[rows.index(i)] for i in range(len(x_PD))])
        return self.linear(f"{name}.out_proj", y)

    def branch(self, name, u, z):
        weight, bias = self.p[f"{name}.conv.weight"][:, 0], self.p[f"{name}.conv.bias"]
        u = causal_conv1d_reference(u, weight, bias, activation="silu")
        rank, N = self.p[f"{name}.dt_proj.weight"].shape[1], self.p[f"{name}.A_log"].shape[1]
        dt, B, C = self.linear(f"{name}.x_proj", u).split((rank, N, N), dim=1)
        delta = F.softplus(self.linear(f"{name}.dt_proj", dt))
        A, D = -torch.exp(self.p[f"{name}.A_log"]), self.p[f"{name}.D"]
        return selective_scan_reference(u, delta, A, B, C, D_D=D, delta_softplus=False) * (z * torch.sigmoid(z))

    def slide(self, name, patches_Pd):
        f = self.block(f"{name}.embed", patches_Pd)
        m = f + self.mamba(f"{name}.mamba", self.named_norm(f"{name}.norm", f))
        scores = self.linear(f"{name}.attention.2", torch.tanh(self.linear(f"{name}.attention.0", m)))[:, 0]
        attention = torch.exp(scores) / torch.exp(scores).sum()
        return attention @ (m if self.config.scan.pool == "post_mamba" else f), attention

    def route(self, c, cls_D, tokens_TD):
        name = f"router.cancers.{c}"
        hidden = [self.linear(f"{name}.cls_linear", cls_D), self.linear(f"{name}.token_linear", tokens_TD.reshape(-1))]
        hidden = [F.selu(h) if self.config.block == "snn" else torch.relu(h) for h in hidden]
        decided = self.linear(f"{name}.head", torch.cat(hidden))
        if "overlapping" not in self.config.experts.groups:
            return {}, decided[0]
        E = len(EXPERTS.overlapping_ranks)
        p = torch.exp(decided[:E]) / torch.exp(decided[:E]).sum()
        kept = sorted(range(E), key=lambda e: -p[e].item())[: EXPERTS.top_k]
        return {e: p[e] for e in kept}, decided[2 * E] if len(decided) > 2 * E else None

    def features(self, batch, b, cancer):
        bags = dict(zip(batch.bag_case_S.tolist(), batch.patches_Pd.split(batch.cu_seqlens.diff().tolist()), strict=True))
        features, attention = {}, None
        for modality in self.config.modalities:
            name = f"encoders.{modality.name}"
            if not batch.present[modality.name][b]:
                features[modality.name] = self.block(f"missing.{modality.name}.layers", cancer)
            elif modality.kind == "bag":
                features[modality.name], attention = self.slide(name, bags[b])
            else:
                x = batch.vectors[modality.name][b]
                for i in range(len(modality.hidden) + 1):
                    x = self.block(f"{name}.layers.{i}", x)
                features[modality.name] = x
        return features, attention

    def tokens(self, cancer, features):
        tokens = [self.block("cancer_block", cancer), *features.values()]
        if self.config.experts.interaction == "pairwise":
            pairs = combinations(features.values(), 2)
            tokens += [self.block(f"pair_tokens.blocks.{i}", x * y) for i, (x, y) in enumerate(pairs)]
        return self.transformer("pre_encoder", torch.stack([self.p["pre_cls"], *tokens]))

    def case(self, batch, b):
        c = int(batch.cancer_type_B[b])
        cancer = self.p[f"cancer_embedding.vectors.{c}"]
        features, attention = self.features(batch, b, cancer)
        shared = self.tokens(cancer, features)
        groups, weights, outputs = self.config.experts.groups, {}, []
        if set(groups) & {"specialised", "overlapping"}:
            weights, gate = self.route(c, shared[0], shared[1:])
        if "consensual" in groups:
            outputs.append(self.cls_of("experts.consensual", shared[1:]))
        if "specialised" in groups:
            outputs.append(gate * self.cls_of(f"experts.specialised.{c}", shared[1:]))
        if "overlapping" in groups:
            mixed = sum(w * self.cls_of(f"experts.overlapping.{e}", shared[1:]) for e, w in weights.items())
            norm = "experts.overlapping_norm"
            outputs.append(self.norm(mixed, self.p[f"{norm}.weight.vectors.{c}"], self.p[f"{norm}.bias.vectors.{c}"]))
        logits = self.linear("head", self.cls_of("fusion", torch.stack(outputs)))
        if self.config.cox_skip:
            logits = logits + batch.offset_B[b]
        alive, survival = 1.0, []
        for logit in logits:
            alive = alive * (1 - 1 / (1 + torch.exp(-logit)))
            survival.append(alive)
        return {
            "logits": logits,
            "survival": torch.stack(survival),
            "risk": -sum(survival),
            "features": features,
            "weights": weights,
            "attention": attention,
        }


def with_experts(**changes):
    return dataclasses.replace(CONFIG, experts=dataclasses.replace(EXPERTS, **changes))


SUBSETS = [groups for size in (1, 2) for groups in combinations(EXPERT_GROUPS, size)]
VARIANTS = {
    "snn, post": CONFIG,
    "mlp, pre": dataclasses.replace(CONFIG, block="mlp", scan=dataclasses.replace(CONFIG.scan, pool="pre_mamba")),
    "SR-Mamba": dataclasses.replace(CONFIG, scan=dataclasses.replace(CONFIG.scan, reordered=True, rate=3)),
    "SR-Mamba, rate 1": dataclasses.replace(CONFIG, scan=dataclasses.replace(CONFIG.scan, reordered=True, rate=1)),
    "pairwise": with_experts(interaction="pairwise"),
    "skip": dataclasses.replace(CONFIG, cox_skip=True, head_scale=0.1),
    **{"+".join(groups): with_experts(groups=groups) for groups in SUBSETS},
    "pairwise, one group": with_experts(interaction="pairwise", groups=("overlapping",)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_against_the_literal_restatement(variant):
    model, batch = make_model(VARIANTS[variant]), make_batch(offset=[0.5, -1.0, 2.0, 0.0, -0.25, 1.5])
    with torch.no_grad():  # vectors that are all ones or zeros would hide a swapped index
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    output, literal = model(batch), Literal(model)
    close = {"rtol": 1e-9, "atol": 1e-9}
    attention = []
    for b in range(len(batch)):
        expected = literal.case(batch, b)
        torch.testing.assert_close(output.logits_BK[b], expected["logits"], **close)
        torch.testing.assert_close(output.hazards_BK[b], torch.sigmoid(expected["logits"]), **close)
        torch.testing.assert_close(output.survival_BK[b], expected["survival"], **close)
        torch.testing.assert_close(output.risk_score_B[b], expected["risk"], **close)
        for name, feature in expected["features"].items():
            torch.testing.assert_close(output.modality_features[name][b], feature, **close)
        assert output.routing_BE[b].nonzero().squeeze(1).tolist() == sorted(expected["weights"])
        for e, weight in expected["weights"].items():
            torch.testing.assert_close(output.routing_BE[b, e], weight, **close)
        attention += [] if expected["attention"] is None else [expected["attention"]]
    torch.testing.assert_close(output.attention_P, torch.cat(attention), **close)


def test_a_case_is_the_same_alone_and_in_a_batch():
    model, batch = make_model(), make_batch()
    together = model(batch)
    for rows in ([0], [5], [3, 1], [4, 2, 0, 5, 1, 3]):
        apart = model(select(batch, rows))
        torch.testing.assert_close(apart.logits_BK, together.logits_BK[rows], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(apart.routing_BE, together.routing_BE[rows], rtol=1e-10, atol=1e-10)


def test_evaluation_is_deterministic_and_training_is_not():
    model, batch = make_model(), make_batch()
    assert torch.equal(model(batch).logits_BK, model(batch).logits_BK)
    model.train()
    assert not torch.equal(model(batch).logits_BK, model(batch).logits_BK)


def test_higher_hazard_is_higher_risk():
    model, batch = make_model(), make_batch()
    before = model(batch).risk_score_B
    with torch.no_grad():
        model.head.bias += 1
    assert (model(batch).risk_score_B > before).all()


@pytest.mark.parametrize(
    ("bags", "present"),
    [
        ({}, PRESENT),
        (BAGS, {"rna": [0] * 6, "report": [0] * 6}),
        ({}, {"rna": [0] * 6, "report": [0] * 6}),
        (dict.fromkeys(range(6), 3), {"rna": [1] * 6, "report": [1] * 6}),
        ({1: 0, 4: 5}, PRESENT),
    ],
    ids=["no patches", "bags only", "nothing", "everything", "a bag without patches"],
)
def test_missing_patterns_train(bags, present):
    model, batch = make_model().train(), make_batch(bags, present)
    output = model(batch)
    assert (output.attention_P is None) == (not bags)
    loss = total_loss(output, batch).total
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    for name, mask in batch.present.items():
        encoder = [p.grad is not None for p in model.encoders[name].parameters()]
        stand_in = [p.grad is not None for p in model.missing[name].parameters()]
        assert encoder == [bool(mask.any())] * len(encoder), name
        assert stand_in == [not mask.all()] * len(stand_in), name


def test_what_a_batch_does_not_use_has_no_gradient():
    model, batch = make_model().train(), select(make_batch(), [0, 2])  # cancer type 1 only
    model.router.top_k = 1
    output = model(batch)
    total_loss(output, batch).total.backward()
    used = output.routing_BE.detach().sum(0) > 0
    for e, expert in enumerate(model.experts.overlapping):
        assert all((p.grad is not None) == bool(used[e]) for p in expert.parameters()), e
    for c in range(3):
        own = [
            model.cancer_embedding.vectors[c],
            model.experts.overlapping_norm.weight.vectors[c],
            model.experts.overlapping_norm.bias.vectors[c],
            *model.router.cancers[c].parameters(),
            *model.experts.specialised[c].parameters(),
        ]
        assert all((p.grad is not None) == (c == 1) for p in own), c


def test_router_noise_only_in_training_and_top_k_not_renormalised():
    torch.manual_seed(0)
    router = Router(dataclasses.replace(CONFIG, dropout=0.0)).double()
    cls, tokens, cancer = torch.randn(50, 8).double(), torch.randn(50, 4, 8).double(), torch.arange(50) % 3
    router.eval()
    quiet = router(cls, tokens, cancer)
    assert torch.equal(quiet.weights, router(cls, tokens, cancer).weights)
    assert (quiet.weights > 0).sum(1).tolist() == [EXPERTS.top_k] * 50
    assert (quiet.weights.sum(1) < 1).all()
    router.train()
    torch.manual_seed(7)
    noisy = router(cls, tokens, cancer)
    assert not torch.equal(noisy.weights, quiet.weights)
    torch.testing.assert_close(noisy.gate, quiet.gate)
    # The noise is the only difference: replay it by hand on the case's own head.
    torch.manual_seed(7)
    noise = torch.randn(50, 4, dtype=torch.float64)
    own = router.cancers[int(cancer[4])]
    decided = own.head(torch.cat((F.selu(own.cls_linear(cls[4])), F.selu(own.token_linear(tokens[4].reshape(-1))))))
    p = torch.softmax(decided[:4] + noise[4] * decided[4:8], dim=0)
    kept = p.topk(EXPERTS.top_k)
    torch.testing.assert_close(noisy.weights[4, kept.indices], kept.values)


def test_blocks_have_the_stated_order():
    snn, relu = FeedForwardBlock("snn", 3, 5, 0.2), FeedForwardBlock("mlp", 3, 5, 0.2)
    assert [type(m).__name__ for m in snn.activation] == ["SELU", "AlphaDropout"]
    assert [type(m).__name__ for m in relu.activation] == ["Dropout", "ReLU"]
    assert {m.p for m in (snn.activation[1], relu.activation[0])} == {0.2}
    assert [m.linear.out_features for m in mlp("snn", (3, 7, 5), 0.2)] == [7, 5]
    with pytest.raises(ValueError, match="block: 'gelu'"):
        FeedForwardBlock("gelu", 3, 5, 0.2)


def test_transformer_returns_every_token_and_knows_no_positions():
    transformer = Transformer(8, 2, 2, 3, 9).double()
    x, order = torch.randn(2, 5, 8, dtype=torch.float64), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(transformer(x)[:, order], transformer(x[:, order]))
    assert transformer.layers[0].qkv.bias is None


def test_mamba_starts_as_the_paper_says():
    torch.manual_seed(0)
    block = MambaBlock(32, ScanConfig())
    dt = F.softplus(block.dt_proj.bias)
    assert dt.min() >= 1e-3 * 0.999
    assert dt.max() <= 1e-1 * 1.001
    torch.testing.assert_close(torch.exp(block.A_log[5]), torch.arange(1.0, 17.0))
    assert torch.equal(block.D, torch.ones(64))
    assert block.dt_rank == 2
    assert block.dt_proj.weight.abs().max() <= 2**-0.5


def test_segment_softmax_is_stable_and_allows_empty_segments():
    scores = torch.tensor([1000.0, 1001.0, -1000.0, 3.0])
    found = segment_softmax(scores, torch.tensor([0, 0, 2, 2]), 4)
    expected = torch.cat((torch.softmax(scores[:2], 0), torch.softmax(scores[2:], 0)))
    torch.testing.assert_close(found, expected)


def test_bfloat16_autocast_runs_and_stays_close():
    model, batch = make_model().float().train(False), make_batch()
    batch = dataclasses.replace(
        batch, vectors={n: x.float() for n, x in batch.vectors.items()}, patches_Pd=batch.patches_Pd.float()
    )
    with torch.autocast("cpu", torch.bfloat16):
        low = model(batch)
    assert low.logits_BK.dtype == torch.float32
    torch.testing.assert_close(low.hazards_BK, model(batch).hazards_BK, rtol=0.1, atol=0.05)
    total_loss(low, batch).total.backward()


def test_paper_preset_has_about_44_million_parameters():
    slide, rna = ModalityConfig("slide", "bag", 1024), ModalityConfig("rna", "vector", 20245, (512,))
    report = ModalityConfig("report", "vector", 768, (512,))
    with torch.device("meta"):
        model = MICE(ModelConfig(tuple(f"type{i}" for i in range(30)), (slide, rna, report)))
    num_parameters = sum(p.numel() for p in model.parameters())
    assert num_parameters == 43_675_816
    assert 43e6 < num_parameters < 45e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ()}, "modalities: "),
        ({"modalities": (ModalityConfig("a", "vector", 2), ModalityConfig("a", "vector", 2))}, "distinct names"),
        ({"modalities": (ModalityConfig("a", "bag", 2), ModalityConfig("b", "bag", 2))}, "at most one of kind 'bag'"),
        ({"cancer_types": ()}, "cancer_types: none"),
        ({"experts": dataclasses.replace(EXPERTS, top_k=5)}, "top_k: 5, expected 1 to 4"),
        ({"scan": ScanConfig(pool="mean")}, "scan.pool: 'mean'"),
        ({"scan": ScanConfig(rate=0)}, "scan.rate: 0, expected at least 1"),
        ({"experts": dataclasses.replace(EXPERTS, groups=())}, "experts.groups: "),
        ({"experts": dataclasses.replace(EXPERTS, groups=("consensual", "consensual"))}, "each once"),
        ({"experts": dataclasses.replace(EXPERTS, groups=("shared",))}, "experts.groups: "),
        ({"experts": dataclasses.replace(EXPERTS, interaction="all")}, "experts.interaction: 'all'"),
    ],
)
def test_configs_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MICE(dataclasses.replace(CONFIG, **change))


def test_batches_refused():
    model, batch = make_model(), make_batch()
    with pytest.raises(ValueError, match=r"cancer_type_B: \[3\], expected 0 to 2"):
        model(dataclasses.replace(batch, cancer_type_B=torch.tensor([1, 0, 3, 2, 0, 1])))
    with pytest.raises(
        ValueError, match=r"batch.present\['slide'\]: cases \[0, 2, 3\], expected those of bag_case_S, \[0, 2, 4\]"
    ):
        model(dataclasses.replace(batch, bag_case_S=torch.tensor([0, 2, 4])))


def test_a_group_left_out_has_no_parameters_and_the_rest_trains():
    for groups in SUBSETS:
        model, batch = make_model(with_experts(groups=groups)).train(), make_batch()
        names = {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith("experts.")}
        assert {name.removesuffix("_norm") for name in names} == set(groups)
        assert bool(len(model.router.cancers)) == (groups != ("consensual",))
        output = model(batch)
        assert output.routing_BE.shape == (6, 4 if "overlapping" in groups else 0)
        total_loss(output, batch).total.backward()
        assert all(p.grad is not None for p in model.fusion.parameters()), groups


def test_order_of_groups_in_the_config_does_not_matter():
    turned = make_model(with_experts(groups=EXPERT_GROUPS[::-1]))
    assert torch.equal(turned(make_batch()).logits_BK, make_model()(make_batch()).logits_BK)


@pytest.mark.parametrize("rate", [1, 2, 3, 50])
def test_strided_order_of_every_bag_by_hand(rate):
    lengths, expected, start = [5, 0, 1, 7], [], 0
    for length in lengths:
        expected += [start + i for first in range(rate) for i in range(first, length, rate)]
        start += length
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    assert strided_order(13, bounds, rate, bounds.device).tolist() == expected
    assert strided_order(0, bounds[:1], rate, bounds.device).tolist() == []
    assert strided_order(5, None, rate, bounds.device).tolist() == expected[:5]


def test_reordered_branch_adds_its_own_weights_only():
    plain, both = MambaBlock(8, ScanConfig()), MambaBlock(8, ScanConfig(reordered=True, rate=2))
    added = {name for name, _ in both.named_parameters()} - {name for name, _ in plain.named_parameters()}
    shared = ("in_proj", "out_proj")
    assert added == {f"strided.{name}" for name, _ in plain.named_parameters() if not name.startswith(shared)}
    both(torch.randn(9, 8), torch.tensor([0, 4, 9], dtype=torch.int32)).sum().backward()
    assert all(p.grad is not None for p in both.parameters())


def test_skip_is_proportional_odds_and_a_small_head_stays_near_it():
    config = dataclasses.replace(CONFIG, cox_skip=True, head_scale=0.0)
    offset = [2.0, -1.0, 0.0, 0.5, -3.0, 1.0]
    output = make_model(config)(make_batch(offset=offset))
    assert output.risk_score_B.argsort().tolist() == torch.tensor(offset).argsort().tolist()
    odds = output.hazards_BK / (1 - output.hazards_BK)
    torch.testing.assert_close(odds[0] / odds[2], torch.full((4,), 2.0, dtype=torch.float64).exp())
    with pytest.raises(ValueError, match=r"batch.offset_B: None, expected the Cox log risk"):
        make_model(config)(make_batch())
    assert torch.equal(make_model()(make_batch(offset=offset)).logits_BK, make_model()(make_batch()).logits_BK)


def test_head_scale_scales_the_first_weights_alone():
    plain, scaled = make_model(), make_model(dataclasses.replace(CONFIG, head_scale=0.25))
    torch.testing.assert_close(scaled.head.weight, plain.head.weight * 0.25)
    for name, p in plain.named_parameters():
        assert name == "head.weight" or torch.equal(p, scaled.get_parameter(name)), name


def test_the_baseline_is_what_an_untrained_head_of_nothing_predicts():
    config = dataclasses.replace(CONFIG, cox_skip=True)
    model, batch = make_model(config), make_batch(offset=[2.0, -1.0, 0.0, 0.5, -3.0, 1.0])
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    batch.baseline_BK = torch.linspace(-2, 1, 6 * CONFIG.num_time_bins).reshape(6, -1).to(batch.offset_B)
    expected = torch.sigmoid(batch.baseline_BK + batch.offset_B[:, None])
    torch.testing.assert_close(model(batch).hazards_BK, expected.to(model(batch).hazards_BK))


def test_offset_moves_with_the_batch():
    batch = make_batch(offset=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert torch.equal(batch.to(torch.device("cpu")).offset_B, batch.offset_B)
    assert make_batch().to(torch.device("cpu")).offset_B is None


def test_stand_ins_are_those_of_the_absent_and_there_for_the_others_too():
    model, batch = make_model(), make_batch()
    stand_ins, features = model.stand_ins(batch), model(batch).modality_features
    for name, present in batch.present.items():
        assert stand_ins[name].shape == (6, 8)
        torch.testing.assert_close(stand_ins[name][~present], features[name][~present])
        assert not torch.isclose(stand_ins[name][present], features[name][present]).all(1).any()


def test_dropped_modalities_are_what_select_would_make_without_them():
    batch = make_batch()
    for seed in range(20):
        found = drop_modalities(batch, 0.6, torch.Generator().manual_seed(seed))
        assert all((found.present[name] <= batch.present[name]).all() for name in batch.present)
        bags = dict(zip(batch.bag_case_S.tolist(), batch.patches_Pd.split(batch.cu_seqlens.diff().tolist()), strict=True))
        kept = [case for case in bags if found.present["slide"][case]]
        assert found.bag_case_S.tolist() == kept
        assert torch.equal(found.patches_Pd, torch.cat([batch.patches_Pd[:0], *(bags[case] for case in kept)]))
        assert found.cu_seqlens.tolist() == [0, *torch.tensor([len(bags[case]) for case in kept]).cumsum(0).tolist()]
        assert found.cu_seqlens.dtype == torch.int32
        for name, x in batch.vectors.items():
            for case in range(6):
                assert torch.equal(found.vectors[name][case], x[case] * found.present[name][case])
        had, has = (sum(b.present.values()) for b in (batch, found))
        assert torch.equal(had > 0, has > 0)
        assert torch.isfinite(make_model()(found).logits_BK).all()


def test_modalities_are_dropped_as_often_as_asked():
    cases = 20_000
    present = {name: torch.ones(cases, dtype=torch.bool) for name in ("rna", "report")}
    present["report"][0] = present["rna"][1] = False
    whole = dataclasses.replace(
        make_batch({}),
        present=present,
        vectors={name: torch.ones(cases, 2) for name in present},
    )
    found = drop_modalities(whole, 0.3, torch.Generator().manual_seed(0)).present
    # one is gone if it is drawn (0.3) less half the time that both are, when one of them stays
    for name in present:
        assert (~found[name][2:]).float().mean().item() == pytest.approx(0.3 - 0.09 / 2, abs=0.01)
    assert found["rna"][0]
    assert found["report"][1]
    one = drop_modalities(whole, 1.0, torch.Generator().manual_seed(0)).present
    assert torch.equal(one["rna"].int() + one["report"].int(), torch.ones(cases, dtype=torch.int32))
    assert 0.45 < one["rna"].float().mean() < 0.55
    none = drop_modalities(whole, 0.0).present
    assert all(torch.equal(none[name], present[name]) for name in present)
    with pytest.raises(ValueError, match=r"probability: 1\.5"):
        drop_modalities(whole, 1.5)
