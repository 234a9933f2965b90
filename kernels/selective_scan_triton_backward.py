"""The selective scan in Triton, backward: step and gate, chunk gradients, a reverse pass over chunks, all gradients.

Belongs here: the backward kernels and their launches. Does not belong: what they share with forward (selective_scan_triton.py).

The gradient of a state runs backwards as g_t = C_t dy_t + a_{t+1} g_{t+1}. Gradients need the states too: a program walks its
chunk forwards once, keeps the state before every SUB tokens in a scratch tile of its own, then goes backwards, recomputing SUB
states at a time in registers. Programs are few and take several chunks in turn, so scratch and the partial sums of A, D and bias
stay small; sums over channels and programs are added in a fixed order: no atomics, bitwise repeatable.

Shape legend: P packed tokens, D channels, N states, C chunks, G programs of a channel block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.selective_scan_cpu import ScanInputs
from kernels.selective_scan_triton import ScanLayout, _boundary, _step

# States recomputed at a time in registers, and channels of a tile. Compiled, 4 states or 64 channels spill: 255 registers are not
# enough for the loads that the compiler moves forward.
SUB, MAX_BLOCK_D = 2, 32
# Programs in flight: 132 SMs of an H100 times about 8 warps of 200 registers.
_PROGRAMS = 1056
PREPARE_BLOCK = 512


@triton.jit
def step_and_gate_kernel(
    delta, dy, z, bias, dt, gated, P, D, delta_stride, dy_stride, z_stride,
    BLOCK: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Dt = softplus(delta + bias) and the gradient before the gate, dy silu(z), both float32 (P, D)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < P * D
    t, d = i // D, i % D
    raw = tl.load(delta + t * delta_stride + d, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias + d, mask=mask, other=0.0)
    tl.store(dt + i, _step(raw, SOFTPLUS), mask=mask)
    out = tl.load(dy + t * dy_stride + d, mask=mask, other=0.0).to(tl.float32)
    if HAS_Z:
        gate = tl.load(z + t * z_stride + d, mask=mask, other=0.0).to(tl.float32)
        out = out * gate * tl.sigmoid(gate)
    tl.store(gated + i, out, mask=mask)


@triton.jit
def chunk_gradients_kernel(
    C, position, A2, dt, gated, grads, totals, boundaries, P, D, N, chunk, C_stride,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What a chunk gives to the one before it from its own tokens (C, N, D), and its decay as forward keeps it."""
    c = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    has_d, has_n = d < D, n < N
    mask = has_n[:, None] & has_d[None, :]
    A = tl.load(A2 + n[:, None] * D + d[None, :], mask=mask, other=0.0)
    r = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_D], tl.float32)
    boundary_total = 0.0
    start, end = c * chunk, tl.minimum(c * chunk + chunk, P)
    for k in tl.range(0, end - start, num_stages=4):
        t = end - 1 - k
        row = t * D + d
        dt_D = tl.load(dt + row, mask=has_d, other=0.0)
        C_N = tl.load(C + t * C_stride + n, mask=has_n, other=0.0).to(tl.float32)
        boundary = _boundary(position, t)
        r = tl.exp2(dt_D[None, :] * A + boundary) * (r + C_N[:, None] * tl.load(gated + row, mask=has_d, other=0.0)[None, :])
        total += dt_D
        boundary_total += boundary
    tl.store(grads + c * N * D + n[:, None] * D + d[None, :], r, mask=mask)
    tl.store(totals + c * D + d, total, mask=has_d)
    if tl.program_id(1) == 0:
        tl.store(boundaries + c, boundary_total)


@triton.jit
def gradients_kernel(
    u, delta, B, C, z, dy, position, A2, skip, bias, dt, gated, states, grads, scratch,
    du, ddelta, dz, dB, dC, dA, dskip, dbias,
    P, D, N, num_chunks, chunk, u_stride, delta_stride, B_stride, C_stride, z_stride, dy_stride,
    STATES: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """All gradients: of tokens (P, D); of B and C for this block of channels (blocks, P, N); of parameters for this program."""
    g, block = tl.program_id(0), tl.program_id(1)
    num_programs = tl.num_programs(0)
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    has_d, has_n = d < D, n < N
    mask = has_n[:, None] & has_d[None, :]
    tile = n[:, None] * D + d[None, :]
    A = tl.load(A2 + tile, mask=mask, other=0.0)
    shift = tl.load(bias + d, mask=has_d, other=0.0) if HAS_BIAS else tl.zeros([BLOCK_D], tl.float32)
    skipped = tl.load(skip + d, mask=has_d, other=0.0) if HAS_SKIP else tl.zeros([BLOCK_D], tl.float32)
    dA_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dskip_D = tl.zeros([BLOCK_D], tl.float32)
    dbias_D = tl.zeros([BLOCK_D], tl.float32)
    own = (g * tl.num_programs(1) + block) * (chunk // STATES) * BLOCK_N * BLOCK_D
    slot = scratch + own + n[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    for c in range(g, num_chunks, num_programs):
        h = tl.load(states + c * N * D + tile, mask=mask, other=0.0)
        r = tl.load(grads + c * N * D + tile, mask=mask, other=0.0)  # a_t g_t of the token after the chunk
        for s in range(chunk // STATES):
            tl.store(slot + s * BLOCK_N * BLOCK_D, h)
            for j in tl.static_range(STATES):
                t = c * chunk + s * STATES + j
                is_token = t < P
                dt_D = tl.load(dt + t * D + d, mask=has_d & is_token, other=0.0)
                dtu = dt_D * tl.load(u + t * u_stride + d, mask=has_d & is_token, other=0.0).to(tl.float32)
                B_N = tl.load(B + t * B_stride + n, mask=has_n & is_token, other=0.0).to(tl.float32)
                starts = tl.load(position + t, mask=is_token, other=1) == 0
                h = tl.exp2(dt_D[None, :] * A + tl.where(starts, float("-inf"), 0.0)) * h + dtu[None, :] * B_N[:, None]
        tl.debug_barrier()
        for back in range(chunk // STATES):
            s = chunk // STATES - 1 - back
            h = tl.load(slot + s * BLOCK_N * BLOCK_D)
            kept = ()  # the states after each token; the one before them is read again when it is needed
            for j in tl.static_range(STATES):
                t = c * chunk + s * STATES + j
                is_token = t < P
                dt_D = tl.load(dt + t * D + d, mask=has_d & is_token, other=0.0)
                dtu = dt_D * tl.load(u + t * u_stride + d, mask=has_d & is_token, other=0.0).to(tl.float32)
                B_N = tl.load(B + t * B_stride + n, mask=has_n & is_token, other=0.0).to(tl.float32)
                starts = tl.load(position + t, mask=is_token, other=1) == 0
                h = tl.exp2(dt_D[None, :] * A + tl.where(starts, float("-inf"), 0.0)) * h + dtu[None, :] * B_N[:, None]
                kept = kept + (h,)  # noqa: RUF005 (Triton has no unpacking)
            for i in tl.static_range(STATES):
                t = c * chunk + s * STATES + STATES - 1 - i
                is_token = t < P
                here = has_d & is_token
                h = kept[STATES - 1 - i]
                before = kept[STATES - 2 - i] if i + 1 < STATES else tl.load(slot + s * BLOCK_N * BLOCK_D)
                dt_D = tl.load(dt + t * D + d, mask=here, other=0.0)
                u_D = tl.load(u + t * u_stride + d, mask=here, other=0.0).to(tl.float32)
                gated_D = tl.load(gated + t * D + d, mask=here, other=0.0)
                B_N = tl.load(B + t * B_stride + n, mask=has_n & is_token, other=0.0).to(tl.float32)
                C_N = tl.load(C + t * C_stride + n, mask=has_n & is_token, other=0.0).to(tl.float32)
                starts = tl.load(position + t, mask=is_token, other=1) == 0
                if HAS_Z:
                    z_D = tl.load(z + t * z_stride + d, mask=here, other=0.0).to(tl.float32)
                    dy_D = tl.load(dy + t * dy_stride + d, mask=here, other=0.0).to(tl.float32)
                    gate = tl.sigmoid(z_D)
                    ungated = tl.sum(h * C_N[:, None], axis=0) + skipped * u_D
                    out = dy_D * ungated * gate * (1.0 + z_D * (1.0 - gate))
                    tl.store(dz + t * D + d, out.to(dz.dtype.element_ty), mask=here)
                token = (block * P + t) * N + n
                tl.store(dC + token, tl.sum(h * gated_D[None, :], axis=1), mask=has_n & is_token)
                grad = C_N[:, None] * gated_D[None, :] + r
                tl.store(dB + token, tl.sum(grad * (dt_D * u_D)[None, :], axis=1), mask=has_n & is_token)
                ddtu = tl.sum(grad * B_N[:, None], axis=0)
                r = tl.exp2(dt_D[None, :] * A + tl.where(starts, float("-inf"), 0.0)) * grad
                exponent = r * before  # the gradient of dt A; A is in units of log2 e, hence ln 2 below
                dA_tile += exponent * dt_D[None, :]
                draw = ddtu * u_D + 0.6931471805599453 * tl.sum(exponent * A, axis=0)
                if SOFTPLUS:
                    raw = tl.load(delta + t * delta_stride + d, mask=here, other=0.0).to(tl.float32) + shift
                    draw = draw * tl.sigmoid(raw)
                dskip_D += gated_D * u_D
                dbias_D += tl.where(is_token, draw, 0.0)
                tl.store(ddelta + t * D + d, draw.to(ddelta.dtype.element_ty), mask=here)
                tl.store(du + t * D + d, (ddtu * dt_D + skipped * gated_D).to(du.dtype.element_ty), mask=here)
        tl.debug_barrier()
    tl.store(dA + g * N * D + tile, dA_tile, mask=mask)
    tl.store(dskip + g * D + d, dskip_D, mask=has_d)
    tl.store(dbias + g * D + d, dbias_D, mask=has_d)


def triton_scan_backward(dy: Tensor, x: ScanInputs, states: Tensor, softplus: bool, bounds: list[int]) -> list[Tensor]:
    """Return the gradients of those of u, delta, A, B, C, D, z, bias that were given, in their order and dtypes."""
    at = ScanLayout(x, softplus, bounds)
    if x.u.numel() == 0:
        return [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in x if t is not None]
    dy = dy if dy.stride(-1) == 1 and dy.stride(0) > 0 else dy.contiguous()
    single = torch.float32
    dt, gated = (x.u.new_empty(x.u.shape, dtype=single) for _ in range(2))
    step_and_gate_kernel[(triton.cdiv(at.P * at.D, PREPARE_BLOCK),)](
        at.delta, dy, at.z, at.bias, dt, gated, at.P, at.D, at.delta.stride(0), dy.stride(0), at.z.stride(0),
        BLOCK=PREPARE_BLOCK, HAS_Z=x.z is not None, **at.flags, num_warps=4,
    )  # fmt: skip
    grads = torch.empty_like(states)
    chunk_gradients_kernel[(at.num_chunks, triton.cdiv(at.D, at.block_d))](
        at.C, at.position, at.A2, dt, gated, grads, at.totals, at.boundaries, at.P, at.D, at.N, at.chunk, at.C.stride(0),
        BLOCK_D=at.block_d, BLOCK_N=at.block_n, num_warps=1,
    )  # fmt: skip
    at.pass_states(grads, reverse=True)
    block_d = min(MAX_BLOCK_D, at.block_d)
    num_blocks = triton.cdiv(at.D, block_d)
    num_programs = min(at.num_chunks, triton.cdiv(_PROGRAMS, num_blocks))
    du, ddelta, dz = (x.u.new_empty(x.u.shape) for _ in range(3))
    dB, dC = (x.u.new_empty((num_blocks, at.P, at.N), dtype=single) for _ in range(2))
    dA = x.u.new_empty((num_programs, at.N, at.D), dtype=single)
    dskip, dbias = (x.u.new_empty((num_programs, at.D), dtype=single) for _ in range(2))
    scratch = x.u.new_empty(num_programs * num_blocks * (at.chunk // SUB) * at.block_n * block_d, dtype=single)
    gradients_kernel[(num_programs, num_blocks)](
        at.u, at.delta, at.B, at.C, at.z, dy, at.position, at.A2, at.skip, at.bias, dt, gated, states, grads, scratch,
        du, ddelta, dz, dB, dC, dA, dskip, dbias, at.P, at.D, at.N, at.num_chunks, at.chunk,
        at.u.stride(0), at.delta.stride(0), at.B.stride(0), at.C.stride(0), at.z.stride(0), dy.stride(0),
        STATES=SUB, BLOCK_D=block_d, BLOCK_N=at.block_n, **at.out_flags, num_warps=1, maxnreg=255,
    )  # fmt: skip
    sums = (dA.sum(0).t().contiguous(), dB.sum(0), dC.sum(0), dskip.sum(0), dz, dbias.sum(0))
    return [g.to(t.dtype) for g, t in zip((du, ddelta, *sums), x, strict=True) if t is not None]
