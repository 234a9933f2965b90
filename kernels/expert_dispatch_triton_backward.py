"""Expert dispatch in Triton, backward: grouped products for inputs, one program per expert and tile for weights, no atomics.

Belongs here: the backward kernels and their launches. Does not belong: what they share with forward (expert_dispatch_triton.py).
All parameter gradients go into one float32 vector, expert by expert in the order of the parameters; an expert without cases gets
zeros there.

Shape legend: as in expert_dispatch_triton.py.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.expert_dispatch_triton import (
    BLOCK_N,
    FC1,
    FC1_BIAS,
    FC2,
    FC2_BIAS,
    NORM1,
    NORM2,
    OUT,
    OUT_BIAS,
    PER_LAYER,
    QKV,
    SHARED_SIZES,
    Call,
    _gelu,
    _on_device,
    parameter,
)  # fmt: skip

BLOCK_M = 16


@triton.jit(do_not_specialize=SHARED_SIZES)
def combine_backward_kernel(grad, y, weights, case_of, counts, dy, dweights, B, E, D, BLOCK_D: tl.constexpr):
    """Dy = weight * grad of the slot's case, and the weight's gradient <grad, y>."""
    e, slot = tl.program_id(0), tl.program_id(1)
    if slot < tl.load(counts + e):
        d = tl.arange(0, BLOCK_D)
        case = tl.load(case_of + e * B + slot)
        out = tl.load(grad + case * D + d, mask=d < D, other=0.0).to(tl.float32)
        row = (e * B + slot) * D + d
        tl.store(dy + row, out * tl.load(weights + case * E + e).to(tl.float32), mask=d < D)
        tl.store(dweights + case * E + e, tl.sum(out * tl.load(y + row, mask=d < D, other=0.0), axis=0))


@triton.jit(do_not_specialize=SHARED_SIZES)
def grouped_weight_grad_kernel(
    dy, x, table, counts, in_widths, out_widths, stats, grads, offsets, B, x_stride, dy_stride,
    params, weight_index, bias_index, norm_index, rows,
    HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr, GELU: tl.constexpr, DTYPE: tl.constexpr, PRODUCT: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """A tile of dW = dy' f(x), f being the normalisation, gelu or nothing, and of db = sum dy."""
    e = tl.program_id(0)
    in_width, out_width = tl.load(in_widths + e), tl.load(out_widths + e)
    n = tl.program_id(1) * N + tl.arange(0, N)
    k = tl.program_id(2) * K + tl.arange(0, K)
    if (tl.program_id(1) * N < out_width) & (tl.program_id(2) * K < in_width):
        has_n, has_k = n < out_width, k < in_width
        total = tl.zeros([N, K], tl.float32)
        bias = tl.zeros([N], tl.float32)
        num_rows = tl.load(counts + e) * rows
        for first in range(0, num_rows, M):
            m = first + tl.arange(0, M)
            has_m = m < num_rows
            slot, s = e * B + m // rows, m % rows
            g = tl.load(dy + (slot * rows + s)[None, :] * dy_stride + n[:, None], mask=has_n[:, None] & has_m[None, :], other=0.0)
            there = has_m[:, None] & has_k[None, :]
            a = tl.load(x + (slot * rows + s)[:, None] * x_stride + k[None, :], mask=there, other=0.0)
            if HAS_NORM:
                gamma = tl.load(parameter(table, e, norm_index, params, DTYPE) + k, mask=has_k, other=0.0).to(tl.float32)
                beta = tl.load(parameter(table, e, norm_index + 1, params, DTYPE) + k, mask=has_k, other=0.0).to(tl.float32)
                mean = tl.load(stats + (slot * rows + s) * 2, mask=has_m, other=0.0)
                scale = tl.load(stats + (slot * rows + s) * 2 + 1, mask=has_m, other=0.0)
                a = tl.where(there, (a - mean[:, None]) * scale[:, None] * gamma[None, :] + beta[None, :], 0.0)
            if GELU:
                a = _gelu(a)
            total += tl.dot(g.to(PRODUCT), a.to(PRODUCT), input_precision="ieee")
            bias += tl.sum(g, axis=1)
        cell = tl.load(offsets + e * params + weight_index) + n[:, None] * in_width + k[None, :]
        tl.store(grads + cell, total, mask=has_n[:, None] & has_k[None, :])
        if HAS_BIAS:  # noqa: SIM102 (a constexpr branch)
            if tl.program_id(2) == 0:
                tl.store(grads + tl.load(offsets + e * params + bias_index) + n, bias, mask=has_n)


@triton.jit(do_not_specialize=SHARED_SIZES)
def norm_backward_kernel(
    dn, x, residual_grad, table, counts, stats, dx, B, D, params, norm_index, rows, residual_rows,
    DTYPE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Dx of one row: through the normalisation, plus what came past it (rows of a slot beyond `residual_rows` have nothing)."""
    e, m = tl.program_id(0), tl.program_id(1)
    if m < tl.load(counts + e) * rows:
        d = tl.arange(0, BLOCK_D)
        slot, s = e * B + m // rows, m % rows
        mean, scale = tl.load(stats + (slot * rows + s) * 2), tl.load(stats + (slot * rows + s) * 2 + 1)
        there = d < D
        unit = tl.where(there, (tl.load(x + (slot * rows + s) * D + d, mask=there, other=0.0) - mean) * scale, 0.0)
        gamma = tl.load(parameter(table, e, norm_index, params, DTYPE) + d, mask=there, other=0.0).to(tl.float32)
        g = tl.load(dn + (slot * rows + s) * D + d, mask=there, other=0.0) * gamma
        out = scale * (g - tl.sum(g, axis=0) / D - unit * (tl.sum(g * unit, axis=0) / D))
        past = tl.load(residual_grad + (slot * residual_rows + s) * D + d, mask=there & (s < residual_rows), other=0.0)
        tl.store(dx + (slot * rows + s) * D + d, out + past, mask=there)


@triton.jit(do_not_specialize=SHARED_SIZES)
def norm_weight_grad_kernel(
    dn, x, counts, stats, grads, offsets, B, D, params, norm_index, rows,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The gradients of a normalisation's weight and bias for N columns of one expert."""
    e = tl.program_id(0)
    d = tl.program_id(1) * N + tl.arange(0, N)
    dgamma = tl.zeros([N], tl.float32)
    dbeta = tl.zeros([N], tl.float32)
    num_rows = tl.load(counts + e) * rows
    for first in range(0, num_rows, M):
        m = first + tl.arange(0, M)
        slot, s = e * B + m // rows, m % rows
        there = (m < num_rows)[:, None] & (d < D)[None, :]
        g = tl.load(dn + (slot * rows + s)[:, None] * D + d[None, :], mask=there, other=0.0)
        mean = tl.load(stats + (slot * rows + s) * 2, mask=m < num_rows, other=0.0)
        scale = tl.load(stats + (slot * rows + s) * 2 + 1, mask=m < num_rows, other=0.0)
        value = tl.load(x + (slot * rows + s)[:, None] * D + d[None, :], mask=there, other=0.0)
        dgamma += tl.sum(g * (value - mean[:, None]) * scale[:, None], axis=0)
        dbeta += tl.sum(g, axis=0)
    tl.store(grads + tl.load(offsets + e * params + norm_index) + d, dgamma, mask=d < D)
    tl.store(grads + tl.load(offsets + e * params + norm_index + 1) + d, dbeta, mask=d < D)


@triton.jit(do_not_specialize=SHARED_SIZES)
def attention_backward_kernel(
    qkv, dmixed, counts, head_widths, dqkv, B, H, qkv_stride, mixed_stride,
    S: tl.constexpr, QUERIES: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """dq, dk, dv of one slot and head; rows that asked nothing have dq = 0."""
    e, slot, h = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if slot < tl.load(counts + e):
        width = tl.load(head_widths + e)
        s, j = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_R)
        base = (e * B + slot) * S * qkv_stride + h * width
        rows = s[:, None] * qkv_stride + j[None, :]
        there = (s < S)[:, None] & (j < width)[None, :]
        k = tl.load(qkv + base + H * width + rows, mask=there, other=0.0)
        v = tl.load(qkv + base + 2 * H * width + rows, mask=there, other=0.0)
        dk = tl.zeros([BLOCK_S, BLOCK_R], tl.float32)
        dv = tl.zeros([BLOCK_S, BLOCK_R], tl.float32)
        scale = 1.0 / tl.sqrt(width.to(tl.float32))
        for i in range(QUERIES):
            q = tl.load(qkv + base + i * qkv_stride + j, mask=j < width, other=0.0)
            g = tl.load(dmixed + ((e * B + slot) * QUERIES + i) * mixed_stride + h * width + j, mask=j < width, other=0.0)
            scores = tl.where(s < S, tl.sum(q[None, :] * k, axis=1) * scale, float("-inf"))
            p = tl.exp(scores - tl.max(scores, axis=0))
            p = p / tl.sum(p, axis=0)
            dp = tl.sum(g[None, :] * v, axis=1)
            dscores = p * (dp - tl.sum(p * dp, axis=0)) * scale
            tl.store(dqkv + base + i * qkv_stride + j, tl.sum(dscores[:, None] * k, axis=0), mask=j < width)
            dk += dscores[:, None] * q[None, :]
            dv += p[:, None] * g[None, :]
        tl.store(dqkv + base + rows, tl.zeros([BLOCK_S, BLOCK_R], tl.float32), mask=there & (s >= QUERIES)[:, None])
        tl.store(dqkv + base + H * width + rows, dk, mask=there)
        tl.store(dqkv + base + 2 * H * width + rows, dv, mask=there)


@triton.jit(do_not_specialize=SHARED_SIZES)
def tokens_grad_kernel(dx, slot_of, dtokens, B, E, T, D, BLOCK_D: tl.constexpr):
    """A token's gradient: the sum over the experts that its case was sent to, in their order."""
    b, t = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for e in range(E):
        slot = tl.load(slot_of + b * E + e)
        total += tl.load(dx + ((e * B + slot) * (T + 1) + t + 1) * D + d, mask=(d < D) & (slot >= 0), other=0.0)
    tl.store(dtokens + (b * T + t) * D + d, total.to(dtokens.dtype.element_ty), mask=d < D)


@triton.jit(do_not_specialize=SHARED_SIZES)
def cls_grad_kernel(dx, counts, grads, offsets, B, S, D, params, BLOCK_D: tl.constexpr):
    """A CLS token's gradient: the sum over its expert's slots."""
    e = tl.program_id(0)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for slot in range(tl.load(counts + e)):
        total += tl.load(dx + (e * B + slot) * S * D + d, mask=d < D, other=0.0)
    tl.store(grads + tl.load(offsets + e * params) + d, total, mask=d < D)


class _Gradients:
    """The launches that need a call and the vector of its parameters' gradients."""

    def __init__(self, call: Call) -> None:
        sizes = [p.numel() for p in call.params]
        self.call = call
        self.flat = call.saved.new_empty(sum(sizes))
        self.offsets = _on_device((0, *accumulate(sizes[:-1])), torch.int64, call.device)

    def weight(
        self, dy: Tensor, x: Tensor, layer: int, weight: int, widths: tuple[Tensor, Tensor], *, rows: int,
        bias: int = -1, norm: int = -1, stats: Tensor | None = None, gelu: bool = False,
    ) -> None:  # fmt: skip
        """Launch `grouped_weight_grad_kernel` for a layer's weight and bias."""
        call, first = self.call, 1 + PER_LAYER * layer
        grouped_weight_grad_kernel[(call.at.E, triton.cdiv(dy.shape[1], BLOCK_N), triton.cdiv(x.shape[1], BLOCK_N))](
            dy, x, call.table, call.counts, *widths, dy if stats is None else stats, self.flat, self.offsets,
            call.at.B, x.shape[1], dy.shape[1], call.per_expert, first + weight, first + bias, first + norm, rows,
            HAS_BIAS=bias >= 0, HAS_NORM=norm >= 0, GELU=gelu, DTYPE=call.dtype, PRODUCT=call.product,
            M=BLOCK_M, N=BLOCK_N, K=BLOCK_N, num_warps=8 if call.product == tl.float32 else 4,  # 4 spill in float32
        )  # fmt: skip

    def norm(
        self, dn: Tensor, x: Tensor, past: Tensor, stats: Tensor, layer: int, norm: int, *, rows: int, past_rows: int
    ) -> Tensor:
        """Return the gradient before a normalisation, with `past`, the one beside it; write those of its weight and bias."""
        call, index = self.call, 1 + PER_LAYER * layer + norm
        at, dx = call.at, torch.empty_like(dn)
        norm_backward_kernel[(at.E, at.B * rows)](
            dn, x, past, call.table, call.counts, stats, dx, at.B, at.D,
            call.per_expert, index, rows, past_rows, DTYPE=call.dtype, BLOCK_D=call.block_d, num_warps=1,
        )  # fmt: skip
        norm_weight_grad_kernel[(at.E, triton.cdiv(at.D, BLOCK_N))](
            dn, x, call.counts, stats, self.flat, self.offsets, at.B, at.D, call.per_expert, index, rows,
            M=BLOCK_M, N=BLOCK_N, num_warps=1,
        )  # fmt: skip
        return dx


def triton_dispatch_backward(
    grad: Tensor, tokens: Tensor, params: Sequence[Tensor], weights: Tensor, saved: Tensor, num_heads: int
) -> list[Tensor]:
    """Return the gradients of tokens and weights in their dtypes, and of all parameters as one float32 vector."""
    weights = weights.contiguous()
    call = Call(tokens, params, weights.shape[1], num_heads, saved)
    at, to = call.at, _Gradients(call)
    dtokens, dweights = tokens.new_empty(tokens.shape), weights.new_zeros(weights.shape, dtype=torch.float32)
    if at.B == 0:
        return [dtokens, dweights.to(weights.dtype), to.flat.zero_()]
    dy = torch.empty_like(call.final)
    combine_backward_kernel[(at.E, at.B)](
        grad.contiguous(), call.final, weights, call.case_of, call.counts, dy, dweights, at.B, at.E, at.D,
        BLOCK_D=call.block_d, num_warps=1,
    )  # fmt: skip
    for layer in reversed(range(at.depth)):
        x, stats1, qkv, mixed, middle, stats2, pre, _ = call.layers[layer]
        rows = at.rows(layer)
        dpre = torch.empty_like(pre)
        call.linear(
            dy, dpre, layer, FC2, (call.width, call.hidden_widths), rows=rows, transposed=True, epilogue="gelu_slope", pre=pre
        )
        to.weight(dy, pre, layer, FC2, (call.hidden_widths, call.width), rows=rows, bias=FC2_BIAS, gelu=True)
        dn = torch.empty_like(middle)
        call.linear(dpre, dn, layer, FC1, (call.hidden_widths, call.width), rows=rows, transposed=True)
        to.weight(dpre, middle, layer, FC1, (call.width, call.hidden_widths), rows=rows, bias=FC1_BIAS, norm=NORM2, stats=stats2)
        dmiddle = to.norm(dn, middle, dy, stats2, layer, NORM2, rows=rows, past_rows=rows)
        dmixed = torch.empty_like(mixed)
        call.linear(dmiddle, dmixed, layer, OUT, (call.width, call.mixed_widths), rows=rows, transposed=True)
        to.weight(dmiddle, mixed, layer, OUT, (call.mixed_widths, call.width), rows=rows, bias=OUT_BIAS)
        dqkv = torch.empty_like(qkv)
        attention_backward_kernel[(at.E, at.B, at.H)](
            qkv, dmixed, call.counts, call.head_widths, dqkv, at.B, at.H, qkv.shape[1], mixed.shape[1], S=at.num_rows,
            QUERIES=rows, BLOCK_S=triton.next_power_of_2(at.num_rows), BLOCK_R=triton.next_power_of_2(max(at.head_widths)),
            num_warps=1,
        )  # fmt: skip
        dn = torch.empty_like(x)
        call.linear(dqkv, dn, layer, QKV, (call.qkv_widths, call.width), rows=at.num_rows, transposed=True)
        to.weight(dqkv, x, layer, QKV, (call.width, call.qkv_widths), rows=at.num_rows, norm=NORM1, stats=stats1)
        dy = to.norm(dn, x, dmiddle, stats1, layer, NORM1, rows=at.num_rows, past_rows=rows)
    tokens_grad_kernel[(at.B, at.T)](dy, call.slot_of, dtokens, at.B, at.E, at.T, at.D, BLOCK_D=call.block_d, num_warps=1)
    cls_grad_kernel[(at.E,)](
        dy, call.counts, to.flat, to.offsets, at.B, at.num_rows, at.D, call.per_expert, BLOCK_D=call.block_d, num_warps=1
    )
    return [dtokens, dweights.to(weights.dtype), to.flat]
