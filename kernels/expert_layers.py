"""Small transformer experts in plain PyTorch: the parameters' layout, a layer, an expert, a run of (case, expert) pairs.

Belongs here: differentiable arithmetic on tensors. Does not belong: the public functions, their checks and oracle
(expert_dispatch.py), who owns the parameters (mice_model/blocks.py). Parameters come as one tuple per expert and stay separate:
an expert that no case is sent to gets no gradient at all (None, not zero), so AdamW leaves it alone.

Shape legend: B cases, T tokens, D width, H heads, r width of a head, E experts, K (case, expert) pairs, R = H * r.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ExpertLayer(NamedTuple):
    """One pre-norm transformer layer: x += out(attention(norm1(x))); x += fc2(gelu(fc1(norm2(x)))). qkv has no bias."""

    norm1_weight: Tensor  # (D,)
    norm1_bias: Tensor  # (D,)
    qkv_weight: Tensor  # (3 R, D), rows: all heads of q, then of k, then of v
    out_weight: Tensor  # (D, R)
    out_bias: Tensor  # (D,)
    norm2_weight: Tensor  # (D,)
    norm2_bias: Tensor  # (D,)
    fc1_weight: Tensor  # (F, D)
    fc1_bias: Tensor  # (F,)
    fc2_weight: Tensor  # (D, F)
    fc2_bias: Tensor  # (D,)


class ExpertParams(NamedTuple):
    """One expert: its CLS token, its layers (at least one) and, if it has one, weight and bias of a last LayerNorm."""

    cls: Tensor  # (D,)
    layers: tuple[ExpertLayer, ...]
    final_norm: tuple[Tensor, Tensor] | None = None


def transformer_layer(x_BTD: Tensor, layer: ExpertLayer, num_heads: int) -> Tensor:
    """Return the layer's output (B, T, D) for every token."""
    B, T, D = x_BTD.shape
    r = layer.qkv_weight.shape[0] // (3 * num_heads)
    normed_BTD = F.layer_norm(x_BTD, (D,), layer.norm1_weight, layer.norm1_bias)
    # Wide heads on narrow tokens: multiply the weights first. Tuned on one CPU core at D = 64, r = 8..120, T = 6 and
    # 14: 3 times faster at r = 120, even at r = 48; the two weight products must be spread over enough tokens.
    if B * T * (4 * r - 3 * D) > 4 * D * r:
        mixed_BTD = _merged_attention(normed_BTD, layer, num_heads)
    else:
        q, k, v = F.linear(normed_BTD, layer.qkv_weight).view(B, T, 3, num_heads, r).permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BTR = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, -1)
        mixed_BTD = F.linear(mixed_BTR, layer.out_weight)
    return _feed_forward(x_BTD + mixed_BTD + layer.out_bias, layer)


def _merged_attention(normed_BTD: Tensor, layer: ExpertLayer, num_heads: int) -> Tensor:
    """Return out(attention) without its bias, with W_k' W_q and W_o W_v multiplied first: D x D a head, not D x 2r.

    <W_q x_s, W_k x_t> = <(W_k' W_q) x_s, x_t> and W_o sum_t p_t W_v x_t = (W_o W_v) sum_t p_t x_t: keys and values are
    the tokens.
    """
    B, T, D = normed_BTD.shape
    query_HrD, key_HrD, value_HrD = (w.view(num_heads, -1, D) for w in layer.qkv_weight.chunk(3))
    r = query_HrD.shape[1]
    ask_HDD = torch.bmm(key_HrD.transpose(1, 2), query_HrD * r**-0.5)
    asked_BTHxD = F.linear(normed_BTD, ask_HDD.reshape(num_heads * D, D)).view(B, T * num_heads, D)
    p_BTHxT = torch.softmax(torch.bmm(asked_BTHxD, normed_BTD.transpose(1, 2)), dim=-1)
    mixed_BTHD = torch.bmm(p_BTHxT, normed_BTD).view(B, T, num_heads * D)
    answer_HDD = torch.bmm(layer.out_weight.view(D, num_heads, r).transpose(0, 1), value_HrD)
    return F.linear(mixed_BTHD, answer_HDD.transpose(0, 1).reshape(D, num_heads * D))


def _cls_layer(x_BTD: Tensor, layer: ExpertLayer, num_heads: int) -> Tensor:
    """Return row 0 (B, D) of `transformer_layer`, exactly, without the keys, values and outputs of the other tokens.

    With one query a case, <q, W_k x_t> = <W_k' q, x_t> and sum_t p_t W_v x_t = W_v sum_t p_t x_t, so W_k and W_v act
    once a case and head instead of once a token.
    """
    B, _, D = x_BTD.shape
    normed_BTD = F.layer_norm(x_BTD, (D,), layer.norm1_weight, layer.norm1_bias)
    query_RD, key_RD, value_RD = layer.qkv_weight.chunk(3)
    r = query_RD.shape[0] // num_heads
    q_HBr = F.linear(normed_BTD[:, 0], query_RD).view(B, num_heads, r).transpose(0, 1)
    asked_BHD = torch.bmm(q_HBr, key_RD.view(num_heads, r, D)).transpose(0, 1)
    p_BHT = torch.softmax(torch.bmm(asked_BHD, normed_BTD.transpose(1, 2)) * r**-0.5, dim=-1)
    mixed_HBD = torch.bmm(p_BHT, normed_BTD).transpose(0, 1)
    mixed_BR = torch.bmm(mixed_HBD, value_RD.view(num_heads, r, D).transpose(1, 2)).transpose(0, 1).reshape(B, -1)
    return _feed_forward(x_BTD[:, 0] + F.linear(mixed_BR, layer.out_weight, layer.out_bias), layer)


def _feed_forward(x: Tensor, layer: ExpertLayer) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], layer.norm2_weight, layer.norm2_bias)
    hidden = F.gelu(F.linear(normed, layer.fc1_weight, layer.fc1_bias))
    return x + F.linear(hidden, layer.fc2_weight, layer.fc2_bias)


def cls_output(tokens_BTD: Tensor, params: ExpertParams, num_heads: int) -> Tensor:
    """Return the expert's CLS output (B, D): CLS before the T tokens, all layers, the CLS row of the last."""
    B, _, D = tokens_BTD.shape
    x_BTD = torch.cat((params.cls.expand(B, 1, D), tokens_BTD), dim=1)
    for layer in params.layers[:-1]:
        x_BTD = transformer_layer(x_BTD, layer, num_heads)
    cls_BD = _cls_layer(x_BTD, params.layers[-1], num_heads)
    return cls_BD if params.final_norm is None else F.layer_norm(cls_BD, (D,), *params.final_norm)


def dispatch_pairs(
    tokens_BTD: Tensor, params: Sequence[ExpertParams], weights_BE: Tensor, mask_BE: Tensor, num_heads: int
) -> Tensor:
    """Return sum_e weights[b, e] * expert_e(tokens_b) over pairs of `mask_BE`: every expert runs once, on its share of them."""
    expert_K, case_K = mask_BE.t().nonzero(as_tuple=True)  # transposed, so that the pairs come sorted by expert
    weight_K = weights_BE[case_K, expert_K]
    counts = torch.bincount(expert_K, minlength=len(params)).tolist()
    shares = tokens_BTD.index_select(0, case_K).split(counts)
    outputs = [cls_output(x, p, num_heads) for x, p in zip(shares, params, strict=True) if x.shape[0]]
    sum_BD = tokens_BTD.new_zeros(tokens_BTD.shape[0], tokens_BTD.shape[2])
    if not outputs:
        return sum_BD
    return sum_BD.index_add(0, case_K, (torch.cat(outputs) * weight_K[:, None]).to(sum_BD.dtype))


def flatten(params: Sequence[ExpertParams]) -> list[Tensor]:
    """Return all tensors, expert by expert: CLS, each layer's in the order of ExpertLayer, the last LayerNorm's."""
    return [t for p in params for t in (p.cls, *(t for layer in p.layers for t in layer), *(p.final_norm or ()))]


def unflatten(flat: Sequence[Tensor], num_experts: int) -> list[ExpertParams]:
    """Return what `flatten` took apart, for experts of equal depth."""
    num_fields, num_each = len(ExpertLayer._fields), len(flat) // num_experts
    experts = []
    for first in range(0, len(flat), num_each):
        cls, *rest = flat[first : first + num_each]
        whole = len(rest) - len(rest) % num_fields
        layers = tuple(ExpertLayer(*rest[i : i + num_fields]) for i in range(0, whole, num_fields))
        experts.append(ExpertParams(cls, layers, (rest[whole], rest[whole + 1]) if whole < len(rest) else None))
    return experts
