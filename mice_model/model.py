"""MICE itself, read top to bottom: features, stand-ins, tokens, pre-encoder, router, experts, fusion, survival.

Belongs here: how the parts are put together. Does not belong: the parts (encoders.py, experts.py), losses, training.

Shape legend: B cases, P patches, S bags, M modalities, T tokens (the cancer type's, M of modalities and, if
asked, those of their pairs), W width, G expert groups, E overlapping experts, K time bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.expert_dispatch import expert_forward
from mice_model.batch import Batch
from mice_model.blocks import ClsTransformer, FeedForwardBlock, Transformer, at_least_float32
from mice_model.config import ModelConfig
from mice_model.encoders import MissingModality, PairTokens, build_encoder, encode_present, in_case_order
from mice_model.experts import CancerVectors, ExpertGroups, Router


@dataclass
class MiceOutput:
    """What one forward pass found for B cases.

    logits are those of the hazards; survival_k = prod_{j <= k} (1 - hazard_j); risk = -sum_k survival_k, higher is worse.
    modality_features: name -> (B, W); rows of cases without the modality are stand-ins, to be masked by
    `batch.present`. routing_BE: weights of the overlapping experts, zero outside the top k, (B, 0) without such experts.
    attention_P: patch weights, None without patches.
    """

    logits_BK: Tensor
    hazards_BK: Tensor
    survival_BK: Tensor
    risk_score_B: Tensor
    modality_features: dict[str, Tensor]
    routing_BE: Tensor
    attention_P: Tensor | None

    @classmethod
    def of(
        cls, logits_BK: Tensor, features: dict[str, Tensor], routing_BE: Tensor | None = None, attention_P: Tensor | None = None
    ) -> "MiceOutput":
        """Return the output whose hazards, survival and risk follow from float32 logits; no routing reads (B, 0)."""
        hazards_BK = torch.sigmoid(logits_BK)
        survival_BK = torch.cumprod(1 - hazards_BK, dim=1)
        return cls(
            logits_BK=logits_BK,
            hazards_BK=hazards_BK,
            survival_BK=survival_BK,
            risk_score_B=-survival_BK.sum(dim=1),
            modality_features=features,
            routing_BE=logits_BK.new_zeros(len(logits_BK), 0) if routing_BE is None else routing_BE,
            attention_P=attention_P,
        )


def check_config(config: ModelConfig) -> None:
    """Raise ValueError unless the modalities and cancer types are ones that a network can be built for."""
    names = [m.name for m in config.modalities]
    num_bags = sum(m.kind == "bag" for m in config.modalities)
    if not names or len(set(names)) < len(names) or num_bags > 1:
        raise ValueError(f"modalities: {names}, expected at least one, distinct names and at most one of kind 'bag'")
    if not config.cancer_types:
        raise ValueError("cancer_types: none, expected at least one")
    if config.experts.interaction not in {"none", "pairwise"}:
        raise ValueError(f"experts.interaction: {config.experts.interaction!r}, expected 'none' or 'pairwise'")


def check_cancer_types(batch: Batch, config: ModelConfig) -> None:
    """Raise ValueError if a case's cancer type is none of the network's."""
    unknown = (batch.cancer_type_B < 0) | (batch.cancer_type_B >= len(config.cancer_types))
    if unknown.any():
        raise ValueError(
            f"cancer_type_B: {batch.cancer_type_B[unknown].tolist()[:5]}, expected 0 to "
            f"{len(config.cancer_types) - 1}, positions in config.cancer_types"
        )


def survival_head(config: ModelConfig) -> nn.Linear:
    """Return the Linear W -> K to the hazards' logits, its weights (not its biases) started at `head_scale` of the usual."""
    head = nn.Linear(config.width, config.num_time_bins)
    with torch.no_grad():
        head.weight.mul_(config.head_scale)
    return head


def with_skip(logits_BK: Tensor, batch: Batch, config: ModelConfig) -> Tensor:
    """Return the logits in float32 or better; under `cox_skip` plus the baseline's and the case's offset: proportional odds."""
    logits_BK = at_least_float32(logits_BK)
    if not config.cox_skip:
        return logits_BK
    if batch.offset_B is None:
        raise ValueError("batch.offset_B: None, expected the Cox log risk of every case (B,) since config.cox_skip is on.")
    started_BK = logits_BK + batch.offset_B.to(logits_BK.dtype)[:, None]
    return started_BK if batch.baseline_BK is None else started_BK + batch.baseline_BK.to(logits_BK.dtype)


class MICE(nn.Module):
    """Multimodal mixture of experts for survival (arXiv 2509.12600, section 4), as `config` sizes it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        width, num_cancers, experts = config.width, len(config.cancer_types), config.experts
        self.cancer_embedding = CancerVectors(torch.randn(num_cancers, width))
        self.cancer_block = FeedForwardBlock(config.block, width, width, config.dropout)
        self.encoders = nn.ModuleDict({m.name: build_encoder(m, config) for m in config.modalities})
        self.missing = nn.ModuleDict({m.name: MissingModality(width, config.block, config.dropout) for m in config.modalities})
        is_pairwise = experts.interaction == "pairwise"
        self.pair_tokens = PairTokens(len(config.modalities), width, config.block, config.dropout) if is_pairwise else None
        self.pre_cls = nn.Parameter(torch.randn(width))
        self.pre_encoder = Transformer(
            width, experts.depth, experts.num_heads, experts.pre_encoder_dim_head, experts.pre_encoder_mlp_dim
        )
        self.router = Router(config)
        self.experts = ExpertGroups(width, num_cancers, experts, config.kernel_backend)
        self.fusion = ClsTransformer(width, experts.depth, experts.num_heads, experts.fusion_dim_head, experts.fusion_mlp_dim)
        self.head = survival_head(config)

    def forward(self, batch: Batch) -> MiceOutput:
        """Return hazards, survival and risk of every case, and what the losses and reports need besides."""
        check_cancer_types(batch, self.config)
        cancer_BW = self.cancer_embedding(batch.cancer_type_B)
        features, attention_P = self.modality_features(batch, cancer_BW)
        pairs = [] if self.pair_tokens is None else self.pair_tokens(list(features.values()))
        tokens_BTW = torch.stack((self.cancer_block(cancer_BW), *features.values(), *pairs), dim=1)

        cls_B1W = self.pre_cls.expand(len(batch), 1, -1)
        shared_BTW = self.pre_encoder(torch.cat((cls_B1W, tokens_BTW), dim=1))
        cls_BW, tokens_BTW = shared_BTW[:, 0], shared_BTW[:, 1:]
        routing = self.router(cls_BW, tokens_BTW, batch.cancer_type_B)
        groups_BGW = self.experts(tokens_BTW, batch.cancer_type_B, routing)
        fused_BW = expert_forward(
            groups_BGW, self.fusion.packaged(), self.config.experts.num_heads, backend=self.config.kernel_backend
        )

        return MiceOutput.of(with_skip(self.head(fused_BW), batch, self.config), features, routing.weights, attention_P)

    def modality_features(self, batch: Batch, cancer_BW: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return name -> (B, W), real where present and synthesised where not, and the patches' attention weights (P,).

        Encoders see only the cases that have the modality, stand-ins are computed only for the others: what a batch
        does not use gets no gradient, and an encoder never sees a row of zeros.
        """
        features: dict[str, Tensor] = {}
        attention_P = None
        for modality in self.config.modalities:
            encoder, missing = self.encoders[modality.name], self.missing[modality.name]
            rows, real, weights_P = encode_present(encoder, modality, batch)
            attention_P = attention_P if weights_P is None else weights_P
            absent_rows = (~batch.present[modality.name]).nonzero().squeeze(1)
            parts, of_part = ([], []) if real is None else ([real], [rows])
            if absent_rows.numel():
                parts.append(missing(cancer_BW.index_select(0, absent_rows)))
                of_part.append(absent_rows)
            features[modality.name] = in_case_order(of_part, parts)
        return features, attention_P

    def stand_ins(self, batch: Batch) -> dict[str, Tensor]:
        """Return name -> (B, W), the synthesised feature of every case and modality, whether it has the real one or not.

        Beside `modality_features` in evaluation they show how far stand-ins are from what they stand in for (alarms.py).
        """
        cancer_BW = self.cancer_embedding(batch.cancer_type_B)
        return {name: missing(cancer_BW) for name, missing in self.missing.items()}
