"""The selective scan on one CPU thread, against a per-token loop and chunked autograd in the same run.

Paper's shape: 512 channels, 16 states, float32. Run: python -m benchmarks.scan [--tokens N] (make bench NAME=scan).
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.scan_peers import chunked_autograd, token_loop
from benchmarks.timing import best_seconds
from kernels.selective_scan import selective_scan

CHANNELS, STATES, ROUNDS = 512, 16, 5


def scan_inputs(
    P: int, D: int = CHANNELS, N: int = STATES, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random arguments of `selective_scan` with step sizes and decays as at the start of training; leaves that need gradients."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    tokens = {"u_PD": draw(P, D), "delta_PD": draw(P, D) * 0.5, "B_PN": draw(P, N), "C_PN": draw(P, N), "z_PD": draw(P, D)}
    parameters = {"A_DN": -torch.arange(1, N + 1).float().repeat(D, 1), "D_D": torch.ones(D), "delta_bias_D": draw(D) - 4}
    inputs = {name: t.to(device, dtype) for name, t in tokens.items()} | {name: t.to(device) for name, t in parameters.items()}
    return {name: t.requires_grad_() for name, t in inputs.items()}


@dataclass(frozen=True)
class Measured:
    """A function with its arguments, measured in so many rounds; `forward` and `backward`: the shortest seconds of them."""

    function: Callable[[dict[str, Tensor]], Tensor]
    x: dict[str, Tensor]
    rounds: int
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    def measure(self) -> None:
        """Time forward without gradients, and backward alone."""
        with torch.no_grad():
            self.seconds[0].append(best_seconds(lambda: self.function(self.x), 1))
        y = self.function(self.x)
        direction = torch.ones_like(y)
        self.seconds[1].append(best_seconds(lambda: torch.autograd.grad(y, list(self.x.values()), direction), 1))

    @property
    def forward(self) -> float:
        return min(self.seconds[0])

    @property
    def backward(self) -> float:
        return min(self.seconds[1])

    @property
    def both(self) -> float:
        return self.forward + self.backward


def saved_bytes(x: dict[str, Tensor]) -> int:
    """Bytes that the scan keeps for backward beyond its inputs."""
    known, total = {t.data_ptr() for t in x.values()}, 0

    def pack(t: Tensor) -> Tensor:
        nonlocal total
        total += 0 if t.data_ptr() in known else t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        selective_scan(**x)
    return total


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000)
    P = parser.parse_args().tokens
    torch.set_num_threads(1)
    x, double = scan_inputs(P), scan_inputs(2 * P)

    def ours(inputs: dict[str, Tensor]) -> Tensor:
        return selective_scan(**inputs)

    rows = {
        "ours": Measured(ours, x, ROUNDS),
        "ours, twice the tokens": Measured(ours, double, ROUNDS),
        "per-token loop": Measured(token_loop, x, ROUNDS - 2),
        "chunked autograd": Measured(chunked_autograd, x, 1),
    }
    ours(x)  # warms up
    for number in range(ROUNDS):  # by turns: a machine that others use is slower at one time than at another
        for row in rows.values():
            if number < row.rounds:
                row.measure()
    sys.stdout.write(f"{P} tokens, {CHANNELS} channels, {STATES} states, float32, one thread\n{'':<24}forward s  backward s\n")
    for name, row in rows.items():
        sys.stdout.write(f"{name:<24}{row.forward:>9.3f}{row.backward:>12.3f}\n")
    one, twice, loop, autograd = rows.values()
    figures = {
        "tokens": P,
        "fwd_s": round(one.forward, 3),
        "bwd_s": round(one.backward, 3),
        "fwd_vs_loop": round(loop.forward / one.forward, 2),
        "fwd_bwd_vs_loop": round(loop.both / one.both, 2),
        "fwd_bwd_vs_autograd": round(autograd.both / one.both, 2),
        "doubling": round(twice.both / one.both, 2),
        "saved_bytes_per_token": round(saved_bytes(x) / P),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
