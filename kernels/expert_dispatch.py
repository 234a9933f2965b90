"""Small transformer experts computed only for the cases routed to them: dispatch by routing weight or by assignment.

Belongs here: the public functions, their checks, the literal loop that is their oracle. Does not belong: the arithmetic
(expert_layers.py, expert_dispatch_triton.py), who owns the parameters and how routing weights come about (mice_model/experts.py),
cancer types, cases.

Shape legend: B cases, T tokens, D width, E experts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels.expert_dispatch_operator  # noqa: F401 (registers torch.ops.mice.expert_dispatch)
from kernels.backend import Backend, KernelBackendError, choose
from kernels.expert_layers import ExpertLayer, ExpertParams, cls_output, dispatch_pairs, flatten
from kernels.packing import KernelInputError


def expert_forward(tokens_BTD: Tensor, params: ExpertParams, num_heads: int, *, backend: Backend = "auto") -> Tensor:
    """Return one expert's CLS output (B, D) for every case: CLS before the T tokens, all layers, the CLS row of the last."""
    _check(tokens_BTD, [params], num_heads)
    ones_B1 = torch.ones(tokens_BTD.shape[0], 1, device=tokens_BTD.device)
    if _is_plain(tokens_BTD, [params], backend):
        return cls_output(tokens_BTD, params, num_heads)
    return _operator(tokens_BTD, [params], ones_B1, ones_B1 > 0, num_heads, backend)


def expert_dispatch(
    tokens_BTD: Tensor,
    params: Sequence[ExpertParams],
    weights_BE: Tensor,
    num_heads: int,
    *,
    pairs: Literal["chosen", "all"] = "chosen",
    unused: Literal["none", "zero"] = "none",
    backend: Backend = "auto",
) -> Tensor:
    """Return sum_e weights[b, e] * expert_e(tokens_b) as (B, D).

    `pairs="chosen"` computes the pairs whose weight is not zero, and weights that are zero get a zero gradient; `"all"` computes
    every pair, and every weight gets its gradient. Parameters of an expert without a pair get no gradient (`unused="none"`, one
    host sync on a GPU), or zeros without a sync (`"zero"`: for CUDA graphs and torch.compile; AdamW then decays and moves them).
    KernelInputError names an argument that does not fit, KernelBackendError a backend that cannot be had.
    """
    _check(tokens_BTD, params, num_heads)
    wanted = (tokens_BTD.shape[0], len(params))
    if weights_BE.shape != wanted:
        found = tuple(weights_BE.shape)
        raise KernelInputError(
            f"weights_BE: shape {found}, expected {wanted}, one per case and expert. Check the router's width."
        )
    _check_device("weights_BE", weights_BE, tokens_BTD)
    mask_BE = torch.ones_like(weights_BE, dtype=torch.bool) if pairs == "all" else weights_BE != 0
    if _is_plain(tokens_BTD, params, backend):
        return dispatch_pairs(tokens_BTD, params, weights_BE, mask_BE, num_heads)
    if unused == "none" and not torch.compiler.is_compiling():
        used = mask_BE.any(0).nonzero().flatten().tolist()
        return _operator_of_used(tokens_BTD, params, weights_BE, mask_BE, num_heads, backend, used)
    return _operator(tokens_BTD, params, weights_BE, mask_BE, num_heads, backend)


def expert_dispatch_assigned(
    tokens_BTD: Tensor,
    params: Sequence[ExpertParams],
    expert_B: Tensor,
    weight_B: Tensor,
    num_heads: int,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Return weight[b] * expert_{expert[b]}(tokens_b) as (B, D): every case has one expert, even at weight 0.

    Experts without a case get no gradient. Reading `expert_B` waits for a GPU if it lies there; in host memory it costs nothing.
    Under torch.compile ids cannot be read: experts without a case get zeros, and a case whose id is out of range gets NaN.
    """
    _check(tokens_BTD, params, num_heads)
    for name, tensor in {"expert_B": expert_B, "weight_B": weight_B}.items():
        if tensor.shape != tokens_BTD.shape[:1]:
            found, wanted = tuple(tensor.shape), tuple(tokens_BTD.shape[:1])
            raise KernelInputError(f"{name}: shape {found}, expected {wanted}, one per case. Check the batch.")
    _check_device("weight_B", weight_B, tokens_BTD)
    mask_BE = expert_B.to(tokens_BTD.device)[:, None] == torch.arange(len(params), device=tokens_BTD.device)
    weights_BE = weight_B[:, None].expand(mask_BE.shape)
    if torch.compiler.is_compiling():
        out_BD = _operator(tokens_BTD, params, weights_BE, mask_BE, num_heads, backend)
        return torch.where(mask_BE.any(1, keepdim=True), out_BD, torch.nan)
    used = sorted(set(expert_B.tolist()))
    if used and (used[0] < 0 or used[-1] >= len(params)):
        wrong = used[0] if used[0] < 0 else used[-1]
        raise KernelInputError(f"expert_B: largest id is {wrong}, expected 0 to {len(params) - 1}. Check the cancer types.")
    if _is_plain(tokens_BTD, params, backend):
        return dispatch_pairs(tokens_BTD, params, weights_BE, mask_BE, num_heads)
    return _operator_of_used(tokens_BTD, params, weights_BE, mask_BE, num_heads, backend, used)


def expert_dispatch_reference(tokens_BTD: Tensor, params: Sequence[ExpertParams], weights_BE: Tensor, num_heads: int) -> Tensor:
    """Return what `expert_dispatch` returns, by a literal loop over cases and experts, every token of every layer."""
    rows = []
    for tokens_TD, weights_E in zip(tokens_BTD, weights_BE, strict=True):
        total_D = torch.zeros_like(tokens_TD[0])
        for p, weight in zip(params, weights_E, strict=True):
            if weight == 0:
                continue
            x_TD = torch.cat((p.cls[None], tokens_TD))
            for layer in p.layers:
                x_TD = _reference_layer(x_TD, layer, num_heads)
            cls_D = x_TD[0] if p.final_norm is None else F.layer_norm(x_TD[0], x_TD.shape[1:], *p.final_norm)
            total_D = total_D + weight * cls_D
        rows.append(total_D)
    return torch.stack(rows) if rows else tokens_BTD.new_zeros(0, tokens_BTD.shape[2])


def _reference_layer(x_TD: Tensor, layer: ExpertLayer, num_heads: int) -> Tensor:
    normed_TD = F.layer_norm(x_TD, x_TD.shape[1:], layer.norm1_weight, layer.norm1_bias)
    heads = []
    query_RD, key_RD, value_RD = layer.qkv_weight.chunk(3)
    for q, k, v in zip(query_RD.chunk(num_heads), key_RD.chunk(num_heads), value_RD.chunk(num_heads), strict=True):
        scores_TT = (normed_TD @ q.T) @ (normed_TD @ k.T).T / q.shape[0] ** 0.5
        heads.append(torch.softmax(scores_TT, dim=1) @ (normed_TD @ v.T))
    x_TD = x_TD + torch.cat(heads, dim=1) @ layer.out_weight.T + layer.out_bias
    normed_TD = F.layer_norm(x_TD, x_TD.shape[1:], layer.norm2_weight, layer.norm2_bias)
    hidden_TF = F.gelu(normed_TD @ layer.fc1_weight.T + layer.fc1_bias)
    return x_TD + hidden_TF @ layer.fc2_weight.T + layer.fc2_bias


def _operator_of_used(
    tokens: Tensor,
    params: Sequence[ExpertParams],
    weights: Tensor,
    mask: Tensor,
    num_heads: int,
    backend: str,
    used: list[int],
) -> Tensor:
    """Run the operator on the experts that have a case, so that the others are not part of the graph."""
    if not used:
        return tokens.new_zeros(tokens.shape[0], tokens.shape[2])
    return _operator(tokens, [params[e] for e in used], weights[:, used], mask[:, used], num_heads, backend)


def _operator(
    tokens: Tensor, params: Sequence[ExpertParams], weights: Tensor, mask: Tensor, num_heads: int, backend: str
) -> Tensor:
    out: Tensor = torch.ops.mice.expert_dispatch(tokens, flatten(params), weights, mask, num_heads, backend)[0]
    return out


def _is_plain(tokens: Tensor, params: Sequence[ExpertParams], backend: str) -> bool:
    """Return whether torch's own autograd runs this call: eager mode without Triton. It keeps activations, operator does not."""
    if torch.compiler.is_compiling():
        return False
    shapes = {(len(p.layers), p.final_norm is None, p.cls.dtype) for p in params}
    if len(shapes) == 1 and next(iter(shapes))[1]:
        return choose("expert_dispatch", backend, tokens) != "triton"
    if backend == "triton":
        raise KernelBackendError(
            "backend triton: experts of unequal depth or with a last LayerNorm, expected neither. Use `auto`."
        )
    return choose("expert_dispatch", "torch", tokens) != "triton"


def _check_device(name: str, tensor: Tensor, tokens: Tensor) -> None:
    if tensor.device != tokens.device:
        raise KernelInputError(f"{name}: on {tensor.device}, expected {tokens.device}, where the tokens are. Move it with .to().")


def _check(tokens_BTD: Tensor, params: Sequence[ExpertParams], num_heads: int) -> None:
    if tokens_BTD.dim() != 3 or not tokens_BTD.is_floating_point():
        kind = f"{tokens_BTD.dtype} {tuple(tokens_BTD.shape)}"
        raise KernelInputError(f"tokens_BTD: shape {kind}, expected floating (B, T, D). Stack the tokens of each case.")
    D = tokens_BTD.shape[2]
    if not params:
        raise KernelInputError("params: no experts, expected at least one. Check the configuration.")
    for e, p in enumerate(params):
        if p.cls.shape != (D,):
            shape = tuple(p.cls.shape)
            raise KernelInputError(
                f"expert {e}: CLS of shape {shape}, expected {(D,)}, the width of tokens_BTD. Check the width."
            )
        if not p.layers:
            raise KernelInputError(f"expert {e}: no layers, expected at least one. Check its depth.")
        _check_device(f"expert {e}", p.cls, tokens_BTD)
        for layer in p.layers:
            rows, hidden = layer.qkv_weight.shape[0], layer.fc1_weight.shape[0]
            if rows % (3 * num_heads):
                raise KernelInputError(
                    f"expert {e}: qkv weight has {rows} rows, expected a multiple of 3 * {num_heads} heads. Check num_heads."
                )
            wanted = ((D,), (D,), (rows, D), (D, rows // 3), (D,), (D,), (D,), (hidden, D), (hidden,), (D, hidden), (D,))
            for name, tensor, shape in zip(layer._fields, layer, wanted, strict=True):
                if tensor.shape != shape:
                    wrong = tuple(tensor.shape)
                    raise KernelInputError(f"expert {e}: {name} of shape {wrong}, expected {shape}. Check its layer.")
