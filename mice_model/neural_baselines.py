"""Networks that MICE is compared with: one modality, attention pooling, concatenation, a plain mixture of experts.

Belongs here: networks with MICE's call, `forward(batch) -> MiceOutput`, which train and predict as MICE does, and
`build_network`, which knows all of them by name. Does not belong: the encoders (encoders.py), baselines that are no
network (baselines.py), training.

All are trained pan-cancer and know the cancer type only as a learned bias per type on the logits: enough for each type's
own baseline hazard, nothing for the order of cases within a type.

Shape legend: B cases, P patches, S bags, M modalities, d input width, W width, X = M W + M, E experts, K time bins.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from mice_model.batch import Batch
from mice_model.blocks import FeedForwardBlock, at_least_float32, block_activation, block_linear
from mice_model.config import EXPERT_GROUPS, ModalityConfig, ModelConfig
from mice_model.encoders import VectorEncoder, build_encoder, encode_present, in_case_order, pooled
from mice_model.experts import CancerVectors
from mice_model.model import MICE, MiceOutput, check_cancer_types, check_config, survival_head, with_skip


class _Baseline(nn.Module):
    """A head from one feature of width W and a bias per cancer type to the hazards; Cox skip and head as in MICE."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        self.head = survival_head(config)
        self.type_bias = CancerVectors(torch.zeros(len(config.cancer_types), config.num_time_bins))

    def logits(self, x_BW: Tensor, batch: Batch) -> Tensor:
        """Return the hazards' logits (B, K)."""
        check_cancer_types(batch, self.config)
        return with_skip(at_least_float32(self.head(x_BW)) + self.type_bias(batch.cancer_type_B), batch, self.config)


class _OneModality(_Baseline):
    """One encoder and the head; a case without the modality gets a learned vector in the feature's place."""

    def __init__(self, config: ModelConfig, modality: ModalityConfig, encoder: nn.Module) -> None:
        super().__init__(config)
        self.modality, self.encoder = modality, encoder
        self.absent = nn.Parameter(torch.randn(config.width))

    def forward(self, batch: Batch) -> MiceOutput:
        """Return hazards, survival and risk of every case, the one feature, and the patches' weights if it is a bag's."""
        rows, real_RW, attention_P = encode_present(self.encoder, self.modality, batch)
        absent_rows = (~batch.present[self.modality.name]).nonzero().squeeze(1)
        parts, of_part = ([], []) if real_RW is None else ([real_RW], [rows])
        if absent_rows.numel():
            parts.append(self.absent.expand(len(absent_rows), -1))
            of_part.append(absent_rows)
        x_BW = in_case_order(of_part, parts)
        return MiceOutput.of(self.logits(x_BW, batch), {self.modality.name: x_BW}, attention_P=attention_P)


class ModalityMlp(_OneModality):
    """One vector modality through the encoder that MICE gives it."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        modality = _modality(config, "vector", name)
        super().__init__(config, modality, VectorEncoder(modality, config.width, config.block, config.dropout))


class SlideAttention(_OneModality):
    """Attention pooling of a case's patches (ABMIL, Ilse et al., arXiv 1802.04712), the gated form or the plain; no Mamba."""

    def __init__(self, config: ModelConfig, *, is_gated: bool = True) -> None:
        modality = _modality(config, "bag")
        super().__init__(config, modality, AttentionPooling(config, modality, is_gated=is_gated))


class AttentionPooling(nn.Module):
    """Packed patches -> (S, W): h = block(d -> W), a = softmax over the bag of w'(tanh(V h) * sigmoid(U h)), sum a_p h_p.

    The plain form has no sigmoid(U h). V and U are Linear(W -> scan.attention_dim).
    """

    def __init__(self, config: ModelConfig, modality: ModalityConfig, *, is_gated: bool) -> None:
        super().__init__()
        width, attention_dim = config.width, config.scan.attention_dim
        self.embed = FeedForwardBlock(config.block, modality.input_dim, width, config.dropout)
        self.content = nn.Linear(width, attention_dim)
        self.gate = nn.Linear(width, attention_dim) if is_gated else None
        self.score = nn.Linear(attention_dim, 1)

    def forward(self, patches_Pd: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (S, W) and attention weights (P,), which sum to one over every bag that has patches."""
        h_PW = self.embed(patches_Pd)
        hidden_PA = torch.tanh(self.content(h_PW))
        if self.gate is not None:
            hidden_PA = hidden_PA * torch.sigmoid(self.gate(h_PW))
        return pooled(h_PW, self.score(hidden_PA).squeeze(-1), cu_seqlens)


class _SideBySide(_Baseline):
    """All modalities' encodings (MICE's encoders) side by side, zeros where missing, and M flags of who is there: (B, X)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoders = nn.ModuleDict({m.name: build_encoder(m, config) for m in config.modalities})
        self.joint_dim = len(config.modalities) * (config.width + 1)

    def side_by_side(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Return (B, X), the features by modality, and the patches' attention weights (P,)."""
        features, attention_P = {}, None
        for modality in self.config.modalities:
            rows, real_RW, weights_P = encode_present(self.encoders[modality.name], modality, batch)
            attention_P = attention_P if weights_P is None else weights_P
            of = self.head.weight if real_RW is None else real_RW
            zeros_BW = of.new_zeros(len(batch), self.config.width)
            features[modality.name] = zeros_BW if real_RW is None else zeros_BW.index_copy(0, rows, real_RW)
        flags_BM = torch.stack([batch.present[m.name] for m in self.config.modalities], dim=1)
        joint_BX = torch.cat((*features.values(), flags_BM.to(self.head.weight.dtype)), dim=1)
        return joint_BX, features, attention_P


class Concatenation(_SideBySide):
    """Late fusion at its plainest: the encodings side by side, one block (X -> W), the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.joint = FeedForwardBlock(config.block, self.joint_dim, config.width, config.dropout)

    def forward(self, batch: Batch) -> MiceOutput:
        """Return hazards, survival and risk of every case, its features, and the patches' weights."""
        joint_BX, features, attention_P = self.side_by_side(batch)
        return MiceOutput.of(self.logits(self.joint(joint_BX), batch), features, attention_P=attention_P)


class TopKMixture(_SideBySide):
    """A plain top-k mixture over the encodings side by side: no cancer types, no noise, no load-balancing loss.

    p = softmax(Linear(X -> E)); the top k of p, renormalised to sum to one, weigh E experts, each block(X -> W),
    Linear(W -> W). E and k are those of MICE's overlapping group. Experts are stacked and all computed: E is small, and
    a batch of 64 uses nearly all. So AdamW also decays one that no case was sent to, unlike MICE's (design, section 5).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        num_experts, self.top_k = len(config.experts.overlapping_ranks), config.experts.top_k
        if not 1 <= self.top_k <= num_experts:
            raise ValueError(f"experts.top_k: {self.top_k}, expected 1 to {num_experts}, the experts of the mixture")
        first = [block_linear(config.block, self.joint_dim, config.width) for _ in range(num_experts)]
        second = [nn.Linear(config.width, config.width) for _ in range(num_experts)]
        self.router = nn.Linear(self.joint_dim, num_experts)
        self.first_weight_EXW = nn.Parameter(torch.stack([layer.weight.detach().T for layer in first]))
        self.first_bias_E1W = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in first]))
        self.activation = block_activation(config.block, config.dropout)
        self.second_weight_EWW = nn.Parameter(torch.stack([layer.weight.detach().T for layer in second]))
        self.second_bias_E1W = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in second]))

    def forward(self, batch: Batch) -> MiceOutput:
        """Return hazards, survival and risk of every case, its features, the weights of its experts (B, E)."""
        joint_BX, features, attention_P = self.side_by_side(batch)
        p_BE = torch.softmax(at_least_float32(self.router(joint_BX)), dim=1)
        top = p_BE.topk(self.top_k, dim=1)
        routing_BE = torch.zeros_like(p_BE).scatter(1, top.indices, top.values / top.values.sum(dim=1, keepdim=True))
        hidden_EBW = self.activation(joint_BX @ self.first_weight_EXW + self.first_bias_E1W)
        outputs_EBW = hidden_EBW @ self.second_weight_EWW + self.second_bias_E1W
        mixed_BW = torch.einsum("be,ebw->bw", routing_BE, outputs_EBW.to(routing_BE.dtype))
        return MiceOutput.of(self.logits(mixed_BW, batch), features, routing_BE, attention_P)


def network_kinds(config: ModelConfig) -> dict[str, Callable[[], nn.Module]]:
    """Return every network that can be built for the configuration's modalities, by name; calling one builds it.

    `experts:<group>` is MICE with that expert group alone, `mlp:<modality>` is there for each vector modality, `abmil`
    where there is a bag.
    """
    single = {group: replace(config, experts=replace(config.experts, groups=(group,))) for group in EXPERT_GROUPS}
    has_bag = any(m.kind == "bag" for m in config.modalities)
    return {
        "mice": partial(MICE, config),
        **{f"experts:{group}": partial(MICE, one) for group, one in single.items()},
        **{f"mlp:{m.name}": partial(ModalityMlp, config, m.name) for m in config.modalities if m.kind == "vector"},
        **({"abmil": partial(SlideAttention, config)} if has_bag else {}),
        "concatenation": partial(Concatenation, config),
        "top_k_moe": partial(TopKMixture, config),
    }


def build_network(kind: str, config: ModelConfig) -> nn.Module:
    """Return a new network of one of the `network_kinds`, with MICE's call."""
    kinds = network_kinds(config)
    if kind not in kinds:
        raise ValueError(f"network kind: {kind!r}, expected one of {', '.join(kinds)}. Check the modalities it needs.")
    return kinds[kind]()


def _modality(config: ModelConfig, kind: str, name: str | None = None) -> ModalityConfig:
    """Return the modality of a kind, by name if one is given."""
    found = [m for m in config.modalities if m.kind == kind and name in {None, m.name}]
    if not found:
        names = {m.name: m.kind for m in config.modalities}
        raise ValueError(f"modalities: {names}, expected one of kind {kind!r}{f' named {name!r}' if name else ''}")
    return found[0]
