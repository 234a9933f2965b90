"""Expert dispatch in Triton, forward: all experts and all their cases in a dozen launches, no host sync.

Belongs here: the forward kernels, the layout of a call, its launches. Does not belong: checks and registration
(expert_dispatch_operator.py), the backward kernels (expert_dispatch_triton_backward.py).

Every expert has room for every case: slot i of expert e is the i-th case sent to it, and programs beyond an expert's count
leave at once. So sizes follow from the batch alone, nothing waits for the routing, and a CUDA graph can hold the call.
Parameters stay the separate tensors that the optimiser knows; kernels find them in a table of addresses. All activations are
float32; products run in the tokens' dtype with float32 sums, ieee for float32 tokens. The last layer is computed for the CLS
row alone, past its keys and values.

Shape legend: B cases, T tokens, S = 1 + T rows of an expert's sequence, D width, H heads, r width of a head, E experts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.packing import KernelInputError

PER_LAYER = 11  # tensors of kernels.expert_dispatch.ExpertLayer, in its order, after the CLS token
NORM1, QKV, OUT, OUT_BIAS, NORM2, FC1, FC1_BIAS, FC2, FC2_BIAS = 0, 2, 3, 4, 5, 7, 8, 9, 10
BLOCK_N = 64
# Rows and depth of a product's tile: of few rows, of many, and of many in float32, which has no tensor core for ieee products
# and spills with the larger tile.
FEW, MANY, MANY_FLOAT32 = (16, 32), (64, 32), (32, 16)
# Arguments for whose values no kernel is compiled anew: layers and batches share one.
SHARED_SIZES = ("B", "params", "weight_index", "bias_index", "norm_index", "rows", "x_rows", "residual_rows")


@triton.jit
def parameter(table, e, index, params, DTYPE: tl.constexpr):
    """The address of parameter `index` of expert e."""
    return tl.load(table + e * params + index).to(tl.pointer_type(DTYPE))


@triton.jit(do_not_specialize=SHARED_SIZES)
def plan_kernel(mask, case_of, slot_of, counts, B, E, BLOCK_B: tl.constexpr):
    """For one expert: its cases in ascending order, the slot of each case (-1 if not sent), how many."""
    e = tl.program_id(0)
    b = tl.arange(0, BLOCK_B)
    sent = tl.load(mask + b * E + e, mask=b < B, other=0).to(tl.int32)
    slot = tl.cumsum(sent, axis=0) - 1
    tl.store(case_of + e * B + slot, b, mask=sent != 0)
    tl.store(slot_of + b * E + e, tl.where(sent != 0, slot, -1), mask=b < B)
    tl.store(counts + e, tl.sum(sent, axis=0))


@triton.jit(do_not_specialize=SHARED_SIZES)
def embed_kernel(tokens, table, case_of, counts, x, B, T, D, params, DTYPE: tl.constexpr, BLOCK_D: tl.constexpr):
    """X (E, B, S, D): an expert's CLS token, then the case's tokens."""
    e, slot, s = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if slot < tl.load(counts + e):
        d = tl.arange(0, BLOCK_D)
        if s == 0:
            row = tl.load(parameter(table, e, 0, params, DTYPE) + d, mask=d < D, other=0.0).to(tl.float32)
        else:
            case = tl.load(case_of + e * B + slot)
            row = tl.load(tokens + (case * T + s - 1) * D + d, mask=d < D, other=0.0).to(tl.float32)
        tl.store(x + ((e * B + slot) * (T + 1) + s) * D + d, row, mask=d < D)


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit(do_not_specialize=SHARED_SIZES)
def grouped_linear_kernel(
    x, table, counts, in_widths, out_widths, y, pre, residual, stats, B, x_stride, y_stride,
    params, weight_index, bias_index, norm_index, rows, x_rows, residual_rows,
    HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr, TRANSPOSED: tl.constexpr, EPILOGUE: tl.constexpr,
    DTYPE: tl.constexpr, PRODUCT: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Y = epilogue(norm(x) W' + b) for a tile of an expert's rows; W instead of W' if TRANSPOSED.

    Indices name the parameters; with a norm, stats gets each row's mean and 1 / deviation. `rows` of each slot are computed, of
    `x_rows` in x and `residual_rows` in `residual`. EPILOGUE: `gelu` keeps its argument in `pre`, `gelu_slope` multiplies by
    gelu'(pre), `residual` adds.
    """
    e = tl.program_id(0)
    m = tl.program_id(1) * M + tl.arange(0, M)
    in_width, out_width = tl.load(in_widths + e), tl.load(out_widths + e)
    n = tl.program_id(2) * N + tl.arange(0, N)
    num_rows = tl.load(counts + e) * rows
    if (tl.program_id(1) * M < num_rows) & (tl.program_id(2) * N < out_width):
        has_m, has_n = m < num_rows, n < out_width
        slot, s = e * B + m // rows, m % rows
        x_row = x + (slot * x_rows + s) * x_stride
        mean = tl.zeros([M], tl.float32)
        scale = tl.zeros([M], tl.float32)
        if HAS_NORM:
            for first in range(0, in_width, K):
                k = first + tl.arange(0, K)
                mean += tl.sum(
                    tl.load(x_row[:, None] + k[None, :], mask=has_m[:, None] & (k < in_width)[None, :], other=0.0), axis=1
                )
            mean = mean / in_width
            for first in range(0, in_width, K):
                k = first + tl.arange(0, K)
                there = has_m[:, None] & (k < in_width)[None, :]
                off = tl.where(there, tl.load(x_row[:, None] + k[None, :], mask=there, other=0.0) - mean[:, None], 0.0)
                scale += tl.sum(off * off, axis=1)
            scale = 1.0 / tl.sqrt(scale / in_width + 1e-5)
            if tl.program_id(2) == 0:
                tl.store(stats + (slot * rows + s) * 2, mean, mask=has_m)
                tl.store(stats + (slot * rows + s) * 2 + 1, scale, mask=has_m)
        weight = parameter(table, e, weight_index, params, DTYPE)
        out = tl.zeros([M, N], tl.float32)
        for first in range(0, in_width, K):
            k = first + tl.arange(0, K)
            there = has_m[:, None] & (k < in_width)[None, :]
            a = tl.load(x_row[:, None] + k[None, :], mask=there, other=0.0)
            if HAS_NORM:
                gamma = tl.load(parameter(table, e, norm_index, params, DTYPE) + k, mask=k < in_width, other=0.0).to(tl.float32)
                beta = tl.load(parameter(table, e, norm_index + 1, params, DTYPE) + k, mask=k < in_width, other=0.0).to(
                    tl.float32
                )
                a = tl.where(there, (a - mean[:, None]) * scale[:, None] * gamma[None, :] + beta[None, :], 0.0)
            if TRANSPOSED:
                at = k[:, None] * out_width + n[None, :]
            else:
                at = n[None, :] * in_width + k[:, None]
            w = tl.load(weight + at, mask=(k < in_width)[:, None] & has_n[None, :], other=0.0)
            out += tl.dot(a.to(PRODUCT), w.to(PRODUCT), input_precision="ieee")
        if HAS_BIAS:
            out += tl.load(parameter(table, e, bias_index, params, DTYPE) + n, mask=has_n, other=0.0).to(tl.float32)[None, :]
        mask = has_m[:, None] & has_n[None, :]
        cell = (slot * rows + s)[:, None] * y_stride + n[None, :]
        if EPILOGUE == "gelu":
            tl.store(pre + cell, out, mask=mask)
            out = _gelu(out)
        if EPILOGUE == "gelu_slope":
            out = out * _gelu_slope(tl.load(pre + cell, mask=mask, other=0.0))
        if EPILOGUE == "residual":
            out += tl.load(residual + (slot * residual_rows + s)[:, None] * y_stride + n[None, :], mask=mask, other=0.0)
        tl.store(y + cell, out, mask=mask)


@triton.jit(do_not_specialize=SHARED_SIZES)
def attention_kernel(
    qkv, counts, head_widths, mixed, B, H, qkv_stride, mixed_stride,
    S: tl.constexpr, QUERIES: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Mixed (E, B, QUERIES, H r): softmax(q k / sqrt(r)) v of one slot and head, for its first QUERIES rows."""
    e, slot, h = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if slot < tl.load(counts + e):
        width = tl.load(head_widths + e)
        s, j = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_R)
        first = qkv + (e * B + slot) * S * qkv_stride + h * width
        rows = s[:, None] * qkv_stride + j[None, :]
        there = (s < S)[:, None] & (j < width)[None, :]
        k = tl.load(first + H * width + rows, mask=there, other=0.0)
        v = tl.load(first + 2 * H * width + rows, mask=there, other=0.0)
        scale = 1.0 / tl.sqrt(width.to(tl.float32))
        for i in range(QUERIES):
            q = tl.load(first + i * qkv_stride + j, mask=j < width, other=0.0)
            scores = tl.where(s < S, tl.sum(q[None, :] * k, axis=1) * scale, float("-inf"))
            p = tl.exp(scores - tl.max(scores, axis=0))
            p = p / tl.sum(p, axis=0)
            out = mixed + ((e * B + slot) * QUERIES + i) * mixed_stride + h * width + j
            tl.store(out, tl.sum(p[:, None] * v, axis=0), mask=j < width)


@triton.jit(do_not_specialize=SHARED_SIZES)
def combine_kernel(y, weights, slot_of, out, B, E, D, BLOCK_D: tl.constexpr):
    """out[b] = sum_e weights[b, e] y[e, slot of b], in the experts' order."""
    b = tl.program_id(0)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for e in range(E):
        slot = tl.load(slot_of + b * E + e)
        row = tl.load(y + (e * B + slot) * D + d, mask=(d < D) & (slot >= 0), other=0.0)
        total += tl.load(weights + b * E + e).to(tl.float32) * row
    tl.store(out + b * D + d, total.to(out.dtype.element_ty), mask=d < D)


@lru_cache(maxsize=256)
def _on_device(values: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the numbers as a tensor, copied once: parameters keep their addresses from step to step."""
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True)
class Sizes:
    """The numbers that follow from the arguments' shapes."""

    B: int
    T: int
    D: int
    E: int
    H: int
    depth: int
    head_widths: tuple[int, ...]
    hidden_widths: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Return rows of an expert's sequence."""
        return self.T + 1

    def rows(self, layer: int) -> int:
        """Return rows of a slot that a layer's output has: the CLS row alone in the last."""
        return 1 if layer == self.depth - 1 else self.num_rows


class Call:
    """What all launches of a call share: sizes, the table of parameters, widths, blocks, the plan, the saved activations."""

    def __init__(self, tokens: Tensor, params: Sequence[Tensor], num_experts: int, num_heads: int, saved: Tensor | None) -> None:
        per_expert = len(params) // num_experts
        B, T, D = tokens.shape
        heads = tuple(params[e * per_expert + 1 + QKV].shape[0] // (3 * num_heads) for e in range(num_experts))
        hidden = tuple(params[e * per_expert + 1 + FC1].shape[0] for e in range(num_experts))
        at = Sizes(B, T, D, num_experts, num_heads, (per_expert - 1) // PER_LAYER, heads, hidden)
        # rows padded to whole vectors, so that loads are wide and experts of any width share the compiled kernels
        self.mixed_stride, self.hidden_stride = (16 * triton.cdiv(w, 16) for w in (num_heads * max(heads), max(hidden)))
        if at.E * B * at.num_rows * max(D, 3 * self.mixed_stride, self.hidden_stride) >= 2**31:
            raise KernelInputError(f"tokens_BTD: {B} cases of {T} tokens, expected offsets below 2**31. Split the batch.")
        self.at, self.per_expert, self.device = at, per_expert, tokens.device
        self.params = [p.contiguous() for p in params]
        self.table = _on_device(tuple(p.data_ptr() for p in self.params), torch.int64, self.device)
        self.head_widths = self.widths(heads)
        self.mixed_widths = self.widths(tuple(num_heads * r for r in heads))
        self.qkv_widths = self.widths(tuple(3 * num_heads * r for r in heads))
        self.hidden_widths = self.widths(hidden)
        self.width = self.widths((D,) * num_experts)
        self.dtype = getattr(tl, str(params[0].dtype).removeprefix("torch."))
        self.product = getattr(tl, str(tokens.dtype).removeprefix("torch."))
        self.block_d = triton.next_power_of_2(D)
        self.saved = tokens.new_empty(sum(map(math.prod, self._shapes())), dtype=torch.float32) if saved is None else saved
        parts = iter(
            t.view(shape) for t, shape in zip(self.saved.split([*map(math.prod, self._shapes())]), self._shapes(), strict=True)
        )
        plan = [next(parts).view(torch.int32) for _ in range(3)]
        self.case_of, self.slot_of, self.counts = plan
        self.layers = [[next(parts) for _ in range(8)] for _ in range(at.depth)]
        self.final = next(parts)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Return what is saved: the plan, then of each layer x, stats 1, qkv, mixed, x between, stats 2, pre, hidden."""
        at = self.at
        shapes: list[tuple[int, ...]] = [(at.E, at.B), (at.B, at.E), (at.E,)]
        slots = at.E * at.B
        for layer in range(at.depth):
            full, rows = slots * at.num_rows, slots * at.rows(layer)
            shapes += [(full, at.D), (full, 2), (full, 3 * self.mixed_stride), (rows, self.mixed_stride), (rows, at.D), (rows, 2)]
            shapes += [(rows, self.hidden_stride)] * 2
        return [*shapes, (slots, at.D)]

    def widths(self, values: tuple[int, ...]) -> Tensor:
        """Return widths by expert on the device."""
        return _on_device(values, torch.int32, self.device)

    def linear(
        self, x: Tensor, y: Tensor, layer: int, weight: int, widths: tuple[Tensor, Tensor], *, rows: int,
        bias: int = -1, norm: int = -1, transposed: bool = False, epilogue: str = "none", pre: Tensor | None = None,
        residual: Tensor | None = None, residual_rows: int = 1, stats: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Launch `grouped_linear_kernel` with a layer's parameters."""
        at, first = self.at, 1 + PER_LAYER * layer
        many = MANY_FLOAT32 if self.product == tl.float32 else MANY
        block_m, block_k = FEW if at.B * rows <= 64 else many
        grid = (at.E, triton.cdiv(at.B * rows, block_m), triton.cdiv(y.shape[1], BLOCK_N))
        grouped_linear_kernel[grid](
            x, self.table, self.counts, *widths, y, y if pre is None else pre, y if residual is None else residual,
            y if stats is None else stats, at.B, x.shape[1], y.shape[1],
            self.per_expert, first + weight, first + bias, first + norm, rows, rows, residual_rows,
            HAS_BIAS=bias >= 0, HAS_NORM=norm >= 0, TRANSPOSED=transposed, EPILOGUE=epilogue,
            DTYPE=self.dtype, PRODUCT=self.product,
            M=block_m, N=BLOCK_N, K=block_k, num_warps=4,
        )  # fmt: skip


def triton_dispatch_forward(
    tokens: Tensor, params: Sequence[Tensor], weights: Tensor, mask: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Return sum_e weights[b, e] expert_e(tokens_b) over the pairs of `mask`, (B, D), and what backward needs."""
    tokens, weights, mask = tokens.contiguous(), weights.contiguous(), mask.to(torch.int8).contiguous()
    call = Call(tokens, params, weights.shape[1], num_heads, None)
    at = call.at
    out = tokens.new_empty((at.B, at.D))
    if at.B == 0:
        return out, call.saved
    plan_kernel[(at.E,)](mask, call.case_of, call.slot_of, call.counts, at.B, at.E, BLOCK_B=triton.next_power_of_2(at.B))
    embed_kernel[(at.E, at.B, at.num_rows)](
        tokens, call.table, call.case_of, call.counts, call.layers[0][0], at.B, at.T, at.D,
        call.per_expert, DTYPE=call.dtype, BLOCK_D=call.block_d, num_warps=1,
    )  # fmt: skip
    for layer, (x, stats1, qkv, mixed, middle, stats2, pre, hidden) in enumerate(call.layers):
        rows = at.rows(layer)
        y = call.final if layer == at.depth - 1 else call.layers[layer + 1][0]
        call.linear(x, qkv, layer, QKV, (call.width, call.qkv_widths), rows=at.num_rows, norm=NORM1, stats=stats1)
        attention_kernel[(at.E, at.B, at.H)](
            qkv, call.counts, call.head_widths, mixed, at.B, at.H, qkv.shape[1], mixed.shape[1], S=at.num_rows, QUERIES=rows,
            BLOCK_S=triton.next_power_of_2(at.num_rows), BLOCK_R=triton.next_power_of_2(max(at.head_widths)), num_warps=1,
        )  # fmt: skip
        call.linear(
            mixed, middle, layer, OUT, (call.mixed_widths, call.width), rows=rows, bias=OUT_BIAS,
            epilogue="residual", residual=x, residual_rows=at.num_rows,
        )  # fmt: skip
        call.linear(
            middle, hidden, layer, FC1, (call.width, call.hidden_widths), rows=rows, bias=FC1_BIAS, norm=NORM2,
            epilogue="gelu", pre=pre, stats=stats2,
        )  # fmt: skip
        call.linear(
            hidden, y, layer, FC2, (call.hidden_widths, call.width), rows=rows, bias=FC2_BIAS,
            epilogue="residual", residual=middle, residual_rows=rows,
        )  # fmt: skip
    combine_kernel[(at.B,)](call.final, weights, call.slot_of, out, at.B, at.E, at.D, BLOCK_D=call.block_d, num_warps=2)
    return out, call.saved
