"""The mixture: a router per cancer type and the expert groups it steers, all three or those of `config.groups`.

Belongs here: who owns which parameters, what the router decides, how the groups combine. Does not belong: the
arithmetic of an expert (kernels/expert_dispatch.py), the encoders, the fusion (model.py).

Everything that belongs to one cancer type is a separate parameter, never a slice of a stacked one: AdamW decays an
unused slice and moves it by its momentum, while a separate unused parameter has no gradient and is skipped (shared
design model.md, section 5).

Shape legend: B cases, T tokens, W width, E overlapping experts (0 without that group), C cancer types, H router width,
G expert groups.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.backend import Backend
from kernels.expert_dispatch import expert_dispatch, expert_dispatch_assigned, expert_forward
from kernels.expert_layers import ExpertParams
from mice_model.blocks import BlockKind, ClsTransformer, at_least_float32, block_activation, block_linear
from mice_model.config import EXPERT_GROUPS, ExpertConfig, ModelConfig


class CancerVectors(nn.Module):
    """One learned vector per cancer type, each a parameter of its own: int64 (B,) -> (B, W)."""

    def __init__(self, start_CW: Tensor) -> None:
        super().__init__()
        self.vectors = nn.ParameterList(nn.Parameter(row.clone()) for row in start_CW)

    def forward(self, cancer_type_B: Tensor) -> Tensor:
        """Return the vector of every case's cancer type; only the types present take part in the graph."""
        present_C, row_B = torch.unique(cancer_type_B, return_inverse=True)
        return torch.stack([self.vectors[c] for c in present_C.tolist()]).index_select(0, row_B)


def num_tokens(config: ModelConfig) -> int:
    """Return T, how many tokens an expert sees besides its CLS: the cancer type's, the modalities' and those of pairs."""
    num = len(config.modalities)
    return 1 + num + (math.comb(num, 2) if config.experts.interaction == "pairwise" else 0)


class CancerRouter(nn.Module):
    """The router parameters of one cancer type; `Router` computes."""

    def __init__(self, width: int, tokens: int, router_dim: int, num_decided: int, block: BlockKind) -> None:
        super().__init__()
        self.cls_linear = block_linear(block, width, router_dim)
        self.token_linear = block_linear(block, tokens * width, router_dim)
        self.head = nn.Linear(2 * router_dim, num_decided)


@dataclass(frozen=True)
class Routing:
    """What the router decided: dense weights (B, E), zero outside a case's top k, and the specialised gate (B,).

    Of a group that is left out there is nothing: weights (B, 0), gate None.
    """

    weights: Tensor
    gate: Tensor | None


class Router(nn.Module):
    """Per cancer type: block(CLS) and block(all tokens, side by side) -> Linear -> E means, E noise scales, 1 gate.

    p = softmax(mean + noise * scale) with standard normal noise in training and none in evaluation; the top k of p
    keep their values, not renormalised, and the rest are zero (the LayerNorm after the overlapping sum takes a common
    factor out anyway). The scale is used as it comes: the noise is symmetric, so its sign does not matter. The
    gate is the bare scalar. Without the overlapping group there are no means and scales, without the specialised no
    gate, without both no router at all.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, tokens = config.experts, num_tokens(config)
        self.num_experts = len(experts.overlapping_ranks) if "overlapping" in experts.groups else 0
        self.top_k, self.has_gate = experts.top_k, "specialised" in experts.groups
        if self.num_experts and not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"experts.top_k: {self.top_k}, expected 1 to {self.num_experts}, the overlapping experts")
        decided = 2 * self.num_experts + self.has_gate
        self.cancers = nn.ModuleList(
            CancerRouter(config.width, tokens, experts.router_dim, decided, config.block)
            for _ in (config.cancer_types if decided else ())
        )
        self.activation = block_activation(config.block, config.dropout)

    def forward(self, cls_BW: Tensor, tokens_BTW: Tensor, cancer_type_B: Tensor) -> Routing:
        """Return the routing of every case by the router of its cancer type."""
        if not len(self.cancers):
            return Routing(at_least_float32(cls_BW).new_zeros(len(cls_BW), 0), None)
        cancer_sorted_B, case_B = torch.sort(cancer_type_B, stable=True)
        counts = torch.bincount(cancer_sorted_B, minlength=len(self.cancers)).tolist()
        present = [(c, n) for c, n in zip(self.cancers, counts, strict=True) if n and isinstance(c, CancerRouter)]
        sizes = [n for _, n in present]
        cls_of = cls_BW.index_select(0, case_B).split(sizes)
        tokens_of = tokens_BTW.flatten(1).index_select(0, case_B).split(sizes)
        # Only the products with a cancer type's own weights loop, over the types present; the rest is one operation.
        cls_BH = torch.cat([c.cls_linear(x) for (c, _), x in zip(present, cls_of, strict=True)])
        token_BH = torch.cat([c.token_linear(x) for (c, _), x in zip(present, tokens_of, strict=True)])
        hidden_of = torch.cat((self.activation(cls_BH), self.activation(token_BH)), dim=1).split(sizes)
        decided = torch.cat([c.head(x) for (c, _), x in zip(present, hidden_of, strict=True)])
        decided = at_least_float32(decided.index_select(0, torch.argsort(case_B)))
        mean_BE, scale_BE, gate_B1 = decided.split((self.num_experts, self.num_experts, int(self.has_gate)), dim=1)
        gate_B = gate_B1.squeeze(1) if self.has_gate else None
        if not self.num_experts:
            return Routing(mean_BE, gate_B)
        if self.training:
            mean_BE = mean_BE + torch.randn_like(mean_BE) * scale_BE
        p_BE = torch.softmax(mean_BE, dim=1)
        top_BE = torch.zeros_like(p_BE).scatter(1, p_BE.topk(self.top_k, dim=1).indices, 1.0)
        return Routing(p_BE * top_BE, gate_B)


class PerCancerLayerNorm(nn.Module):
    """(B, W) -> (B, W): LayerNorm whose weight and bias are those of the case's cancer type."""

    def __init__(self, width: int, num_cancers: int) -> None:
        super().__init__()
        self.weight = CancerVectors(torch.ones(num_cancers, width))
        self.bias = CancerVectors(torch.zeros(num_cancers, width))

    def forward(self, x_BW: Tensor, cancer_type_B: Tensor) -> Tensor:
        """Return the normalised rows, scaled and shifted by cancer type."""
        return F.layer_norm(x_BW, x_BW.shape[1:]) * self.weight(cancer_type_B) + self.bias(cancer_type_B)


class ExpertGroups(nn.Module):
    """Tokens (B, T, W) and routing -> the outputs of the G groups that there are, (B, G, W)."""

    def __init__(self, width: int, num_cancers: int, config: ExpertConfig, backend: Backend = "auto") -> None:
        super().__init__()
        groups = config.groups
        if not groups or len(set(groups)) < len(groups) or not set(groups) <= set(EXPERT_GROUPS):
            raise ValueError(f"experts.groups: {groups}, expected at least one of {EXPERT_GROUPS}, each once")
        self.num_heads, self.backend = config.num_heads, backend

        def expert(rank: int) -> ClsTransformer:
            return ClsTransformer(width, config.depth, config.num_heads, rank, rank)

        if "consensual" in groups:
            self.consensual = expert(config.consensual_rank)
        if "specialised" in groups:
            self.specialised = nn.ModuleList(expert(config.specialised_rank) for _ in range(num_cancers))
        if "overlapping" in groups:
            self.overlapping = nn.ModuleList(expert(rank) for rank in config.overlapping_ranks)
            self.overlapping_norm = PerCancerLayerNorm(width, num_cancers)
        self.groups = tuple(group for group in EXPERT_GROUPS if group in groups)

    def forward(self, tokens_BTW: Tensor, cancer_type_B: Tensor, routing: Routing) -> Tensor:
        """Return (B, G, W) in the order consensual, specialised, overlapping."""
        heads, backend, outputs = self.num_heads, self.backend, []
        if "consensual" in self.groups:
            outputs.append(expert_forward(tokens_BTW, self.consensual.packaged(), heads, backend=backend))
        if routing.gate is not None:
            own = _packaged(self.specialised)
            outputs.append(expert_dispatch_assigned(tokens_BTW, own, cancer_type_B, routing.gate, heads, backend=backend))
        if "overlapping" in self.groups:
            mixed_BW = expert_dispatch(tokens_BTW, _packaged(self.overlapping), routing.weights, heads, backend=backend)
            outputs.append(self.overlapping_norm(mixed_BW, cancer_type_B))
        return torch.stack(outputs, dim=1)


def _packaged(experts: nn.ModuleList) -> list[ExpertParams]:
    return [expert.packaged() for expert in experts if isinstance(expert, ClsTransformer)]
