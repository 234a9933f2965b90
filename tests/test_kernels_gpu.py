"""The Triton kernels on a CUDA device against the oracles in float64: make test-gpu. Without a device: test_kernels_triton.py."""

import pytest
import torch
from interpreted_kernels import HEADS, expert_results
from kernel_cases import assert_close_by_name, scan_arguments, small_experts, with_gradients

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference
from kernels.expert_dispatch import expert_dispatch, expert_dispatch_reference
from kernels.selective_scan import selective_scan, selective_scan_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = "cuda"
PRECISIONS = [(torch.float32, 2e-6, 1e-5), (torch.bfloat16, 1e-2, 2e-2)]


@pytest.mark.parametrize("P", [1, 63, 1000, 1023])
@pytest.mark.parametrize(("dtype", "forward", "gradients"), PRECISIONS)
def test_scan(P, dtype, forward, gradients):
    x = scan_arguments(P, 512, 16, dtype)
    cu_seqlens = torch.tensor([0, P // 3, P // 3, P])
    expected = with_gradients(selective_scan_reference, x, torch.float64, cu_seqlens=cu_seqlens)
    runs = [with_gradients(selective_scan, x, dtype, DEVICE, cu_seqlens=cu_seqlens, backend="triton") for _ in range(2)]
    assert_close_by_name(runs[0], expected, forward, gradients)
    assert all(torch.equal(a, b) for a, b in zip(*(r.values() for r in runs), strict=True))


@pytest.mark.parametrize(("activation", "bounds"), [("silu", [0, 2, 2, 370, 500]), (None, [0, 500])])
@pytest.mark.parametrize(("dtype", "forward", "gradients"), PRECISIONS)
def test_conv(activation, bounds, dtype, forward, gradients):
    g = torch.Generator().manual_seed(1)
    shapes = (("x_PD", (500, 512)), ("weight_DK", (512, 4)), ("bias_D", (512,)))
    x = {name: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).double() for name, shape in shapes}
    options = {"cu_seqlens": torch.tensor(bounds), "activation": activation}
    expected = with_gradients(causal_conv1d_reference, x, torch.float64, **options)
    found = with_gradients(causal_conv1d, x, dtype, DEVICE, backend="triton", **options)
    assert_close_by_name(found, expected, forward, gradients)


@pytest.mark.parametrize("unused", ["none", "zero"])
def test_experts(unused):
    g = torch.Generator().manual_seed(2)
    ranks, width = (8, 40, 16, 24), 64
    tokens, weights = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((6, 4, width), (6, len(ranks))))
    weights[:, 2] = 0  # nobody asks expert 2
    weights[0] = 0  # and case 0 asks nobody

    def dispatched(x, experts, w):
        return expert_dispatch(x, experts, w, HEADS, unused=unused, backend="triton")

    def plain(x, experts, w):
        return expert_dispatch_reference(x, experts, w, HEADS)

    expected = expert_results(plain, small_experts(ranks, width, HEADS, torch.float64), tokens, weights, torch.float64)
    experts = small_experts(ranks, width, HEADS, torch.float32, DEVICE)
    found = expert_results(dispatched, experts, tokens.to(DEVICE), weights.to(DEVICE), torch.float32)
    for name, reference in expected.items():
        if reference is None:
            assert found[name] is None if unused == "none" else torch.count_nonzero(found[name]) == 0, name
        else:
            error = (found[name].cpu() - reference).norm() / reference.norm().clamp(min=1e-9)
            assert error < (2e-6 if name == "output" else 1e-5), (name, error)
