"""Expert dispatch on one CPU thread, against the per-case loop and against stacked bmm in the same run.

The paper's 15 overlapping experts (heads 8 to 120 wide, top 9) at width 256, five tokens with CLS, forward and backward.
Run: python -m benchmarks.experts [--batch N] (make bench NAME=experts).
"""

import argparse
import json
import sys

import torch
from torch import Tensor

from benchmarks.expert_peers import case_loop, make_experts, stack_experts, stacked_bmm
from benchmarks.timing import best_seconds
from kernels.expert_dispatch import expert_dispatch
from kernels.expert_layers import flatten

RANKS, TOP_K, WIDTH, TOKENS, HEADS = tuple(range(8, 121, 8)), 9, 256, 4, 4


def routed(batch: int, num_experts: int, top_k: int, width: int, num_tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Random tokens (B, T, D) and routing weights (B, E), zero outside each case's top k; leaves that need gradients."""
    g = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(batch, num_experts, generator=g), dim=1)
    weights = torch.zeros_like(p).scatter(1, p.topk(top_k, dim=1).indices, 1.0) * p
    return torch.randn(batch, num_tokens, width, generator=g).requires_grad_(), weights.requires_grad_()


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    batch = parser.parse_args().batch
    torch.set_num_threads(1)
    tokens, weights = routed(batch, len(RANKS), TOP_K, WIDTH)
    experts = make_experts(RANKS, WIDTH, HEADS)
    stacked = stack_experts(experts, HEADS)
    ways = {
        "dispatch": (lambda: expert_dispatch(tokens, experts, weights, HEADS), flatten(experts), 7),
        "stacked bmm": (lambda: stacked_bmm(tokens, stacked, weights, HEADS), stacked, 5),
        "loop over cases": (lambda: case_loop(tokens, experts, weights, HEADS), flatten(experts), 3),
    }
    expected = ways["loop over cases"][0]()
    for name, (way, _, _) in ways.items():
        torch.testing.assert_close(way(), expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    sys.stdout.write(f"batch {batch}, {len(RANKS)} experts, top {TOP_K}, width {WIDTH}, one thread\n")
    sys.stdout.write(f"{'':<20}forward ms  forward + backward ms\n")
    forward, both = {}, {}
    for name, (way, parameters, rounds) in ways.items():
        with torch.no_grad():
            forward[name] = best_seconds(way, rounds)
        leaves = [tokens, weights, *parameters]
        both[name] = best_seconds(lambda w=way, v=leaves: torch.autograd.grad(w().sum(), v, allow_unused=True), rounds)
        sys.stdout.write(f"{name:<20}{forward[name] * 1e3:>10.1f}{both[name] * 1e3:>23.1f}\n")
    ours = both["dispatch"]
    figures = {
        "batch": batch,
        "fwd_ms": round(forward["dispatch"] * 1e3, 1),
        "fwd_bwd_ms": round(ours * 1e3, 1),
        "vs_loop": round(both["loop over cases"] / ours, 2),
        "vs_bmm": round(both["stacked bmm"] / ours, 2),
        "fwd_vs_loop": round(forward["loop over cases"] / forward["dispatch"], 2),
        "fwd_vs_bmm": round(forward["stacked bmm"] / forward["dispatch"], 2),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
