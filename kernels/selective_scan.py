"""Packed Mamba-1 selective scan: one public function, its hand-written backward, and the literal loop, its oracle.

Belongs here: the recurrence of Gu and Dao, "Mamba" (arXiv 2312.00752, equation 2 with the zero-order hold of A and the
Euler step of B), on tensors. Does not belong: projections and convolutions around it (mice_model/mamba.py), bags,
cases, files.

Shape legend: P packed tokens of all sequences, D channels, N states of a channel, T tokens of a block, S sequences.

How it runs: blocks of T tokens are handled one after the other. Everything but the recurrence is vectorised over a
block held in the cache as (T, N, D), D innermost because every broadcast is then along whole rows; the recurrence is
one fused multiply-add of (N, D) a token. Backward recomputes each block from its saved first state, so nothing of size
(P, D, N) outlives a block.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.causal_conv1d import check_cu_seqlens

# Elements of a (T, N, D) block. 2**18 float32 is 1 MiB: best of 2**16..2**20 on a 1 MiB-L2 core, forward and backward;
# flat +-10 %.
_BLOCK_ELEMENTS = 2**18
# A shorter block would save more than 1 KiB a token (N * D * 4 / T bytes) at the paper's N * D = 8192.
_MIN_BLOCK_TOKENS = 32


def selective_scan(
    u_PD: Tensor,
    delta_PD: Tensor,
    A_DN: Tensor,
    B_PN: Tensor,
    C_PN: Tensor,
    *,
    D_D: Tensor | None = None,
    z_PD: Tensor | None = None,
    delta_bias_D: Tensor | None = None,
    delta_softplus: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Return y (P, D) of the selective scan over packed sequences; the state is zero before the first token of each.

    dt = softplus(delta + delta_bias) (softplus optional); h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t; y_t = <C_t, h_t> +
    D u_t, times silu(z_t) if z is given. `cu_seqlens` (S + 1,) integer, from 0 to P, never decreasing; None is one
    sequence. The state is float32 (float64 for float64 inputs); y has the dtype of u. Differentiable once, in every
    tensor argument.
    """
    inputs = _Inputs(u_PD, delta_PD, A_DN, B_PN, C_PN, D_D, z_PD, delta_bias_D)
    bounds = _check(inputs, cu_seqlens)
    starts = [start for start, end in pairwise(bounds) if end > start]
    out: Tensor = _SelectiveScan.apply(delta_softplus, starts, *inputs)
    return out


def selective_scan_reference(
    u_PD: Tensor,
    delta_PD: Tensor,
    A_DN: Tensor,
    B_PN: Tensor,
    C_PN: Tensor,
    *,
    D_D: Tensor | None = None,
    z_PD: Tensor | None = None,
    delta_bias_D: Tensor | None = None,
    delta_softplus: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Return what `selective_scan` returns, by the literal loop over sequences and tokens: the oracle."""
    bounds = _check(_Inputs(u_PD, delta_PD, A_DN, B_PN, C_PN, D_D, z_PD, delta_bias_D), cu_seqlens)
    dtype = _state_dtype(u_PD)
    A, rows = A_DN.to(dtype), []
    for start, end in pairwise(bounds):
        h_DN = torch.zeros_like(A)
        for t in range(start, end):
            u, dt = u_PD[t].to(dtype), delta_PD[t].to(dtype)
            if delta_bias_D is not None:
                dt = dt + delta_bias_D.to(dtype)
            if delta_softplus:
                dt = F.softplus(dt)
            h_DN = torch.exp(dt[:, None] * A) * h_DN + (dt * u)[:, None] * B_PN[t].to(dtype)
            y = (h_DN * C_PN[t].to(dtype)).sum(1)
            if D_D is not None:
                y = y + D_D.to(dtype) * u
            if z_PD is not None:
                y = y * F.silu(z_PD[t].to(dtype))
            rows.append(y.to(u_PD.dtype))
    return torch.stack(rows) if rows else torch.zeros_like(u_PD)


class _Inputs(NamedTuple):
    """The tensor arguments of one call; no suffixes, since both passes also hold copies in the state's dtype."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    bias: Tensor | None


def _state_dtype(u: Tensor) -> torch.dtype:
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def _check(x: _Inputs, cu_seqlens: Tensor | None) -> list[int]:
    """Return the boundaries of the sequences; ValueError on the first argument that does not fit."""
    if x.u.dim() != 2 or not x.u.is_floating_point():
        raise ValueError(f"u_PD: {x.u.dtype} {tuple(x.u.shape)}, expected a floating tensor of shape (P, D)")
    if x.A.dim() != 2:
        raise ValueError(f"A_DN: shape {tuple(x.A.shape)}, expected (D, N)")
    (P, D), N = x.u.shape, x.A.shape[1]
    wanted = {"delta_PD": (x.delta, (P, D)), "B_PN": (x.B, (P, N)), "C_PN": (x.C, (P, N)), "z_PD": (x.z, (P, D))}
    # Parameters may stay in the state's dtype while tokens are bfloat16, as under autocast.
    parameters = {"A_DN": (x.A, (D, N)), "D_D": (x.D, (D,)), "delta_bias_D": (x.bias, (D,))}
    for name, (tensor, shape) in (wanted | parameters).items():
        if tensor is None:
            continue
        dtypes = {x.u.dtype, _state_dtype(x.u)} if name in parameters else {x.u.dtype}
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape} to fit u_PD {(P, D)} and N = {N}")
        if tensor.dtype not in dtypes:
            raise ValueError(f"{name}: {tensor.dtype}, expected {' or '.join(sorted(map(str, dtypes)))} to fit u_PD")
        if tensor.device != x.u.device:
            raise ValueError(f"{name}: on {tensor.device}, expected {x.u.device}, where u_PD is")
    return [0, P] if cu_seqlens is None else check_cu_seqlens(cu_seqlens, P)


class _Blocks:
    """What both passes share: inputs in the state's dtype, and the states of one block at a time in reused buffers."""

    def __init__(self, x: _Inputs, softplus: bool) -> None:
        self.dtype = _state_dtype(x.u)
        self.u, self.B, self.C = x.u.to(self.dtype), x.B.to(self.dtype), x.C.to(self.dtype)
        raw = x.delta.to(self.dtype)
        self.raw_dt = raw if x.bias is None else raw + x.bias.to(self.dtype)
        self.dt = F.softplus(self.raw_dt) if softplus else self.raw_dt
        self.dtu = self.dt * self.u
        self.A_ND = x.A.to(self.dtype).t().contiguous()
        P, (N, D) = x.u.shape[0], self.A_ND.shape
        self.T = min(max(P, 1), max(_MIN_BLOCK_TOKENS, _BLOCK_ELEMENTS // max(N * D, 1)))
        self.spans = [(s, min(s + self.T, P)) for s in range(0, P, self.T)]
        self._a, self._h = (self.u.new_empty(self.T, N, D) for _ in range(2))

    def states(self, start: int, end: int, h_ND: Tensor, starts: list[int]) -> tuple[Tensor, Tensor]:
        """Return decays and states (T, N, D) of tokens start..end, given the state before them."""
        a, h = self._a[: end - start], self._h[: end - start]
        torch.mul(self.dt[start:end, None, :], self.A_ND, out=a)
        a.exp_()
        for first in starts:  # a decay of zero is the boundary: no state passes it, and no gradient
            a[first - start].zero_()
        torch.mul(self.dtu[start:end, None, :], self.B[start:end, :, None], out=h)
        for a_ND, input_ND in zip(a.unbind(0), h.unbind(0), strict=True):
            h_ND = input_ND.addcmul_(a_ND, h_ND)
        return a, h


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, softplus: bool, starts: list[int], *tensors: Tensor | None) -> Tensor:
        x = _Inputs._make(tensors)
        blocks = _Blocks(x, softplus)
        y = torch.empty_like(blocks.u)
        first_states = blocks.u.new_zeros(len(blocks.spans) + 1, *blocks.A_ND.shape)
        for i, (s, e) in enumerate(blocks.spans):
            _, h = blocks.states(s, e, first_states[i], [t for t in starts if s <= t < e])
            torch.bmm(blocks.C[s:e, None, :], h, out=y[s:e, None, :])
            first_states[i + 1].copy_(h[-1])
        if x.D is not None:
            y.addcmul_(blocks.u, x.D.to(blocks.dtype))
        if x.z is not None:
            y.mul_(F.silu(x.z.to(blocks.dtype)))
        ctx.save_for_backward(*x, first_states)
        ctx.softplus, ctx.starts = softplus, starts
        return y.to(x.u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, first_states = ctx.saved_tensors
        x = _Inputs._make(tensors)
        blocks = _Blocks(x, ctx.softplus)
        dy = grad_y.to(blocks.dtype)
        ungated = None if x.z is None else torch.empty_like(blocks.u)  # y before the gate, which dz needs
        dz = None
        if x.z is not None:
            z = x.z.to(blocks.dtype)
            gate = torch.sigmoid(z)
            dz = dy * gate * (1 + z * (1 - gate))
            dy = dy * (z * gate)
        d_dtu, d_dt = torch.empty_like(blocks.u), torch.empty_like(blocks.u)
        dB, dC = torch.empty_like(blocks.B), torch.empty_like(blocks.C)
        dA_ND = torch.zeros_like(blocks.A_ND)
        from_later_ND = torch.zeros_like(blocks.A_ND)
        g_buffer = blocks.u.new_empty(blocks.T, *blocks.A_ND.shape)
        for i, (s, e) in reversed(list(enumerate(blocks.spans))):
            a, h = blocks.states(s, e, first_states[i], [t for t in ctx.starts if s <= t < e])
            if ungated is not None:
                torch.bmm(blocks.C[s:e, None, :], h, out=ungated[s:e, None, :])
            torch.bmm(h, dy[s:e, :, None], out=dC[s:e, :, None])
            g = g_buffer[: e - s]  # the gradient of the states
            torch.mul(blocks.C[s:e, :, None], dy[s:e, None, :], out=g)
            for a_next_ND, g_ND, g_next_ND in _reverse_steps(a, g, from_later_ND):
                g_ND.addcmul_(a_next_ND, g_next_ND)
            from_later_ND.copy_(a[0]).mul_(g[0])
            torch.bmm(g, blocks.dtu[s:e, :, None], out=dB[s:e, :, None])
            torch.bmm(blocks.B[s:e, None, :], g, out=d_dtu[s:e, None, :])
            g.mul_(a)  # from here g is the gradient of the exponent dt * A
            g[0].mul_(first_states[i])
            g[1:].mul_(h[:-1])
            torch.sum(torch.mul(g, blocks.A_ND, out=a), dim=1, out=d_dt[s:e])
            dA_ND += torch.mul(g, blocks.dt[s:e, None, :], out=a).sum(0)
        d_dt.addcmul_(d_dtu, blocks.u)
        du = d_dtu.mul_(blocks.dt)
        dD = None
        if x.D is not None:
            D = x.D.to(blocks.dtype)
            dD = (dy * blocks.u).sum(0)
            du.addcmul_(dy, D)
            if ungated is not None:
                ungated.addcmul_(blocks.u, D)
        if ctx.softplus:
            d_dt.mul_(torch.sigmoid(blocks.raw_dt))
        dz = None if dz is None or ungated is None else dz.mul_(ungated)
        dbias = None if x.bias is None else d_dt.sum(0)
        grads = (du, d_dt, dA_ND.t(), dB, dC, dD, dz, dbias)
        return None, None, *(None if g is None or t is None else g.to(t.dtype) for g, t in zip(grads, x, strict=True))


def _reverse_steps(a: Tensor, g: Tensor, from_later_ND: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (decay after t, gradient at t, gradient at t + 1) from the last token of the block to the first."""
    decays, grads = a.unbind(0), g.unbind(0)
    grads[-1].add_(from_later_ND)
    return zip(decays[:0:-1], grads[-2::-1], grads[:0:-1], strict=True)
