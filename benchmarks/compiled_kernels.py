"""Every Triton kernel and configuration compiled for sm_80 and sm_90 without a GPU: registers, spills, shared memory,
and of the scan's kernels instructions.

What is compiled is what the calls would launch at the paper's shapes, recorded from the launches themselves. Fails where code
spills or exceeds the budget. Run: python -m benchmarks.compiled_kernels (make bench NAME=compiled_kernels).
"""

import json
import multiprocessing
import sys

import torch
import triton

from benchmarks.expert_peers import make_experts
from benchmarks.scan import scan_inputs
from kernels.causal_conv1d_triton import triton_conv_backward, triton_conv_forward
from kernels.compiled import Cost, Launch, compile_cost, recorded_launches
from kernels.expert_dispatch_triton import triton_dispatch_forward
from kernels.expert_dispatch_triton_backward import triton_dispatch_backward
from kernels.expert_layers import flatten
from kernels.selective_scan_cpu import ScanInputs
from kernels.selective_scan_triton import chunk_length, triton_scan_forward
from kernels.selective_scan_triton_backward import triton_scan_backward

ARCHITECTURES = (80, 90)
# 255 registers are all that a thread can have; 48 KiB of shared memory are what a block has without asking.
MAX_REGISTERS, MAX_SHARED_BYTES = 255, 48 * 1024
# of scan_inputs, in the order of ScanInputs
ARGUMENTS = ("u_PD", "delta_PD", "A_DN", "B_PN", "C_PN", "D_D", "z_PD", "delta_bias_D")
# kernels with a loop over tokens, and how many tokens a turn of their innermost loops takes
SCAN_KERNELS = {"chunk_states_kernel": 1, "outputs_kernel": 1, "chunk_gradients_kernel": 1, "gradients_kernel": 2}


def launches() -> list[Launch]:
    """The launches of all three operations, both passes: bf16 and fp32 tokens, small and large batches."""
    with recorded_launches() as found:
        for dtype in (torch.bfloat16, torch.float32):
            inputs = scan_inputs(1_000, dtype=dtype)
            x = ScanInputs(*(inputs[name].detach() for name in ARGUMENTS))
            _, states = triton_scan_forward(x, True, [0, 1_000])
            triton_scan_backward(x.u, x, states, True, [0, 1_000])
            weight, bias = torch.zeros(512, 4, dtype=dtype), torch.zeros(512, dtype=dtype)
            x_PD = torch.zeros(1_000, 512, dtype=dtype)
            triton_conv_forward(x_PD, weight, bias, True, [0, 1_000])
            triton_conv_backward(x_PD, x_PD, weight, bias, True, [0, 1_000])
            params = flatten(make_experts(tuple(range(8, 121, 8)), 256, 4))
            for batch in (1, 128):
                tokens_BTD, weights = torch.zeros(batch, 4, 256, dtype=dtype), torch.ones(batch, 15)
                _, saved = triton_dispatch_forward(tokens_BTD, params, weights, weights > 0, 4)
                triton_dispatch_backward(tokens_BTD[:, 0], tokens_BTD, params, weights, saved, 4)
    return found


def per_element(launch: Launch, cost: Cost) -> float | None:
    """Instructions of the loop over tokens for each element of the state, for the kernels that have such a loop."""
    constants = dict(launch.constants)
    tokens = SCAN_KERNELS.get(launch.kernel.__name__)
    if tokens is None or cost.loop_instructions is None:
        return None
    return cost.loop_instructions / (tokens * constants["BLOCK_D"] * constants["BLOCK_N"] / 32 / launch.num_warps)


_work: list[tuple[Launch, int]] = []


def _compile(index: int) -> Cost:
    launch, arch = _work[index]
    return compile_cost(launch, arch, disassemble=launch.kernel.__name__ in SCAN_KERNELS)


def main() -> None:
    """Print a row for each compiled kernel and the JSON line; exit 1 if one spills or exceeds the budget."""
    found = launches()
    worst: dict[str, dict[str, float]] = {}
    bad = 0
    sys.stdout.write(
        f"{'kernel':<30}{'arch':>5}{'warps':>6}{'regs':>6}{'spill B':>8}{'shared B':>9}{'SASS':>7}{'SASS/element':>14}  tokens\n"
    )
    work = [(launch, arch) for launch in found for arch in ARCHITECTURES]
    _work.extend(work)
    # forked, because a launch holds its kernel, which cannot be sent
    with multiprocessing.get_context("fork").Pool(2) as pool:
        costs = pool.map(_compile, range(len(work)), chunksize=1)
    for (launch, arch), cost in zip(work, costs, strict=True):
        name = launch.kernel.__name__
        bad += cost.spill_bytes > 0 or cost.registers > MAX_REGISTERS or cost.shared_bytes > MAX_SHARED_BYTES
        element = per_element(launch, cost)
        shown = "" if element is None else f"{element:.1f}"
        sass = "" if cost.instructions is None else cost.instructions
        sys.stdout.write(
            f"{name:<30}{arch:>5}{launch.num_warps:>6}{cost.registers:>6}{cost.spill_bytes:>8}{cost.shared_bytes:>9}"
            f"{sass:>7}{shown:>14}  {next(kind for _, kind in launch.signature)}\n"
        )
        row = worst.setdefault(name, {"registers": 0, "spill_bytes": 0, "shared_bytes": 0})
        for key in ("registers", "spill_bytes", "shared_bytes"):
            row[key] = max(row[key], getattr(cost, key))
        if element is not None:
            row["sass_per_element"] = max(row.get("sass_per_element", 0.0), round(element, 1))
    figures = {
        "compiled": len(found) * len(ARCHITECTURES),
        "over_budget": bad,
        "chunk_at_10k_and_100k": [chunk_length(10_000, 512), chunk_length(100_000, 512)],
        "worst": worst,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
