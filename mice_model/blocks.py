"""The two building blocks of every part of MICE: the feed-forward block and the pre-norm transformer.

Belongs here: blocks that more than one part uses. Does not belong: encoders, experts, anything that knows a cancer
type or a modality. The transformer's arithmetic is kernels/expert_dispatch.py's; this module owns the parameters.

Shape legend: B cases, T tokens, D width, R heads x width of a head, F feed-forward width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kernels.expert_layers import ExpertLayer, ExpertParams, transformer_layer

BlockKind = Literal["snn", "mlp"]


def block_activation(block: BlockKind, dropout: float) -> nn.Sequential:
    """Return what follows the Linear: SELU, AlphaDropout (`snn`, the paper) or Dropout, ReLU (`mlp`, the release)."""
    if block == "snn":
        return nn.Sequential(nn.SELU(), nn.AlphaDropout(dropout))
    if block == "mlp":
        return nn.Sequential(nn.Dropout(dropout), nn.ReLU())
    raise ValueError(f"block: {block!r}, expected 'snn' or 'mlp'")


def block_linear(block: BlockKind, in_dim: int, out_dim: int) -> nn.Linear:
    """Return a block's Linear; `snn` starts with variance 1 / in_dim and no bias, which keeps SELU self-normalising.

    (Klambauer et al., arXiv 1706.02515, section 3.) `mlp` keeps PyTorch's own start, as the release does.
    """
    linear = nn.Linear(in_dim, out_dim)
    if block == "snn":
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        nn.init.zeros_(linear.bias)
    return linear


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32 if its dtype is lower (autocast): softmaxes, sums and probabilities need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class FeedForwardBlock(nn.Module):
    """(..., in_dim) -> (..., out_dim): Linear, SELU, AlphaDropout (`snn`) or Linear, Dropout, ReLU (`mlp`)."""

    def __init__(self, block: BlockKind, in_dim: int, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = block_linear(block, in_dim, out_dim)
        self.activation = block_activation(block, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_dim)."""
        y: Tensor = self.activation(self.linear(x))
        return y


def mlp(block: BlockKind, dims: Sequence[int], dropout: float) -> nn.Sequential:
    """Return the blocks dims[0] -> dims[1] -> ... one after the other, the last one with its activation too."""
    if len(dims) < 2:
        raise ValueError(f"dims: {tuple(dims)}, expected at least an input and an output width")
    return nn.Sequential(*(FeedForwardBlock(block, a, b, dropout) for a, b in pairwise(dims)))


class TransformerLayer(nn.Module):
    """Parameters of one pre-norm layer: attention (qkv without bias), GELU feed-forward; no dropout, no positions."""

    def __init__(self, width: int, num_heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * num_heads * dim_head, bias=False)
        self.out = nn.Linear(num_heads * dim_head, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def packaged(self) -> ExpertLayer:
        """Return the parameters as the kernel takes them."""
        return ExpertLayer(
            norm1_weight=self.norm1.weight,
            norm1_bias=self.norm1.bias,
            qkv_weight=self.qkv.weight,
            out_weight=self.out.weight,
            out_bias=self.out.bias,
            norm2_weight=self.norm2.weight,
            norm2_bias=self.norm2.bias,
            fc1_weight=self.fc1.weight,
            fc1_bias=self.fc1.bias,
            fc2_weight=self.fc2.weight,
            fc2_bias=self.fc2.bias,
        )


class Transformer(nn.Module):
    """(B, T, D) -> (B, T, D): `depth` pre-norm layers and no norm after the last (model.md names none)."""

    def __init__(self, width: int, depth: int, num_heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth: {depth}, expected at least 1")
        self.num_heads = num_heads
        self.layers = nn.ModuleList(TransformerLayer(width, num_heads, dim_head, mlp_dim) for _ in range(depth))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return every token's output (B, T, D)."""
        for layer in self.packaged_layers():
            x_BTD = transformer_layer(x_BTD, layer, self.num_heads)
        return x_BTD

    def packaged_layers(self) -> tuple[ExpertLayer, ...]:
        """Return the layers' parameters as the kernel takes them."""
        return tuple(layer.packaged() for layer in self.layers if isinstance(layer, TransformerLayer))


class ClsTransformer(nn.Module):
    """A Transformer with a CLS token of its own, read at the CLS row only: what every expert and the fusion are.

    `packaged()` is what the kernels take: kernels.expert_dispatch computes the last layer for the CLS row alone.
    """

    def __init__(self, width: int, depth: int, num_heads: int, dim_head: int, mlp_dim: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(width))
        self.transformer = Transformer(width, depth, num_heads, dim_head, mlp_dim)

    def packaged(self) -> ExpertParams:
        """Return the CLS token and the layers as the kernel takes them."""
        return ExpertParams(self.cls, self.transformer.packaged_layers())
