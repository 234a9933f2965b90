"""Packed Mamba-1 selective scan: the public function, the operator that PyTorch knows, and the literal loop, its oracle.

Belongs here: the recurrence of Gu and Dao, "Mamba" (arXiv 2312.00752, equation 2 with the zero-order hold of A and the Euler step
of B): its meaning, its checks, its registration. Does not belong: how it is computed (selective_scan_cpu.py,
selective_scan_triton.py, selective_scan_mamba_ssm.py), projections and convolutions around it (mice_model/mamba.py).

Shape legend: P packed tokens of all sequences, D channels, N states of a channel, S sequences.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.backend import Backend, choose
from kernels.packing import KernelInputError, check_cu_seqlens, check_tensor
from kernels.selective_scan_cpu import ScanInputs, scan_backward, scan_forward, state_dtype


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
    backend: Backend = "auto",
) -> Tensor:
    """Return y (P, D) of the selective scan over packed sequences; the state is zero before the first token of each.

    dt = softplus(delta + delta_bias) (softplus optional); h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t; y_t = <C_t, h_t> + D u_t,
    times silu(z_t) if z is given. `cu_seqlens` (S + 1,) integer, from 0 to P, never decreasing; None is one sequence; in host
    memory it costs no wait. The state is float32 (float64 for float64 inputs); y has the dtype of u. Differentiable once, in
    every tensor argument. KernelInputError names an argument that does not fit, KernelBackendError a backend that cannot be had.
    """
    arguments = (u_PD, delta_PD, A_DN, B_PN, C_PN, D_D, z_PD, delta_bias_D)
    if backend == "mamba_ssm":
        from kernels.selective_scan_mamba_ssm import mamba_ssm_scan  # noqa: PLC0415

        choose("selective_scan", backend, u_PD)
        x = ScanInputs(*arguments)
        return mamba_ssm_scan(x, delta_softplus, _check(x, cu_seqlens))
    y: Tensor = torch.ops.mice.selective_scan(*arguments, cu_seqlens, delta_softplus, backend)[0]
    return y


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
    bounds = _check(ScanInputs(u_PD, delta_PD, A_DN, B_PN, C_PN, D_D, z_PD, delta_bias_D), cu_seqlens)
    dtype = state_dtype(u_PD)
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


def _check(x: ScanInputs, cu_seqlens: Tensor | None) -> list[int]:
    """Return the boundaries of the sequences; KernelInputError on the first argument that does not fit."""
    if x.u.dim() != 2 or not x.u.is_floating_point():
        found = f"{x.u.dtype} {tuple(x.u.shape)}"
        raise KernelInputError(f"u_PD: {found}, expected a floating tensor of shape (P, D). Pack the tokens of all sequences.")
    if x.A.dim() != 2:
        raise KernelInputError(f"A_DN: shape {tuple(x.A.shape)}, expected (D, N). Give each channel its states.")
    (P, D), N = x.u.shape, x.A.shape[1]
    wanted = {"delta_PD": (x.delta, (P, D)), "B_PN": (x.B, (P, N)), "C_PN": (x.C, (P, N)), "z_PD": (x.z, (P, D))}
    # Parameters may stay in the state's dtype while tokens are bfloat16, as under autocast.
    parameters = {"A_DN": (x.A, (D, N)), "D_D": (x.D, (D,)), "delta_bias_D": (x.bias, (D,))}
    for name, (tensor, shape) in (wanted | parameters).items():
        if tensor is not None:
            dtypes = {x.u.dtype, state_dtype(x.u)} if name in parameters else {x.u.dtype}
            check_tensor(name, tensor, shape, dtypes, x.u)
    return check_cu_seqlens(cu_seqlens, P)


@torch.library.custom_op("mice::selective_scan", mutates_args=())
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    cu_seqlens: Tensor | None,
    softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return y (P, D) and the states before each block of tokens (blocks, N, D), which backward starts from."""
    x = ScanInputs(u, delta, A, B, C, D, z, bias)
    bounds = _check(x, cu_seqlens)
    if choose("selective_scan", backend, u) == "triton":
        from kernels.selective_scan_triton import triton_scan_forward  # noqa: PLC0415

        return triton_scan_forward(x, softplus, bounds)
    return scan_forward(x, softplus, [start for start, end in pairwise(bounds) if end > start])


@torch.library.custom_op("mice::selective_scan_backward", mutates_args=())
def _backward(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    cu_seqlens: Tensor | None,
    states: Tensor,
    softplus: bool,
    backend: str,
) -> list[Tensor]:
    """Return the gradients of those of u, delta, A, B, C, D, z, bias that were given."""
    x = ScanInputs(u, delta, A, B, C, D, z, bias)
    bounds = check_cu_seqlens(cu_seqlens, u.shape[0])
    if choose("selective_scan", backend, u) == "triton":
        from kernels.selective_scan_triton_backward import triton_scan_backward  # noqa: PLC0415

        return triton_scan_backward(dy, x, states, softplus, bounds)
    return scan_backward(dy, x, states, softplus, [start for start, end in pairwise(bounds) if end > start])


@_forward.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    num_blocks = torch.library.get_ctx().new_dynamic_size()
    return u.new_empty(u.shape), u.new_empty((num_blocks, A.shape[1], A.shape[0]), dtype=state_dtype(u))


@_backward.register_fake
def _(dy: Tensor, *rest: Any) -> list[Tensor]:  # noqa: ARG001
    return [t.new_empty(t.shape) for t in rest[:8] if t is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:9], output[1])
    ctx.softplus, ctx.backend = inputs[9:]
    ctx.set_materialize_grads(False)


def _grad(ctx: Any, dy: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 11
    *inputs, cu_seqlens, states = ctx.saved_tensors
    grads = iter(torch.ops.mice.selective_scan_backward(dy, *inputs, cu_seqlens, states, ctx.softplus, ctx.backend))
    return *(None if t is None else next(grads) for t in inputs), None, None, None


_forward.register_autograd(_grad, setup_context=_setup_context)


def _under_autocast(device_type: str) -> Any:
    """Return the operator's autocast rule: tokens take autocast's dtype, parameters stay, so steps keep their precision."""

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, *rest: Any) -> tuple[Tensor, Tensor]:
        dtype = u.dtype if u.dtype == torch.float64 else torch.get_autocast_dtype(device_type)
        z = None if z is None else z.to(dtype)
        u, delta, B, C = (t.to(dtype) for t in (u, delta, B, C))
        with torch.autocast(device_type, enabled=False):
            y_and_states: tuple[Tensor, Tensor] = torch.ops.mice.selective_scan(u, delta, A, B, C, D, z, *rest)
        return y_and_states

    return run


_library = torch.library.Library("mice", "FRAGMENT")
_library.impl("selective_scan", _under_autocast("cpu"), "AutocastCPU")
_library.impl("selective_scan", _under_autocast("cuda"), "AutocastCUDA")
