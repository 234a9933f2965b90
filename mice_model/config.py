"""What a MICE network is made of: frozen and typed. No training or data settings here (see study.py).

Defaults are the paper's numbers (arXiv 2509.12600 and shared design model.md, section 1) unless the comment says otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from kernels.backend import Backend

ExpertGroup = Literal["consensual", "specialised", "overlapping"]
EXPERT_GROUPS: tuple[ExpertGroup, ...] = get_args(ExpertGroup)


@dataclass(frozen=True)
class ModalityConfig:
    """One input modality.

    kind `bag`: a packed variable number of patch embeddings per case; kind `vector`: one vector per case.
    `input_dim` is the width after the fitted preprocessing; `hidden` are the hidden widths of its MLP before `width`.
    """

    name: str
    kind: Literal["bag", "vector"]
    input_dim: int
    hidden: tuple[int, ...] = (512,)


@dataclass(frozen=True)
class ScanConfig:
    """The slide encoder's Mamba-1 block (MambaMIL): sizes as in the Mamba paper's notation.

    `reordered` makes it MambaMIL's SR-Mamba: a second branch over each bag re-ordered with stride `rate`.
    """

    state_dim: int = 16
    conv_width: int = 4
    expand: int = 2
    pool: Literal["post_mamba", "pre_mamba"] = "post_mamba"  # the released code pools pre_mamba
    attention_dim: int = 64
    reordered: bool = False
    rate: int = 10  # MambaMIL's own; unused unless reordered


@dataclass(frozen=True)
class ExpertConfig:
    """The three expert groups and the router (paper section 4; ranks and k from the released defaults).

    `groups`: those that exist at all; one that is left out has no parameters and is not computed.
    `interaction`: `pairwise` adds a token per pair of modalities (encoders.PairTokens), a question the paper leaves open.
    """

    consensual_rank: int = 64
    specialised_rank: int = 64
    overlapping_ranks: tuple[int, ...] = tuple(range(8, 121, 8))
    top_k: int = 9
    num_heads: int = 4
    depth: int = 2
    router_dim: int = 64
    pre_encoder_dim_head: int = 128
    pre_encoder_mlp_dim: int = 128
    fusion_dim_head: int = 64
    fusion_mlp_dim: int = 64
    groups: tuple[ExpertGroup, ...] = EXPERT_GROUPS
    interaction: Literal["none", "pairwise"] = "none"


@dataclass(frozen=True)
class ModelConfig:
    """A whole MICE network.

    `cox_skip`: the logits start from Batch.offset_B, the log risk of a Cox model fitted beforehand (proportional odds).
    `head_scale` multiplies the head's first weights: below 1, a network with a skip starts near the skip.
    """

    cancer_types: tuple[str, ...]
    modalities: tuple[ModalityConfig, ...]
    width: int = 256
    num_time_bins: int = 5
    block: Literal["snn", "mlp"] = "snn"
    dropout: float = 0.2
    scan: ScanConfig = field(default_factory=ScanConfig)
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    kernel_backend: Backend = "auto"
    cox_skip: bool = False
    head_scale: float = 1.0
