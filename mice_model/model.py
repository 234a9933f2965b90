"""MICE itself, read top to bottom: features, stand-ins, tokens, pre-encoder, router, experts, fusion, survival.

Belongs here: how the parts are put together. Does not belong: the parts (encoders.py, experts.py), losses, training.

Shape legend: B cases, P patches, S bags, M modalities, T = 1 + M tokens, W width, E overlapping experts, K time bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.expert_dispatch import expert_forward
from mice_model.batch import Batch
from mice_model.blocks import ClsTransformer, FeedForwardBlock, Transformer, at_least_float32
from mice_model.config import ModalityConfig, ModelConfig
from mice_model.encoders import MissingModality, SlideEncoder, VectorEncoder
from mice_model.experts import CancerVectors, ExpertGroups, Router


@dataclass
class MiceOutput:
    """What one forward pass found for B cases.

    hazards = sigmoid(logits); survival_k = prod_{j <= k} (1 - hazard_j); risk = -sum_k survival_k, higher is worse.
    modality_features: name -> (B, W); rows of cases without the modality are stand-ins, to be masked by
    `batch.present`. routing_BE: overlapping-expert weights, zero outside the top k. attention_P: patch weights, None
    without patches.
    """

    logits_BK: Tensor
    hazards_BK: Tensor
    survival_BK: Tensor
    risk_score_B: Tensor
    modality_features: dict[str, Tensor]
    routing_BE: Tensor
    attention_P: Tensor | None


class MICE(nn.Module):
    """Multimodal mixture of experts for survival (arXiv 2509.12600, section 4), as `config` sizes it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        names = [m.name for m in config.modalities]
        num_bags = sum(m.kind == "bag" for m in config.modalities)
        if not names or len(set(names)) < len(names) or num_bags > 1:
            raise ValueError(f"modalities: {names}, expected at least one, distinct names and at most one of kind 'bag'")
        if not config.cancer_types:
            raise ValueError("cancer_types: none, expected at least one")
        self.config = config
        width, num_cancers, experts = config.width, len(config.cancer_types), config.experts
        self.cancer_embedding = CancerVectors(torch.randn(num_cancers, width))
        self.cancer_block = FeedForwardBlock(config.block, width, width, config.dropout)
        self.encoders = nn.ModuleDict({m.name: _encoder(m, config) for m in config.modalities})
        self.missing = nn.ModuleDict({name: MissingModality(width, config.block, config.dropout) for name in names})
        self.pre_cls = nn.Parameter(torch.randn(width))
        self.pre_encoder = Transformer(
            width, experts.depth, experts.num_heads, experts.pre_encoder_dim_head, experts.pre_encoder_mlp_dim
        )
        self.router = Router(config)
        self.experts = ExpertGroups(width, num_cancers, experts, config.kernel_backend)
        self.fusion = ClsTransformer(width, experts.depth, experts.num_heads, experts.fusion_dim_head, experts.fusion_mlp_dim)
        self.head = nn.Linear(width, config.num_time_bins)

    def forward(self, batch: Batch) -> MiceOutput:
        """Return hazards, survival and risk of every case, and what the losses and reports need besides."""
        unknown = (batch.cancer_type_B < 0) | (batch.cancer_type_B >= len(self.config.cancer_types))
        if unknown.any():
            raise ValueError(
                f"cancer_type_B: {batch.cancer_type_B[unknown].tolist()[:5]}, expected 0 to "
                f"{len(self.config.cancer_types) - 1}, positions in config.cancer_types"
            )
        cancer_BW = self.cancer_embedding(batch.cancer_type_B)
        features, attention_P = self.modality_features(batch, cancer_BW)
        tokens_BTW = torch.stack((self.cancer_block(cancer_BW), *features.values()), dim=1)

        cls_B1W = self.pre_cls.expand(len(batch), 1, -1)
        shared_BTW = self.pre_encoder(torch.cat((cls_B1W, tokens_BTW), dim=1))
        cls_BW, tokens_BTW = shared_BTW[:, 0], shared_BTW[:, 1:]
        routing = self.router(cls_BW, tokens_BTW, batch.cancer_type_B)
        groups_B3W = self.experts(tokens_BTW, batch.cancer_type_B, routing)
        fused_BW = expert_forward(
            groups_B3W, self.fusion.packaged(), self.config.experts.num_heads, backend=self.config.kernel_backend
        )

        logits_BK = at_least_float32(self.head(fused_BW))
        hazards_BK = torch.sigmoid(logits_BK)
        survival_BK = torch.cumprod(1 - hazards_BK, dim=1)
        return MiceOutput(
            logits_BK=logits_BK,
            hazards_BK=hazards_BK,
            survival_BK=survival_BK,
            risk_score_B=-survival_BK.sum(dim=1),
            modality_features=features,
            routing_BE=routing.weights,
            attention_P=attention_P,
        )

    def modality_features(self, batch: Batch, cancer_BW: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return name -> (B, W), real where present and synthesised where not, and the patches' attention weights (P,).

        Encoders see only the cases that have the modality, stand-ins are computed only for the others: what a batch
        does not use gets no gradient, and an encoder never sees a row of zeros.
        """
        features: dict[str, Tensor] = {}
        attention_P = None
        for modality in self.config.modalities:
            encoder, missing = self.encoders[modality.name], self.missing[modality.name]
            present_B = batch.present[modality.name]
            real_rows, absent_rows = present_B.nonzero().squeeze(1), (~present_B).nonzero().squeeze(1)
            parts, rows = [], []
            if real_rows.numel() and modality.kind == "bag":
                if not torch.equal(real_rows, batch.bag_case_S):
                    raise ValueError(
                        f"batch.present[{modality.name!r}]: cases {real_rows.tolist()}, expected those of bag_case_S, "
                        f"{batch.bag_case_S.tolist()}"
                    )
                bags_SW, attention_P = encoder(batch.patches_Pd, batch.cu_seqlens)
                parts, rows = [bags_SW], [real_rows]
            elif real_rows.numel():
                parts, rows = [encoder(batch.vectors[modality.name].index_select(0, real_rows))], [real_rows]
            if absent_rows.numel():
                parts.append(missing(cancer_BW.index_select(0, absent_rows)))
                rows.append(absent_rows)
            features[modality.name] = torch.cat(parts).index_select(0, torch.argsort(torch.cat(rows)))
        return features, attention_P


def _encoder(modality: ModalityConfig, config: ModelConfig) -> nn.Module:
    if modality.kind == "bag":
        return SlideEncoder(modality, config.width, config.scan, config.block, config.dropout, config.kernel_backend)
    if modality.kind == "vector":
        return VectorEncoder(modality, config.width, config.block, config.dropout)
    raise ValueError(f"modality {modality.name}: kind {modality.kind!r}, expected 'bag' or 'vector'")
