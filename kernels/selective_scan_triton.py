"""The selective scan in Triton, forward: chunk states, a pass over chunks, outputs.

Belongs here: the forward kernels, what backward shares with them, and their launches. Does not belong: checks and registration
(selective_scan.py), the backward kernels (selective_scan_triton_backward.py).

Bags are long and few, so parallelism comes from the length. The packed tokens are cut into chunks of equal length, whatever the
sequences: at the first token of a sequence -inf is added to the exponent, which makes its decay zero at no cost (a multiply
becomes a fused multiply-add). So nothing depends on the number of sequences and no table of chunks is built. A lives as (N, D),
multiplied by log2 e: then the decay is one ex2 instruction. A tile of states is (N, BLOCK_D) on one warp: each lane owns whole
channels, so the sums over N need no shuffles.

Shape legend: P packed tokens, D channels, N states, C chunks.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.packing import KernelInputError, positions
from kernels.selective_scan_cpu import ScanInputs

# Chunks of a call should give every scheduler of an H100 (132 SMs x 4) about four warps: design figure, not measured by us.
_WARPS_WANTED = 2112
# Chunk states loaded before the first is used, in the pass over chunks, whose only cost is the latency of its loads.
GROUP = 8
PASS_BLOCK = 128
MAX_BLOCK_D = 128


@triton.jit
def _step(raw, SOFTPLUS: tl.constexpr):
    """The step size dt of delta + bias; log1p by Kahan's correction, since a rounded 1 + e loses small steps."""
    if SOFTPLUS:
        e = tl.exp(tl.minimum(raw, 20.0))
        w = 1.0 + e
        corrected = tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0))
        return tl.where(raw > 20.0, raw, tl.where(w == 1.0, e, corrected))
    else:  # noqa: RET505 (a constexpr branch)
        return raw


@triton.jit
def _boundary(position, t):
    """What the exponent of token t gets added: -inf at the first token of a sequence, so that no state passes it."""
    return tl.where(tl.load(position + t) == 0, float("-inf"), 0.0)


@triton.jit
def chunk_states_kernel(
    u, delta, B, position, A2, bias, states, totals, boundaries,
    P, D, N, chunk, u_stride, delta_stride, B_stride,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Each chunk's last state from a zero start (C, N, D), its summed dt (C, D), and -inf if a sequence begins in it (C,)."""
    c = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    has_d, has_n = d < D, n < N
    mask = has_n[:, None] & has_d[None, :]
    A = tl.load(A2 + n[:, None] * D + d[None, :], mask=mask, other=0.0)
    shift = tl.load(bias + d, mask=has_d, other=0.0) if HAS_BIAS else tl.zeros([BLOCK_D], tl.float32)
    h = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_D], tl.float32)
    boundary_total = 0.0
    for t in tl.range(c * chunk, tl.minimum(c * chunk + chunk, P), num_stages=4):
        dt = _step(tl.load(delta + t * delta_stride + d, mask=has_d, other=0.0).to(tl.float32) + shift, SOFTPLUS)
        dtu = dt * tl.load(u + t * u_stride + d, mask=has_d, other=0.0).to(tl.float32)
        B_N = tl.load(B + t * B_stride + n, mask=has_n, other=0.0).to(tl.float32)
        boundary = _boundary(position, t)
        h = tl.exp2(dt[None, :] * A + boundary) * h + dtu[None, :] * B_N[:, None]
        total += dt
        boundary_total += boundary
    tl.store(states + c * N * D + n[:, None] * D + d[None, :], h, mask=mask)
    tl.store(totals + c * D + d, total, mask=has_d)
    if tl.program_id(1) == 0:
        tl.store(boundaries + c, boundary_total)


@triton.jit
def pass_states_kernel(
    states, totals, boundaries, A2, C, D, ND,
    BLOCK: tl.constexpr, LOADED: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Turn each chunk's own last state into the state that comes into it, in place; from the last chunk on if REVERSE."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < ND
    d = i % D
    A = tl.load(A2 + i, mask=mask, other=0.0)
    h = tl.zeros([BLOCK], tl.float32)
    for first in range(0, C, LOADED):
        own = ()
        decays = ()
        for j in tl.static_range(LOADED):
            k = first + j
            c = C - 1 - k if REVERSE else k
            there = mask & (k < C)
            own = own + (tl.load(states + c * ND + i, mask=there, other=0.0),)  # noqa: RUF005 (Triton has no unpacking)
            exponent = tl.load(totals + c * D + d, mask=there, other=0.0) * A + tl.load(boundaries + c, mask=k < C, other=0.0)
            decays = decays + (tl.exp2(exponent),)  # noqa: RUF005
        for j in tl.static_range(LOADED):
            k = first + j
            c = C - 1 - k if REVERSE else k
            tl.store(states + c * ND + i, h, mask=mask & (k < C))
            h = decays[j] * h + own[j]


@triton.jit
def outputs_kernel(
    u, delta, B, C, z, position, A2, skip, bias, states, y,
    P, D, N, chunk, u_stride, delta_stride, B_stride, C_stride, z_stride,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Y (P, D) of a chunk from the state that comes into it, with the skip and the gate."""
    c = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    has_d, has_n = d < D, n < N
    mask = has_n[:, None] & has_d[None, :]
    A = tl.load(A2 + n[:, None] * D + d[None, :], mask=mask, other=0.0)
    shift = tl.load(bias + d, mask=has_d, other=0.0) if HAS_BIAS else tl.zeros([BLOCK_D], tl.float32)
    skipped = tl.load(skip + d, mask=has_d, other=0.0) if HAS_SKIP else tl.zeros([BLOCK_D], tl.float32)
    h = tl.load(states + c * N * D + n[:, None] * D + d[None, :], mask=mask, other=0.0)
    for t in tl.range(c * chunk, tl.minimum(c * chunk + chunk, P), num_stages=4):
        dt = _step(tl.load(delta + t * delta_stride + d, mask=has_d, other=0.0).to(tl.float32) + shift, SOFTPLUS)
        u_D = tl.load(u + t * u_stride + d, mask=has_d, other=0.0).to(tl.float32)
        B_N = tl.load(B + t * B_stride + n, mask=has_n, other=0.0).to(tl.float32)
        C_N = tl.load(C + t * C_stride + n, mask=has_n, other=0.0).to(tl.float32)
        h = tl.exp2(dt[None, :] * A + _boundary(position, t)) * h + (dt * u_D)[None, :] * B_N[:, None]
        out = tl.sum(h * C_N[:, None], axis=0) + skipped * u_D
        if HAS_Z:
            gate = tl.load(z + t * z_stride + d, mask=has_d, other=0.0).to(tl.float32)
            out = out * gate * tl.sigmoid(gate)
        tl.store(y + t * D + d, out.to(y.dtype.element_ty), mask=has_d)


class ScanLayout:
    """What all launches of a call share: sizes, arguments in the layout that the kernels read, the chunks."""

    def __init__(self, x: ScanInputs, softplus: bool, bounds: list[int]) -> None:
        (self.P, self.D), self.N = x.u.shape, x.A.shape[1]
        given = [t for t in (x.u, x.delta, x.B, x.C, x.z) if t is not None]
        if self.P * max(2 * self.D, *(t.stride(0) for t in given)) >= 2**31:
            raise KernelInputError(f"u_PD: {self.P} tokens, expected offsets below 2**31. Give the sequences in several calls.")
        self.chunk = chunk_length(self.P, self.D)
        self.num_chunks = triton.cdiv(self.P, self.chunk)
        self.block_d = min(MAX_BLOCK_D, max(32, triton.next_power_of_2(self.D)))
        self.block_n = triton.next_power_of_2(self.N)
        self.u, self.delta, self.B, self.C = (with_unit_columns(t) for t in (x.u, x.delta, x.B, x.C))
        self.z = self.u if x.z is None else with_unit_columns(x.z)  # an absent argument's pointer is never read
        self.A2 = (x.A.float().t() * math.log2(math.e)).contiguous()
        self.skip, self.bias = (self.A2 if t is None else t.float().contiguous() for t in (x.D, x.bias))
        self.position = positions(bounds, x.u.device)
        self.flags: dict[str, Any] = {"HAS_BIAS": x.bias is not None, "SOFTPLUS": softplus}
        self.out_flags: dict[str, Any] = {"HAS_SKIP": x.D is not None, "HAS_Z": x.z is not None, **self.flags}
        self.totals = x.u.new_empty((self.num_chunks, self.D), dtype=torch.float32)
        self.boundaries = x.u.new_empty(self.num_chunks, dtype=torch.float32)

    def pass_states(self, states: Tensor, reverse: bool) -> None:
        """Turn chunks' own states into incoming ones, in place."""
        num = self.N * self.D
        pass_states_kernel[(triton.cdiv(num, PASS_BLOCK),)](
            states, self.totals, self.boundaries, self.A2, self.num_chunks, self.D, num,
            BLOCK=PASS_BLOCK, LOADED=GROUP, REVERSE=reverse, num_warps=1,
        )  # fmt: skip


def triton_scan_forward(x: ScanInputs, softplus: bool, bounds: list[int]) -> tuple[Tensor, Tensor]:
    """Return y (P, D) in the dtype of u and the state that comes into each chunk, float32 (C, N, D)."""
    at = ScanLayout(x, softplus, bounds)
    y = x.u.new_empty(x.u.shape)
    states = x.u.new_empty((at.num_chunks, at.N, at.D), dtype=torch.float32)
    if y.numel() == 0:
        return y, states
    grid = (at.num_chunks, triton.cdiv(at.D, at.block_d))
    sizes = {"BLOCK_D": at.block_d, "BLOCK_N": at.block_n, "num_warps": 1}
    chunk_states_kernel[grid](
        at.u, at.delta, at.B, at.position, at.A2, at.bias, states, at.totals, at.boundaries,
        at.P, at.D, at.N, at.chunk, at.u.stride(0), at.delta.stride(0), at.B.stride(0), **sizes, **at.flags,
    )  # fmt: skip
    at.pass_states(states, reverse=False)
    outputs_kernel[grid](
        at.u, at.delta, at.B, at.C, at.z, at.position, at.A2, at.skip, at.bias, states, y,
        at.P, at.D, at.N, at.chunk, at.u.stride(0), at.delta.stride(0), at.B.stride(0), at.C.stride(0), at.z.stride(0),
        **sizes, **at.out_flags,
    )  # fmt: skip
    return y, states


def chunk_length(num_tokens: int, num_channels: int) -> int:
    """Return tokens a chunk, a power of two: from 32 (1 KiB saved a token) to 64 (backward's scratch)."""
    wanted = num_tokens * triton.cdiv(num_channels, MAX_BLOCK_D) / _WARPS_WANTED
    return min(64, max(32, triton.next_power_of_2(math.ceil(wanted))))


def with_unit_columns(x: Tensor) -> Tensor:
    """Return x itself where its columns lie side by side, as in a slice of a projection, else a contiguous copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
