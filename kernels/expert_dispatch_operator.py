"""Expert dispatch as one operator that PyTorch knows: what a GPU runs, and what torch.compile keeps whole on any device.

Belongs here: registration. Does not belong: the meaning and the checks (expert_dispatch.py), the arithmetic. Parameters come as
one flat list, the same number for every expert; their gradients go back as one vector, cut into views. On the plain-PyTorch path
backward computes forward again (torch.func.vjp): in eager mode that path is not taken, see expert_dispatch.py.

Shape legend: B cases, T tokens, D width, E experts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.backend import choose
from kernels.expert_layers import dispatch_pairs, unflatten


def _plain(tokens: Tensor, params: Sequence[Tensor], weights: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    experts = unflatten([p.to(tokens.dtype) for p in params], weights.shape[1])
    return dispatch_pairs(tokens, experts, weights, mask, num_heads)


@torch.library.custom_op("mice::expert_dispatch", mutates_args=())
def _forward(
    tokens: Tensor, params: list[Tensor], weights: Tensor, mask: Tensor, num_heads: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Return (B, D) and what backward needs: one float32 vector, empty on the plain path."""
    if choose("expert_dispatch", backend, tokens) == "triton":
        from kernels.expert_dispatch_triton import triton_dispatch_forward  # noqa: PLC0415

        return triton_dispatch_forward(tokens, params, weights, mask, num_heads)
    return _plain(tokens, params, weights, mask, num_heads), tokens.new_empty(0, dtype=torch.float32)


@torch.library.custom_op("mice::expert_dispatch_backward", mutates_args=())
def _backward(
    grad: Tensor,
    tokens: Tensor,
    params: list[Tensor],
    weights: Tensor,
    mask: Tensor,
    saved: Tensor,
    num_heads: int,
    backend: str,
) -> list[Tensor]:
    """Return the gradients of tokens and of weights, and those of all parameters as one vector."""
    if choose("expert_dispatch", backend, tokens) == "triton":
        from kernels.expert_dispatch_triton_backward import triton_dispatch_backward  # noqa: PLC0415

        return triton_dispatch_backward(grad, tokens, params, weights, saved, num_heads)

    def of(t: Tensor, w: Tensor, *p: Tensor) -> Tensor:
        return _plain(t, p, w, mask, num_heads)

    pull = torch.func.vjp(of, tokens, weights, *params)[1]
    dtokens, dweights, *dparams = pull(grad)
    flat = torch.cat([g.flatten() for g in dparams]) if dparams else tokens.new_empty(0)
    return [dtokens.contiguous(), dweights.contiguous(), flat.to(_flat_dtype(params))]


def _flat_dtype(params: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if params and params[0].dtype == torch.float64 else torch.float32


@_forward.register_fake
def _(tokens: Tensor, params: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    size = torch.library.get_ctx().new_dynamic_size()
    return tokens.new_empty((tokens.shape[0], tokens.shape[2])), tokens.new_empty(size, dtype=torch.float32)


@_backward.register_fake
def _(grad: Tensor, tokens: Tensor, params: list[Tensor], weights: Tensor, *_: Any) -> list[Tensor]:  # noqa: ARG001
    flat = tokens.new_empty(sum(p.numel() for p in params), dtype=_flat_dtype(params))
    return [tokens.new_empty(tokens.shape), weights.new_empty(weights.shape), flat]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tokens, params, weights, mask, ctx.num_heads, ctx.backend = inputs
    ctx.save_for_backward(tokens, weights, mask, output[1], *params)
    ctx.set_materialize_grads(False)


def _grad(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    tokens, weights, mask, saved, *params = ctx.saved_tensors
    if grad is None:
        return None, [None] * len(params), None, None, None, None
    dtokens, dweights, flat = torch.ops.mice.expert_dispatch_backward(
        grad, tokens, params, weights, mask, saved, ctx.num_heads, ctx.backend
    )
    parts = flat.split([p.numel() for p in params])
    dparams = [part.view(p.shape).to(p.dtype) for part, p in zip(parts, params, strict=True)]
    return dtokens, dparams, dweights, None, None, None


_forward.register_autograd(_grad, setup_context=_setup_context)


def _under_autocast(device_type: str) -> Any:
    """Return the operator's autocast rule: tokens take autocast's dtype; parameters stay, kernels round what they multiply."""

    def run(tokens: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        if tokens.dtype != torch.float64:
            tokens = tokens.to(torch.get_autocast_dtype(device_type))
        with torch.autocast(device_type, enabled=False):
            out_and_saved: tuple[Tensor, Tensor] = torch.ops.mice.expert_dispatch(tokens, *rest)
        return out_and_saved

    return run


_library = torch.library.Library("mice", "FRAGMENT")
_library.impl("expert_dispatch", _under_autocast("cpu"), "AutocastCPU")
_library.impl("expert_dispatch", _under_autocast("cuda"), "AutocastCUDA")
