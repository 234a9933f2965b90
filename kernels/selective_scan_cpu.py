"""The selective scan in plain PyTorch: what runs on a CPU, and on any device where Triton is not to be had.

Belongs here: both passes, written by hand. Does not belong: checks and registration (selective_scan.py).

Blocks of T tokens are handled one after the other. Everything but the recurrence is vectorised over a block held in the cache as
(T, N, D), D innermost because every broadcast is then along whole rows; the recurrence is one fused multiply-add of (N, D) a
token. Backward recomputes each block from its saved first state, so nothing of size (P, D, N) outlives a block.

Shape legend: P packed tokens of all sequences, D channels, N states of a channel, T tokens of a block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a (T, N, D) block. 2**18 float32 is 1 MiB: best of 2**16..2**20 on a 1 MiB-L2 core, forward and backward;
# flat +-10 %.
_BLOCK_ELEMENTS = 2**18
# A block of 32 tokens would save just above 1 KiB a token (N * D * 4 / T bytes) at the paper's N * D = 8192, once rounded up.
_MIN_BLOCK_TOKENS = 40


class ScanInputs(NamedTuple):
    """The tensor arguments of one call; no suffixes, since both passes also hold copies in the state's dtype."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    bias: Tensor | None


def state_dtype(u: Tensor) -> torch.dtype:
    """Return the dtype of states and sums: float64 for float64 tokens, else float32."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


class _Blocks:
    """What both passes share: inputs in the state's dtype, and the states of one block at a time in reused buffers."""

    def __init__(self, x: ScanInputs, softplus: bool) -> None:
        self.dtype = state_dtype(x.u)
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


def scan_forward(x: ScanInputs, softplus: bool, starts: list[int]) -> tuple[Tensor, Tensor]:
    """Return y (P, D) in the dtype of u and the state before each block (blocks, N, D); sequences begin at `starts`."""
    blocks = _Blocks(x, softplus)
    y = blocks.u.new_empty(blocks.u.shape)
    first_states = blocks.u.new_zeros(len(blocks.spans), *blocks.A_ND.shape)
    for i, (s, e) in enumerate(blocks.spans):
        _, h = blocks.states(s, e, first_states[i], [t for t in starts if s <= t < e])
        torch.bmm(blocks.C[s:e, None, :], h, out=y[s:e, None, :])
        if e < len(y):
            first_states[i + 1].copy_(h[-1])
    if x.D is not None:
        y.addcmul_(blocks.u, x.D.to(blocks.dtype))
    if x.z is not None:
        y.mul_(F.silu(x.z.to(blocks.dtype)))
    return y.to(x.u.dtype), first_states


def scan_backward(dy: Tensor, x: ScanInputs, first_states: Tensor, softplus: bool, starts: list[int]) -> list[Tensor]:
    """Return the gradients of those of u, delta, A, B, C, D, z, bias that were given, in their order and dtypes."""
    blocks = _Blocks(x, softplus)
    dy = dy.to(blocks.dtype)
    ungated = None if x.z is None else blocks.u.new_empty(blocks.u.shape)  # y before the gate, which dz needs
    dz = None
    if x.z is not None:
        z = x.z.to(blocks.dtype)
        gate = torch.sigmoid(z)
        dz = dy * gate * (1 + z * (1 - gate))
        dy = dy * (z * gate)
    d_dtu, d_dt = (blocks.u.new_empty(blocks.u.shape) for _ in range(2))
    dB, dC = (blocks.B.new_empty(blocks.B.shape) for _ in range(2))
    dA_ND = torch.zeros_like(blocks.A_ND)
    from_later_ND = torch.zeros_like(blocks.A_ND)
    g_buffer = blocks.u.new_empty(blocks.T, *blocks.A_ND.shape)
    for i, (s, e) in reversed(list(enumerate(blocks.spans))):
        a, h = blocks.states(s, e, first_states[i], [t for t in starts if s <= t < e])
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
    if softplus:
        d_dt.mul_(torch.sigmoid(blocks.raw_dt))
    dz = None if dz is None or ungated is None else dz.mul_(ungated)
    dbias = None if x.bias is None else d_dt.sum(0)
    grads = (du, d_dt, dA_ND.t().contiguous(), dB, dC, dD, dz, dbias)
    return [g.to(t.dtype) for g, t in zip(grads, x, strict=True) if g is not None and t is not None]


def _reverse_steps(a: Tensor, g: Tensor, from_later_ND: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (decay after t, gradient at t, gradient at t + 1) from the last token of the block to the first."""
    decays, grads = a.unbind(0), g.unbind(0)
    grads[-1].add_(from_later_ND)
    return zip(decays[:0:-1], grads[-2::-1], grads[:0:-1], strict=True)
