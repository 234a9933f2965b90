"""The Triton kernels without a GPU: interpreted and compiled, each in a process of its own. On a GPU: test_kernels_gpu.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parent.parent


def run(*command, interpret):
    environment = os.environ | {"TRITON_INTERPRET": "1" if interpret else "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_interpreted_kernels_agree_with_their_oracles():
    assert run(str(ROOT / "tests" / "interpreted_kernels.py"), interpret=True) == "all agree"


def test_compiled_for_sm_80_and_sm_90_without_spills():
    figures = json.loads(run("-m", "benchmarks.compiled_kernels", interpret=False))
    assert figures["over_budget"] == 0
    worst = figures["worst"]
    assert all(row["spill_bytes"] == 0 for row in worst.values())
    assert {
        "chunk_states_kernel",
        "gradients_kernel",
        "conv_kernel",
        "grouped_linear_kernel",
        "attention_backward_kernel",
    } <= set(worst)
    # measured with Triton 3.7.1 (kernels/README.md): 8.9, 11.8, 5.6 and 39.7; a tenth more is a regression
    for kernel, bound in (
        ("chunk_states_kernel", 9.8),
        ("outputs_kernel", 13),
        ("chunk_gradients_kernel", 6.2),
        ("gradients_kernel", 43.7),
    ):
        assert 0 < worst[kernel]["sass_per_element"] <= bound, kernel


def test_gpu_benchmark_is_whole_at_toy_size():
    figures = json.loads(run("-m", "benchmarks.kernels_gpu", "--toy", interpret=True))
    assert figures["scan"][0]["fwd_ms"] > 0
    assert [row["pairs"] for row in figures["experts"]] == ["chosen", "all"]
