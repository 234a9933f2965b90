"""The Mamba-1 block (Gu and Dao, arXiv 2312.00752, section 3.4) over packed tokens.

Belongs here: its projections, their start values, the order of the operations, and MambaMIL's second branch over
re-ordered tokens. Does not belong: the scan and the convolution (kernels/), the residual and the pooling (encoders.py).

Shape legend: P packed tokens, S sequences, D width, I inner width (expand * D), N states, R rank of the step size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.backend import Backend
from kernels.causal_conv1d import causal_conv1d
from kernels.selective_scan import selective_scan
from mice_model.config import ScanConfig

# The step sizes at the start: log-uniform in this range, never below the floor (Mamba paper, section 3.6, and its
# release).
_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 1e-1, 1e-4


class _Branch(nn.Module):
    """What is between the projections: causal convolution, SiLU, selective scan gated by silu(z), (P, I) -> (P, I)."""

    def _build(self, width: int, config: ScanConfig, backend: Backend) -> None:
        self.backend = backend
        inner, state = config.expand * width, config.state_dim
        self.dt_rank = math.ceil(width / 16)
        self.state_dim = state
        self.conv = nn.Conv1d(inner, inner, config.conv_width, groups=inner)  # holds weight and bias; the kernel computes
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def _start(self) -> None:
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        dt = torch.empty(len(self.D)).uniform_(math.log(_DT_MIN), math.log(_DT_MAX)).exp().clamp(min=_DT_FLOOR)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of this is dt

    def scanned(self, u_PI: Tensor, z_PI: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Return the gated states' readings (P, I)."""
        weight_IK, bias_I = self.conv.weight.squeeze(1), self.conv.bias
        weight_IK, bias_I = _like(weight_IK, u_PI), _like(bias_I, u_PI)
        u_PI = causal_conv1d(u_PI, weight_IK, bias_I, cu_seqlens=cu_seqlens, activation="silu", backend=self.backend)
        dt_PR, B_PN, C_PN = self.x_proj(u_PI).split((self.dt_rank, self.state_dim, self.state_dim), dim=-1)
        return selective_scan(
            u_PI,
            F.linear(dt_PR, self.dt_proj.weight),
            -torch.exp(self.A_log),
            B_PN,
            C_PN,
            D_D=self.D,
            z_PD=z_PI,
            delta_bias_D=self.dt_proj.bias,  # added in the state's precision, before the softplus
            cu_seqlens=cu_seqlens,
            backend=self.backend,
        )


class StridedBranch(_Branch):
    """SR-Mamba's second branch (MambaMIL, arXiv 2403.06800): its own weights, over tokens re-ordered with a stride."""

    def __init__(self, width: int, config: ScanConfig, backend: Backend) -> None:
        super().__init__()
        self.rate = config.rate
        self._build(width, config, backend)
        self._start()

    def forward(self, u_PI: Tensor, z_PI: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Return (P, I) in the tokens' own order."""
        order_P = strided_order(len(u_PI), cu_seqlens, self.rate, u_PI.device)
        y_PI = self.scanned(u_PI.index_select(0, order_P), z_PI.index_select(0, order_P), cu_seqlens)
        return y_PI.index_select(0, torch.argsort(order_P))


class MambaBlock(_Branch):
    """(P, D) -> (P, D): in_proj, the branch (and the strided one, added, if `reordered`), out_proj. No residual."""

    def __init__(self, width: int, config: ScanConfig, backend: Backend = "auto") -> None:
        super().__init__()
        if config.rate < 1:
            raise ValueError(f"scan.rate: {config.rate}, expected at least 1")
        inner = config.expand * width
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self._build(width, config, backend)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self._start()
        self.strided = StridedBranch(width, config, backend) if config.reordered else None

    def forward(self, x_PD: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """Return (P, D); sequences cu_seqlens[s]:cu_seqlens[s + 1] never see one another."""
        u_PI, z_PI = self.in_proj(x_PD).chunk(2, dim=-1)
        y_PI = self.scanned(u_PI, z_PI, cu_seqlens)
        if self.strided is not None:
            y_PI = y_PI + self.strided(u_PI, z_PI, cu_seqlens)
        out_PD: Tensor = self.out_proj(y_PI)
        return out_PD


def strided_order(num_tokens: int, cu_seqlens: Tensor | None, rate: int, device: torch.device) -> Tensor:
    """Return int64 (P,): tokens 0, rate, 2 rate, ... of a sequence, then 1, rate + 1, ...; sequences stay where they are."""
    token_P = torch.arange(num_tokens, device=device)
    if cu_seqlens is None:
        return torch.argsort(token_P % rate, stable=True)
    lengths_S = cu_seqlens.diff()
    sequence_P = torch.arange(len(lengths_S), device=device).repeat_interleave(lengths_S, output_size=num_tokens)
    return torch.argsort(sequence_P * rate + (token_P - cu_seqlens[:-1][sequence_P]) % rate, stable=True)


def _like(parameter: Tensor | None, x: Tensor) -> Tensor:
    """Return the parameter in the tokens' dtype, which autocast may have lowered."""
    if parameter is None:
        raise ValueError("conv.bias: None, expected a bias; build MambaBlock with its own Conv1d")
    return parameter.to(x.dtype)
