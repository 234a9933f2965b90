"""Packed depthwise causal convolution, the short one before Mamba's scan: a token sees itself and the few before it.

Belongs here: the convolution, its optional SiLU, its oracle, and the check of `cu_seqlens` that both packed kernels
use. Does not belong: the projections around it (mice_model/mamba.py).

Shape legend: P packed tokens of all sequences, D channels, K taps, S sequences.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x_PD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None,
    *,
    cu_seqlens: Tensor | None = None,
    activation: Literal["silu"] | None = None,
) -> Tensor:
    """Return (P, D): out_t = bias + sum_k weight[:, k] * x_{t - (K - 1) + k}, zero before the first of the sequence.

    `cu_seqlens` (S + 1,) integer, from 0 to P, never decreasing; None is one sequence.
    """
    bounds = _check(x_PD, weight_DK, bias_D, cu_seqlens, activation)
    P, K = x_PD.shape[0], weight_DK.shape[1]
    lengths = [end - start for start, end in pairwise(bounds) if end > start]
    # K - 1 zero rows before every sequence: then each tap is one slice, and no tap reaches into the sequence before.
    if len(lengths) > 1:
        first_S = torch.arange(len(lengths)) * (K - 1)
        rows_P = (torch.arange(P) + first_S.repeat_interleave(torch.tensor(lengths))).to(x_PD.device)
        padded = x_PD.new_zeros(P + len(lengths) * (K - 1), x_PD.shape[1]).index_copy(0, rows_P + K - 1, x_PD)
    else:
        padded = F.pad(x_PD, (0, 0, K - 1, 0))
    num_rows = padded.shape[0] - (K - 1)
    out = padded[K - 1 :] * weight_DK[:, K - 1]
    if bias_D is not None:
        out = out + bias_D
    for k in range(K - 1):
        out = torch.addcmul(out, padded[k : k + num_rows], weight_DK[:, k])
    if len(lengths) > 1:
        out = out.index_select(0, rows_P)
    return F.silu(out) if activation == "silu" else out


def causal_conv1d_reference(
    x_PD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None,
    *,
    cu_seqlens: Tensor | None = None,
    activation: Literal["silu"] | None = None,
) -> Tensor:
    """Return what `causal_conv1d` returns, by the literal loop over sequences, tokens and taps: the oracle."""
    bounds = _check(x_PD, weight_DK, bias_D, cu_seqlens, activation)
    K, rows = weight_DK.shape[1], []
    for start, end in pairwise(bounds):
        for t in range(start, end):
            out = torch.zeros_like(x_PD[t]) if bias_D is None else bias_D
            for k in range(K):
                source = t - (K - 1) + k
                if source >= start:
                    out = out + weight_DK[:, k] * x_PD[source]
            rows.append(F.silu(out) if activation == "silu" else out)
    return torch.stack(rows) if rows else torch.zeros_like(x_PD)


def check_cu_seqlens(cu_seqlens: Tensor, num_tokens: int) -> list[int]:
    """Return the boundaries; ValueError unless they are (S + 1,) integers from 0 to `num_tokens`, never decreasing."""
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() == 0 or cu_seqlens.dtype not in {torch.int32, torch.int64}:
        raise ValueError(f"cu_seqlens: {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}, expected int32 or int64 of shape (S + 1,)")
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise ValueError(f"cu_seqlens: starts at {bounds[0]}, expected 0")
    if bounds[-1] != num_tokens:
        raise ValueError(f"cu_seqlens: ends at {bounds[-1]}, expected the number of tokens, {num_tokens}")
    for s, (start, end) in enumerate(pairwise(bounds)):
        if end < start:
            raise ValueError(f"cu_seqlens: decreases from {start} to {end} at sequence {s}, expected never decreasing")
    return bounds


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, activation: str | None) -> list[int]:
    """Return the boundaries of the sequences; ValueError on the first argument that does not fit."""
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x_PD: {x.dtype} {tuple(x.shape)}, expected a floating tensor of shape (P, D)")
    if weight.dim() != 2 or weight.shape[0] != x.shape[1] or weight.shape[1] == 0:
        raise ValueError(f"weight_DK: shape {tuple(weight.shape)}, expected ({x.shape[1]}, K) with K >= 1 to fit x_PD")
    if bias is not None and bias.shape != (x.shape[1],):
        raise ValueError(f"bias_D: shape {tuple(bias.shape)}, expected {(x.shape[1],)} to fit x_PD")
    for name, tensor in {"weight_DK": weight, "bias_D": bias}.items():
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device != x.device):
            raise ValueError(f"{name}: {tensor.dtype} on {tensor.device}, expected {x.dtype} on {x.device} to fit x_PD")
    if activation not in {None, "silu"}:
        raise ValueError(f"activation: {activation!r}, expected 'silu' or None")
    return [0, x.shape[0]] if cu_seqlens is None else check_cu_seqlens(cu_seqlens, x.shape[0])
