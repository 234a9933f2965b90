"""The network against a slow literal restatement, one case at a time; missing modalities, batches, gradients, sizes.

The restatement reads parameters by their state-dict names and shares no code with the model but the kernels' oracles,
which test_kernels.py checks.
"""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from kernels.causal_conv1d import causal_conv1d_reference
from kernels.selective_scan import selective_scan_reference
from mice_model.batch import Batch
from mice_model.blocks import FeedForwardBlock, Transformer, mlp
from mice_model.config import ExpertConfig, ModalityConfig, ModelConfig, ScanConfig
from mice_model.encoders import segment_softmax
from mice_model.experts import Router
from mice_model.losses import total_loss
from mice_model.mamba import MambaBlock
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


def make_batch(bags=None, present=None, seed=1):
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
        weight, bias = self.p[f"{name}.conv.weight"][:, 0], self.p[f"{name}.conv.bias"]
        u = causal_conv1d_reference(u, weight, bias, activation="silu")
        rank, N = self.p[f"{name}.dt_proj.weight"].shape[1], self.p[f"{name}.A_log"].shape[1]
        dt, B, C = self.linear(f"{name}.x_proj", u).split((rank, N, N), dim=1)
        delta = F.softplus(self.linear(f"{name}.dt_proj", dt))
        A, D = -torch.exp(self.p[f"{name}.A_log"]), self.p[f"{name}.D"]
        y = selective_scan_reference(u, delta, A, B, C, D_D=D, delta_softplus=False) * (z * torch.sigmoid(z))
        return self.linear(f"{name}.out_proj", y)

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
        E = len(EXPERTS.overlapping_ranks)
        p = torch.exp(decided[:E]) / torch.exp(decided[:E]).sum()
        kept = sorted(range(E), key=lambda e: -p[e].item())[: EXPERTS.top_k]
        return {e: p[e] for e in kept}, decided[2 * E]

    def case(self, batch, b):
        c = int(batch.cancer_type_B[b])
        cancer = self.p[f"cancer_embedding.vectors.{c}"]
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
        tokens = torch.stack([self.block("cancer_block", cancer), *features.values()])
        shared = self.transformer("pre_encoder", torch.cat((self.p["pre_cls"][None], tokens)))
        weights, gate = self.route(c, shared[0], shared[1:])
        consensual = self.cls_of("experts.consensual", shared[1:])
        specialised = gate * self.cls_of(f"experts.specialised.{c}", shared[1:])
        mixed = sum(w * self.cls_of(f"experts.overlapping.{e}", shared[1:]) for e, w in weights.items())
        norm = "experts.overlapping_norm"
        overlapping = self.norm(mixed, self.p[f"{norm}.weight.vectors.{c}"], self.p[f"{norm}.bias.vectors.{c}"])
        fused = self.cls_of("fusion", torch.stack((consensual, specialised, overlapping)))
        logits = self.linear("head", fused)
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


VARIANTS = {
    "snn, post": CONFIG,
    "mlp, pre": dataclasses.replace(CONFIG, block="mlp", scan=dataclasses.replace(CONFIG.scan, pool="pre_mamba")),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_against_the_literal_restatement(variant):
    model, batch = make_model(VARIANTS[variant]), make_batch()
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
