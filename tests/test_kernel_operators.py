"""The kernels as PyTorch operators: opcheck, torch.compile, autocast; the backend switch and its record."""

import pytest
import torch
from kernel_cases import scan_arguments, small_experts

from kernels.backend import KernelBackendError, recording
from kernels.causal_conv1d import causal_conv1d
from kernels.expert_dispatch import expert_dispatch, expert_dispatch_assigned, expert_forward
from kernels.expert_layers import flatten
from kernels.packing import KernelInputError, check_tensor
from kernels.selective_scan import selective_scan

CU = torch.tensor([0, 4, 9])


def scan_leaves(dtype=torch.float32):
    return [t.to(dtype).requires_grad_() for t in scan_arguments(9, 6, 4).values()]


def test_opcheck_scan():
    torch.library.opcheck(torch.ops.mice.selective_scan.default, (*scan_leaves(), CU, True, "auto"))


def test_opcheck_conv():
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((9, 3), (3, 4), (3,)))
    torch.library.opcheck(torch.ops.mice.causal_conv1d.default, (x, weight, bias, CU, True, "auto"))


def test_opcheck_experts():
    tokens, weights = torch.randn(3, 2, 8, requires_grad=True), torch.rand(3, 2, requires_grad=True)
    flat = flatten(small_experts((3, 4), 8, 2, torch.float32))
    # a kernel's order of sums may differ with the batch: gradients are compared in test_compiled_equals_eager
    torch.library.opcheck(torch.ops.mice.expert_dispatch.default, (tokens, flat, weights, weights > 0.2, 2, "auto"))


def test_compiled_equals_eager():
    experts = small_experts((3, 4), 6, 2, torch.float32)

    def network(x_PD, *rest):
        y = selective_scan(causal_conv1d(x_PD, torch.ones(6, 3), None, activation="silu"), *rest[:4], D_D=rest[4], z_PD=rest[5])
        tokens = y[:8].view(4, 2, 6)
        return expert_dispatch(tokens, experts, torch.softmax(tokens[:, :, 0], 1), 2, unused="zero")

    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="aot_eager")
    for P in (9, 13):
        arguments = [t.float().requires_grad_() for t in scan_arguments(P, 6, 4).values()][:7]
        results = []
        for function in (network, compiled):
            out = function(*arguments)
            results.append([out, *torch.autograd.grad(out.square().sum(), [*arguments, *flatten(experts)])])
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_autocast_lowers_tokens_and_keeps_parameters():
    u, delta, A, B, C, D, z, bias = scan_leaves()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan(u, delta, A, B, C, D_D=D, z_PD=z, delta_bias_D=bias, cu_seqlens=CU)
        x = causal_conv1d(u, torch.ones(6, 3), None)
    assert y.dtype == x.dtype == torch.bfloat16
    y.float().sum().backward()
    assert A.grad.dtype == u.grad.dtype == torch.float32
    exact = selective_scan(u, delta, A, B, C, D_D=D, z_PD=z, delta_bias_D=bias, cu_seqlens=CU)
    assert 0 < (y.float() - exact).norm() / exact.norm() < 2e-2


def test_the_record_says_what_ran():
    u, delta, A, B, C, *_ = scan_leaves()
    with recording() as ran:
        selective_scan(u, delta, A, B, C)
        with recording() as inner:
            expert_forward(torch.randn(2, 2, 8), small_experts((3,), 8, 2, torch.float32)[0], 2, backend="torch")
    assert ran == {"selective_scan=torch", "expert_dispatch=torch"}
    assert inner == {"expert_dispatch=torch"}


@pytest.mark.parametrize(
    ("backend", "message"), [("mamba_ssm", "mamba_ssm"), ("triton", "backend triton"), ("cuda", "expected one of")]
)
def test_a_backend_that_cannot_be_had(backend, message):
    with pytest.raises(KernelBackendError, match=message):
        selective_scan(*(t.detach() for t in scan_leaves()[:5]), backend=backend)


def test_slices_and_transposes_are_read_right():
    x = scan_arguments(9, 6, 4)
    whole = torch.full((11, 14), torch.nan, dtype=torch.float64)
    whole[1:10, 4:10] = x["u_PD"]
    held = x | {"u_PD": whole[1:10, 4:10], "delta_PD": x["delta_PD"].t().contiguous().t(), "A_DN": x["A_DN"].t().contiguous().t()}
    torch.testing.assert_close(selective_scan(**held, cu_seqlens=CU), selective_scan(**x, cu_seqlens=CU))


def test_tokens_on_another_device_are_refused():
    with pytest.raises(KernelInputError, match="delta_PD: on meta, expected cpu"):
        check_tensor("delta_PD", torch.zeros(2, 3, device="meta"), (2, 3), {torch.float32}, torch.zeros(2, 3))
    experts = small_experts((3,), 8, 2, torch.float32)
    with pytest.raises(KernelInputError, match="weights_BE: on meta, expected cpu"):
        expert_dispatch(torch.zeros(2, 2, 8), experts, torch.zeros(2, 1, device="meta"), 2)


def test_ids_out_of_range_are_refused():
    experts = small_experts((3, 3), 8, 2, torch.float32)
    for ids in ([0, 2], [-1, 0]):
        with pytest.raises(KernelInputError, match="expert_B: largest id is"):
            expert_dispatch_assigned(torch.randn(2, 2, 8), experts, torch.tensor(ids), torch.ones(2), 2)


def test_all_pairs_give_every_weight_its_gradient():
    experts, tokens = small_experts((3, 4), 8, 2, torch.float64), torch.randn(2, 2, 8, dtype=torch.float64)
    weights = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    expert_dispatch(tokens, experts, weights, 2, pairs="all").sum().backward()
    expected = [[expert_forward(tokens[b : b + 1], p, 2).sum().item() for p in experts] for b in range(2)]
    torch.testing.assert_close(weights.grad, torch.tensor(expected, dtype=torch.float64))
