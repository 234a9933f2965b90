"""What the scan is compared with: a per-token loop without Python overhead per sequence, and chunked autograd."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64


def token_loop(x: dict[str, Tensor]) -> Tensor:
    """The recurrence token by token on whole (D, N) states, one thread: what a plain implementation does."""
    dt = F.softplus(x["delta_PD"] + x["delta_bias_D"])
    dtu = dt * x["u_PD"]
    h = torch.zeros_like(x["A_DN"])
    rows = []
    # unbind, because the gradient of an index is as long as the whole: O(P^2)
    for dt_D, dtu_D, B_N, C_N in zip(*(t.unbind(0) for t in (dt, dtu, x["B_PN"], x["C_PN"])), strict=True):
        h = torch.exp(dt_D[:, None] * x["A_DN"]) * h + dtu_D[:, None] * B_N
        rows.append(h @ C_N)
    return (torch.stack(rows) + x["D_D"] * x["u_PD"]) * F.silu(x["z_PD"])


def chunked_autograd(x: dict[str, Tensor]) -> Tensor:
    """Chunks of tokens by a doubling (Hillis-Steele) scan of (decay, input) pairs, differentiated by autograd."""
    dt = F.softplus(x["delta_PD"] + x["delta_bias_D"])
    dtu = dt * x["u_PD"]
    h = torch.zeros_like(x["A_DN"])
    outs = []
    for dt_TD, dtu_TD, B_TN, C_TN in zip(*(t.split(CHUNK) for t in (dt, dtu, x["B_PN"], x["C_PN"])), strict=True):
        decay = torch.exp(dt_TD[:, :, None] * x["A_DN"])
        state = dtu_TD[:, :, None] * B_TN[:, None, :]
        step = 1
        while step < len(dt_TD):
            state = torch.cat((state[:step], decay[step:] * state[:-step] + state[step:]))
            decay = torch.cat((decay[:step], decay[step:] * decay[:-step]))
            step *= 2
        state = state + decay * h
        h = state[-1]
        outs.append((state * C_TN[:, None, :]).sum(2))
    return (torch.cat(outs) + x["D_D"] * x["u_PD"]) * F.silu(x["z_PD"])
