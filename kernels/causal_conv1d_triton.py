"""The packed causal convolution in Triton, both passes.

Belongs here: kernels and launches. Does not belong: checks and registration (causal_conv1d.py). Each token knows how many tokens
of its sequence come before it, so a tap that would reach into the sequence before is masked. Bound by memory traffic; the sums
for weights are per block of tokens and added in a fixed order: no atomics.

Shape legend: P packed tokens, D channels, K taps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.packing import KernelInputError, positions

BLOCK_T, BLOCK_D = 32, 64


@triton.jit
def _before_activation(x, weight, bias, place, t, d, mask, x_stride, D, K: tl.constexpr, HAS_BIAS: tl.constexpr, T: tl.constexpr):
    """The convolution's float32 sum for a tile of tokens and channels."""
    out = tl.zeros([T, d.shape[0]], tl.float32)
    if HAS_BIAS:
        out += tl.load(bias + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        back = K - 1 - k
        reach = mask & (place[:, None] >= back)
        tap = tl.load(x + (t[:, None] - back) * x_stride + d[None, :], mask=reach, other=0.0).to(tl.float32)
        out += tap * tl.load(weight + d * K + k, mask=d < D, other=0.0).to(tl.float32)[None, :]
    return out


@triton.jit
def conv_kernel(
    x, weight, bias, position, y, P, D, x_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The output (P, D) of a tile of T tokens and BLOCK channels."""
    t = tl.program_id(0) * T + tl.arange(0, T)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (t[:, None] < P) & (d[None, :] < D)
    place = tl.load(position + t, mask=t < P, other=0)
    out = _before_activation(x, weight, bias, place, t, d, mask, x_stride, D, K, HAS_BIAS, T)
    if SILU:
        out = out * tl.sigmoid(out)
    tl.store(y + t[:, None] * D + d[None, :], out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def conv_weight_grad_kernel(
    x, weight, bias, position, dy, dpre, dweight, dbias, P, D, x_stride, dy_stride,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation (P, D), and this tile's share of the weights' (tiles, K, D) and bias's (tiles, D)."""
    t = tl.program_id(0) * T + tl.arange(0, T)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (t[:, None] < P) & (d[None, :] < D)
    place = tl.load(position + t, mask=t < P, other=0)
    grad = tl.load(dy + t[:, None] * dy_stride + d[None, :], mask=mask, other=0.0).to(tl.float32)
    if SILU:
        out = _before_activation(x, weight, bias, place, t, d, mask, x_stride, D, K, HAS_BIAS, T)
        gate = tl.sigmoid(out)
        grad = grad * gate * (1.0 + out * (1.0 - gate))
    tl.store(dpre + t[:, None] * D + d[None, :], grad, mask=mask)
    tl.store(dbias + tl.program_id(0) * D + d, tl.sum(grad, axis=0), mask=d < D)
    for k in tl.static_range(K):
        back = K - 1 - k
        reach = mask & (place[:, None] >= back)
        tap = tl.load(x + (t[:, None] - back) * x_stride + d[None, :], mask=reach, other=0.0).to(tl.float32)
        tl.store(dweight + (tl.program_id(0) * K + k) * D + d, tl.sum(grad * tap, axis=0), mask=d < D)


@triton.jit
def conv_input_grad_kernel(
    weight, position, dpre, dx, P, D, K: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Dx (P, D): what a token gave to itself and to the K - 1 after it in its sequence."""
    t = tl.program_id(0) * T + tl.arange(0, T)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    out = tl.zeros([T, BLOCK], tl.float32)
    for k in tl.static_range(K):
        ahead = K - 1 - k
        later = t + ahead
        same = (later < P) & (tl.load(position + later, mask=later < P, other=-1) >= ahead)
        grad = tl.load(dpre + later[:, None] * D + d[None, :], mask=same[:, None] & (d[None, :] < D), other=0.0)
        out += grad * tl.load(weight + d * K + k, mask=d < D, other=0.0).to(tl.float32)[None, :]
    tl.store(dx + t[:, None] * D + d[None, :], out.to(dx.dtype.element_ty), mask=(t[:, None] < P) & (d[None, :] < D))


def triton_conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, bounds: list[int]) -> Tensor:
    """Return (P, D) in the dtype of x."""
    x, weight = _rows(x), weight.contiguous()
    (P, D), K = x.shape, weight.shape[1]
    y = x.new_empty(x.shape)
    if y.numel():
        conv_kernel[_grid(P, D)](
            x, weight, weight if bias is None else bias.contiguous(), positions(bounds, x.device), y, P, D, x.stride(0),
            K=K, HAS_BIAS=bias is not None, SILU=silu, T=BLOCK_T, BLOCK=BLOCK_D,
        )  # fmt: skip
    return y


def triton_conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, bounds: list[int]
) -> list[Tensor]:
    """Return the gradients of x, weight and, where there is one, bias."""
    x, dy, weight = _rows(x), _rows(dy), weight.contiguous()
    (P, D), K = x.shape, weight.shape[1]
    grid = _grid(P, D)
    dx = x.new_empty(x.shape)
    dpre = x.new_empty(x.shape, dtype=torch.float32)
    dweight = x.new_empty((grid[0], K, D), dtype=torch.float32)
    dbias = x.new_empty((grid[0], D), dtype=torch.float32)
    if dx.numel():
        position = positions(bounds, x.device)
        conv_weight_grad_kernel[grid](
            x, weight, weight if bias is None else bias.contiguous(), position, dy, dpre, dweight, dbias,
            P, D, x.stride(0), dy.stride(0), K=K, HAS_BIAS=bias is not None, SILU=silu, T=BLOCK_T, BLOCK=BLOCK_D,
        )  # fmt: skip
        conv_input_grad_kernel[grid](weight, position, dpre, dx, P, D, K=K, T=BLOCK_T, BLOCK=BLOCK_D)
    parameter_grads = [dweight.sum(0).t().contiguous()] + ([] if bias is None else [dbias.sum(0)])
    return [dx, *(g.to(weight.dtype) for g in parameter_grads)]


def _grid(P: int, D: int) -> tuple[int, int]:
    return triton.cdiv(P, BLOCK_T), triton.cdiv(D, BLOCK_D)


def _rows(x: Tensor) -> Tensor:
    """Return x with its columns side by side and 32-bit offsets; KernelInputError where those do not suffice."""
    x = x if x.stride(-1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
    if x.shape[0] * x.stride(0) >= 2**31:
        raise KernelInputError(f"x_PD: {x.shape[0]} tokens, expected offsets below 2**31. Give the sequences in several calls.")
    return x
