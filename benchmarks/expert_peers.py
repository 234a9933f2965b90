"""What expert dispatch is compared with: the loop over cases and experts, and all experts stacked and padded to one rank."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.expert_layers import ExpertLayer, ExpertParams, cls_output


def make_experts(ranks: tuple[int, ...], width: int, heads: int, device: str = "cpu") -> list[ExpertParams]:
    """Random two-layer experts whose parameters need gradients."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=g) * shape[-1] ** -0.5).to(device).requires_grad_()

    def layer(r: int) -> ExpertLayer:
        one, zero = torch.ones(width, device=device), torch.zeros(width, device=device)
        norm = (one.clone().requires_grad_(), zero.clone().requires_grad_())
        R = heads * r
        attention = (draw(3 * R, width), draw(width, R), draw(width))
        return ExpertLayer(
            *norm,
            *attention,
            *(t.detach().clone().requires_grad_() for t in norm),
            draw(r, width),
            draw(r),
            draw(width, r),
            draw(width),
        )

    return [ExpertParams(draw(width), (layer(r), layer(r))) for r in ranks]


def case_loop(tokens_BTD: Tensor, experts: list[ExpertParams], weights_BE: Tensor, heads: int) -> Tensor:
    """One expert on one case at a time, as the release runs them."""
    rows = []
    for b, weights_E in enumerate(weights_BE):
        chosen = weights_E.nonzero().flatten().tolist()
        rows.append(torch.stack([weights_E[e] * cls_output(tokens_BTD[b : b + 1], experts[e], heads)[0] for e in chosen]).sum(0))
    return torch.stack(rows)


def stack_experts(experts: list[ExpertParams], heads: int) -> list[Tensor]:
    """Every parameter of all experts in one tensor, heads and hidden widths padded with zeros to the widest."""
    widest = max(p.layers[0].fc1_weight.shape[0] for p in experts)

    def padded(layer: ExpertLayer) -> list[Tensor]:
        r, D = layer.fc1_weight.shape
        extra = widest - r
        # the padded width changes the attention's scale: the queries make up for it
        scale = torch.tensor([(widest / r) ** 0.5, 1.0, 1.0], device=layer.qkv_weight.device)[:, None, None, None]
        qkv = F.pad(layer.qkv_weight.detach().view(3, heads, r, D) * scale, (0, 0, 0, extra)).reshape(-1, D)
        out = F.pad(layer.out_weight.detach().view(D, heads, r), (0, extra)).reshape(D, -1)
        fc1 = (F.pad(layer.fc1_weight.detach(), (0, 0, 0, extra)), F.pad(layer.fc1_bias.detach(), (0, extra)))
        fc2 = F.pad(layer.fc2_weight.detach(), (0, extra))
        norms = (layer.norm1_weight, layer.norm1_bias), (layer.norm2_weight, layer.norm2_bias)
        return [*norms[0], qkv, out, layer.out_bias, *norms[1], *fc1, fc2, layer.fc2_bias]

    whole = [[p.cls, *padded(p.layers[0]), *padded(p.layers[1])] for p in experts]
    return [torch.stack([tensors[i].detach() for tensors in whole]).requires_grad_() for i in range(len(whole[0]))]


def stacked_bmm(tokens_BTD: Tensor, stacked: list[Tensor], weights_BE: Tensor, heads: int) -> Tensor:
    """All experts on all cases, one batched product a step, outputs weighted (zero where not chosen)."""
    cls, *rest = stacked
    E, (B, T, D) = len(cls), tokens_BTD.shape
    x = torch.cat((cls[:, None, None].expand(E, B, 1, D), tokens_BTD.expand(E, B, T, D)), dim=2).reshape(E, B * (T + 1), D)
    for n1w, n1b, qkv, out, out_b, n2w, n2b, fc1, fc1_b, fc2, fc2_b in (rest[:11], rest[11:]):
        normed = F.layer_norm(x, (D,)) * n1w[:, None] + n1b[:, None]
        q, k, v = torch.bmm(normed, qkv.transpose(1, 2)).view(E * B, T + 1, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(E, B * (T + 1), -1)
        x = x + torch.baddbmm(out_b[:, None], mixed, out.transpose(1, 2))
        normed = F.layer_norm(x, (D,)) * n2w[:, None] + n2b[:, None]
        hidden = F.gelu(torch.baddbmm(fc1_b[:, None], normed, fc1.transpose(1, 2)))
        x = x + torch.baddbmm(fc2_b[:, None], hidden, fc2.transpose(1, 2))
    return torch.einsum("be,ebd->bd", weights_BE, x.view(E, B, T + 1, D)[:, :, 0])
