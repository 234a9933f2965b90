"""The kernels on a GPU: the scan at four lengths, the experts at four batches, beside oracle, peers and the memory floor.

Run: python -m benchmarks.kernels_gpu (make bench-gpu). `--toy` runs everything at toy size on the CPU under Triton's interpreter
(TRITON_INTERPRET=1), which says that the command is whole and nothing about speed.
"""

import argparse
import itertools
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.expert_peers import case_loop, make_experts, stack_experts, stacked_bmm
from benchmarks.experts import routed
from benchmarks.scan import scan_inputs
from benchmarks.timing import median_ms
from kernels.backend import KernelBackendError
from kernels.expert_dispatch import expert_dispatch
from kernels.expert_layers import flatten
from kernels.selective_scan import selective_scan


@dataclass(frozen=True)
class Plan:
    """What to measure: the paper's shapes on a GPU, or toy shapes in the interpreter."""

    device: str = "cuda"
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)
    lengths: tuple[int, ...] = (1_000, 10_000, 30_000, 100_000)
    channels: int = 512
    states: int = 16
    batches: tuple[int, ...] = (1, 4, 32, 128)
    ranks: tuple[int, ...] = tuple(range(8, 121, 8))
    top_k: int = 9
    width: int = 256
    heads: int = 4
    rounds: int = 30
    oracle_tokens: int = 10_000  # the plain path launches kernels token by token: not measured beyond


TOY = Plan("cpu", (torch.float32,), (12,), 8, 2, (1,), (2,), 1, 8, 1, 1, 12)


def copy_ms(num_bytes: int, plan: Plan) -> float:
    """Milliseconds in which memory moves this many bytes, half read and half written: the floor of a kernel that must."""
    source = torch.empty(max(1, num_bytes // 2), dtype=torch.uint8, device=plan.device)
    target = torch.empty_like(source)
    return median_ms(lambda: target.copy_(source), plan.rounds, source.device)


def scan_ms(x: dict[str, Tensor], rounds: int, **options: Any) -> tuple[float, float]:
    """Medians of forward and of backward."""
    device = x["u_PD"].device
    with torch.no_grad():
        forward = median_ms(lambda: selective_scan(**x, **options), rounds, device)
    y = selective_scan(**x, **options)
    direction, leaves = torch.ones_like(y), list(x.values())
    return forward, median_ms(lambda: torch.autograd.grad(y, leaves, direction, retain_graph=True), rounds, device)


def scan_row(plan: Plan, P: int, dtype: torch.dtype) -> dict[str, Any]:
    """The scan at one length: ours, packed in eight, plain torch, mamba-ssm, the floor."""
    x = scan_inputs(P, plan.channels, plan.states, plan.device, dtype)
    cu_seqlens = torch.tensor([P * i // 8 for i in range(9)])
    forward, backward = scan_ms(x, plan.rounds, backend="triton")
    packed = scan_ms(x, plan.rounds, backend="triton", cu_seqlens=cu_seqlens)
    size = torch.finfo(dtype).bits // 8
    floor = copy_ms(P * size * (4 * plan.channels + 2 * plan.states), plan)
    row: dict[str, Any] = {"tokens": P, "dtype": str(dtype).removeprefix("torch."), "fwd_ms": forward, "bwd_ms": backward}
    row |= {"packed_fwd_vs_one": packed[0] / forward, "packed_bwd_vs_one": packed[1] / backward, "fwd_vs_floor": forward / floor}
    peers = {"torch": plan.oracle_tokens >= P, "mamba_ssm": find_spec("mamba_ssm") is not None}
    for backend, wanted in peers.items():
        names = (f"{backend}_fwd_ratio", f"{backend}_bwd_ratio")
        row |= dict.fromkeys(names)
        if wanted:
            try:
                theirs = scan_ms(x, 1 if backend == "torch" else plan.rounds, backend=backend)
                row |= dict(zip(names, (theirs[0] / forward, theirs[1] / backward), strict=True))
            except KernelBackendError as error:
                sys.stdout.write(f"{error}\n")
    return row


def count_launches(call: Callable[[], object]) -> int:
    """Kernels that a call launches, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA)


def graph_ms(call: Callable[[], object], plan: Plan) -> float:
    """Median of replaying the call as a CUDA graph, after the warm-up that capturing asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median_ms(graph.replay, plan.rounds, torch.device(plan.device))


def expert_row(plan: Plan, batch: int, pairs: str) -> dict[str, Any]:
    """Overlapping experts at one batch size, float32: forward eager and in a CUDA graph, with backward, against the peers."""
    tokens, weights = (
        t.detach().to(plan.device).requires_grad_() for t in routed(batch, len(plan.ranks), plan.top_k, plan.width)
    )
    experts = make_experts(plan.ranks, plan.width, plan.heads, plan.device)
    stacked, parameters = stack_experts(experts, plan.heads), flatten(experts)

    def ours() -> Tensor:
        return expert_dispatch(tokens, experts, weights, plan.heads, pairs=pairs, unused="zero", backend="triton")

    def with_backward() -> object:
        return torch.autograd.grad(ours().sum(), [tokens, weights, *parameters])

    expected = case_loop(tokens, experts, weights, plan.heads)
    torch.testing.assert_close(ours(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stacked_bmm(tokens, stacked, weights, plan.heads), expected, rtol=1e-4, atol=1e-5)
    rounds, device, on_gpu = plan.rounds, tokens.device, plan.device == "cuda"
    with torch.no_grad():
        forward = median_ms(ours, rounds, device)
        loop = median_ms(lambda: case_loop(tokens, experts, weights, plan.heads), min(3, rounds), device)
        bmm = median_ms(lambda: stacked_bmm(tokens, stacked, weights, plan.heads), rounds, device)
        graph = graph_ms(ours, plan) if on_gpu else None
        launches = count_launches(ours) if on_gpu else None
    return {
        "batch": batch,
        "pairs": pairs,
        "fwd_ms": forward,
        "graph_fwd_ms": graph,
        "fwd_bwd_ms": median_ms(with_backward, rounds, device),
        "launches_fwd": launches,
        "launches_fwd_bwd": count_launches(with_backward) if on_gpu else None,
        "fwd_vs_loop": loop / forward,
        "fwd_vs_bmm": bmm / forward,
        "fwd_vs_weights_floor": forward / copy_ms(sum(p.numel() * p.element_size() for p in parameters), plan),
    }


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys under their names."""
    sys.stdout.write(f"{title}\n{'  '.join(rows[0])}\n")
    for row in rows:
        cells = ("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        sys.stdout.write("  ".join(f"{cell:>{len(name)}}" for name, cell in zip(row, cells, strict=True)) + "\n")


def main() -> None:
    """Print both tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true")
    plan = TOY if parser.parse_args().toy else Plan()
    if plan.device == "cuda" and not torch.cuda.is_available():
        sys.exit("device: no CUDA device, expected one. Run where there is one, or --toy with TRITON_INTERPRET=1.")
    scans = [scan_row(plan, P, dtype) for dtype in plan.dtypes for P in plan.lengths]
    experts = [expert_row(plan, batch, pairs) for batch, pairs in itertools.product(plan.batches, ("chosen", "all"))]
    table("selective scan", scans)
    table("expert dispatch", experts)
    import triton  # noqa: PLC0415 (after the run has asked for it)

    device = torch.cuda.get_device_name() if plan.device == "cuda" else f"interpreter on {platform.machine()}"
    versions = {"device": device, "torch": torch.__version__, "triton": triton.__version__}
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in (*scans, *experts)]
    sys.stdout.write(json.dumps({**versions, "scan": rounded[: len(scans)], "experts": rounded[len(scans) :]}) + "\n")


if __name__ == "__main__":
    main()
