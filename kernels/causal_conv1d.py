"""Packed depthwise causal convolution, the short one before Mamba's scan: a token sees itself and the few before it.

Belongs here: the convolution with its optional SiLU, in plain PyTorch, its oracle, its registration as an operator. Does not
belong: the Triton version (causal_conv1d_triton.py), the projections around it (mice_model/mamba.py).

Shape legend: P packed tokens of all sequences, D channels, K taps, S sequences.
"""

from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.backend import Backend, choose
from kernels.packing import KernelInputError, check_cu_seqlens, check_tensor


def causal_conv1d(
    x_PD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None,
    *,
    cu_seqlens: Tensor | None = None,
    activation: Literal["silu"] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Return (P, D): out_t = bias + sum_k weight[:, k] * x_{t - (K - 1) + k}, zero before the first of the sequence.

    `cu_seqlens` (S + 1,) integer, from 0 to P, never decreasing; None is one sequence. Differentiable once. KernelInputError
    names an argument that does not fit, KernelBackendError a backend that cannot be had.
    """
    if activation not in {None, "silu"}:
        raise KernelInputError(f"activation: {activation!r}, expected 'silu' or None. Apply others afterwards.")
    y: Tensor = torch.ops.mice.causal_conv1d(x_PD, weight_DK, bias_D, cu_seqlens, activation == "silu", backend)
    return y


def causal_conv1d_reference(
    x_PD: Tensor,
    weight_DK: Tensor,
    bias_D: Tensor | None,
    *,
    cu_seqlens: Tensor | None = None,
    activation: Literal["silu"] | None = None,
) -> Tensor:
    """Return what `causal_conv1d` returns, by the literal loop over sequences, tokens and taps: the oracle."""
    bounds = _check(x_PD, weight_DK, bias_D, cu_seqlens)
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


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None) -> list[int]:
    """Return the boundaries of the sequences; KernelInputError on the first argument that does not fit."""
    if x.dim() != 2 or not x.is_floating_point():
        found = f"{x.dtype} {tuple(x.shape)}"
        raise KernelInputError(f"x_PD: {found}, expected a floating tensor of shape (P, D). Pack the tokens of all sequences.")
    D = x.shape[1]
    if weight.dim() != 2 or weight.shape[0] != D or weight.shape[1] == 0:
        raise KernelInputError(
            f"weight_DK: shape {tuple(weight.shape)}, expected ({D}, K) with K >= 1. Squeeze a Conv1d's weight."
        )
    check_tensor("weight_DK", weight, tuple(weight.shape), {x.dtype}, x)
    if bias is not None:
        check_tensor("bias_D", bias, (D,), {x.dtype}, x)
    return check_cu_seqlens(cu_seqlens, x.shape[0])


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, bounds: list[int]) -> Tensor:
    """Return the convolution before its activation. Each tap is one slice of each sequence, so none reaches across a bound."""
    K = weight.shape[1]
    out = x * weight[:, K - 1]
    if bias is not None:
        out += bias
    for start, end in pairwise(bounds):
        for back in range(1, min(K, end - start)):
            out[start + back : end].addcmul_(x[start : end - back], weight[:, K - 1 - back])
    return out


@torch.library.custom_op("mice::causal_conv1d", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool, backend: str) -> Tensor:
    bounds = _check(x, weight, bias, cu_seqlens)
    if choose("causal_conv1d", backend, x) == "triton":
        from kernels.causal_conv1d_triton import triton_conv_forward  # noqa: PLC0415

        return triton_conv_forward(x, weight, bias, silu, bounds)
    out = _conv(x, weight, bias, bounds)
    return (F.silu(out, inplace=True) if silu else out).contiguous()


@torch.library.custom_op("mice::causal_conv1d_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, silu: bool, backend: str
) -> list[Tensor]:
    """Return the gradients of x, weight and, where there is one, bias."""
    bounds = check_cu_seqlens(cu_seqlens, x.shape[0])
    if choose("causal_conv1d", backend, x) == "triton":
        from kernels.causal_conv1d_triton import triton_conv_backward  # noqa: PLC0415

        return triton_conv_backward(dy, x, weight, bias, silu, bounds)
    if silu:
        dy = torch.ops.aten.silu_backward(dy, _conv(x, weight, bias, bounds))
    K = weight.shape[1]
    dx = (dy * weight[:, K - 1]).contiguous()
    dweight = weight.new_zeros(weight.shape)
    dweight[:, K - 1] = (dy * x).sum(0)
    for start, end in pairwise(bounds):
        for back in range(1, min(K, end - start)):
            dx[start : end - back].addcmul_(dy[start + back : end], weight[:, K - 1 - back])
            dweight[:, K - 1 - back] += (dy[start + back : end] * x[start : end - back]).sum(0)
    return [dx, dweight] if bias is None else [dx, dweight, dy.sum(0)]


@_forward.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@_backward.register_fake
def _(dy: Tensor, *rest: Any) -> list[Tensor]:  # noqa: ARG001
    return [t.new_empty(t.shape) for t in rest[:3] if t is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:4])
    ctx.silu, ctx.backend = inputs[4:]


def _grad(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, *dbias = torch.ops.mice.causal_conv1d_backward(dy, *ctx.saved_tensors, ctx.silu, ctx.backend)
    return dx, dweight, (dbias[0] if dbias else None), None, None, None


_forward.register_autograd(_grad, setup_context=_setup_context)


def _under_autocast(device_type: str) -> Any:
    """Return the operator's autocast rule: everything takes autocast's dtype, as a convolution of torch does."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        dtype = x.dtype if x.dtype == torch.float64 else torch.get_autocast_dtype(device_type)
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(device_type, enabled=False):
            y: Tensor = torch.ops.mice.causal_conv1d(x.to(dtype), weight.to(dtype), bias, *rest)
        return y

    return run


_library = torch.library.Library("mice", "FRAGMENT")
_library.impl("causal_conv1d", _under_autocast("cpu"), "AutocastCPU")
_library.impl("causal_conv1d", _under_autocast("cuda"), "AutocastCUDA")
