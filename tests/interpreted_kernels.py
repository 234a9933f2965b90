"""The Triton kernels in Triton's interpreter against the oracles: run by test_kernels_triton.py in a process of its own.

torch.empty is filled with NaN, so that a read of what nobody wrote, or beyond an end, shows. Not
bfloat16: the interpreter's is wrong.
"""

import torch
from kernel_cases import assert_close_by_name, scan_arguments, small_experts, with_gradients

from kernels.backend import recording
from kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference
from kernels.expert_dispatch import expert_dispatch, expert_dispatch_assigned, expert_dispatch_reference
from kernels.expert_layers import flatten
from kernels.selective_scan import selective_scan, selective_scan_reference

HEADS = 2


def poison_empty():
    """Make Tensor.new_empty and torch.empty_like give NaN."""
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like

    def filled(t):
        return t.fill_(torch.nan) if t.is_floating_point() else t

    torch.Tensor.new_empty = lambda self, *a, **k: filled(new_empty(self, *a, **k))
    torch.empty_like = lambda *a, **k: filled(empty_like(*a, **k))


def padded(t):
    """The tensor as a slice of a larger one that holds NaN around it."""
    whole = torch.full((t.shape[0] + 4, t.shape[1] + 4), torch.nan, dtype=t.dtype)
    whole[2:-2, 2:-2] = t
    return whole[2:-2, 2:-2]


def check_scan():
    per_token = ("u_PD", "delta_PD", "B_PN", "C_PN", "z_PD")
    for P, bounds, left_out in ((1, None, ()), (63, None, ("z_PD", "D_D")), (70, [0, 3, 3, 33, 70], ())):
        for dtype, forward, gradients in ((torch.float32, 2e-6, 1e-5), (torch.float16, 1e-2, 2e-2)):
            if dtype == torch.float16 and P == 63:
                continue
            x = {n: t for n, t in scan_arguments(P, 33, 5, dtype).items() if n not in left_out}
            cu = None if bounds is None else torch.tensor(bounds)

            def sliced(**tensors):
                held = {n: padded(t) if n in per_token else t for n, t in tensors.items()}
                return selective_scan(**held, cu_seqlens=cu, backend="triton")  # noqa: B023

            expected = with_gradients(selective_scan_reference, x, torch.float64, cu_seqlens=cu)
            found = with_gradients(sliced, x, dtype)
            assert_close_by_name(found, expected, forward, gradients)
    assert selective_scan(**{n: t.float() for n, t in scan_arguments(0, 4, 2).items()}, backend="triton").shape == (0, 4)


def check_scan_is_repeatable_and_finite():
    x = scan_arguments(40, 32, 4) | {"delta_PD": torch.full((40, 32), 20.0)}
    runs = [with_gradients(selective_scan, x, torch.float32, backend="triton") for _ in range(2)]
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(*(r.values() for r in runs), strict=True))


def check_conv():
    g = torch.Generator().manual_seed(1)
    tensors = {
        n: torch.randn(*s, generator=g, dtype=torch.float64)
        for n, s in (("x_PD", (50, 33)), ("weight_DK", (33, 4)), ("bias_D", (33,)))
    }
    for activation, bounds in (("silu", [0, 2, 2, 37, 50]), (None, [0, 50])):
        cu = torch.tensor(bounds)

        def sliced(x_PD, **rest):
            return causal_conv1d(padded(x_PD), **rest, cu_seqlens=cu, activation=activation, backend="triton")  # noqa: B023

        expected = with_gradients(causal_conv1d_reference, tensors, torch.float64, cu_seqlens=cu, activation=activation)
        assert_close_by_name(with_gradients(sliced, tensors, torch.float32), expected, 2e-6, 1e-5)


def expert_results(function, experts, tokens, weights, dtype):
    leaves = [t.detach().to(dtype).requires_grad_() for t in (tokens, weights)]
    parameters = flatten(experts)
    out = function(leaves[0], experts, leaves[1])
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)).sum().backward()
    grads = {f"{i}": t.grad for i, t in enumerate([*leaves, *parameters])}
    return {"output": out.detach().double()} | {n: None if g is None else g.double() for n, g in grads.items()}


def check_experts():
    g = torch.Generator().manual_seed(2)
    tokens, weights = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 3, 12), (3, 3)))
    weights[:, 2] = 0  # nobody asks expert 2
    weights[0] = 0  # and case 0 asks nobody

    def ours(unused):
        return lambda x, experts, w: expert_dispatch(x, experts, w, HEADS, unused=unused, backend="triton")

    expected = expert_results(
        lambda x, e, w: expert_dispatch_reference(x, e, w, HEADS),
        small_experts((3, 5, 4), 12, HEADS, torch.float64),
        tokens,
        weights,
        torch.float64,
    )
    for unused in ("none", "zero"):
        found = expert_results(ours(unused), small_experts((3, 5, 4), 12, HEADS, torch.float32), tokens, weights, torch.float32)
        for name, reference in expected.items():
            if reference is None:
                assert found[name] is None if unused == "none" else torch.count_nonzero(found[name]) == 0, name
            else:
                error = (found[name] - reference).norm() / reference.norm().clamp(min=1e-9)
                assert error < (2e-6 if name == "output" else 1e-5), (name, error)


def check_assigned():
    g = torch.Generator().manual_seed(3)
    tokens, gate, ids = torch.randn(3, 2, 8, generator=g), torch.tensor([0.0, 1.5, -2.0]), torch.tensor([2, 0, 2])
    experts = small_experts((3, 3, 3), 8, HEADS, torch.float32)
    found = expert_dispatch_assigned(tokens, experts, ids, gate, HEADS, backend="triton")
    plain = expert_dispatch_assigned(tokens, experts, ids, gate, HEADS, backend="torch")
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    poison_empty()
    with recording() as ran:
        check_scan()
        check_scan_is_repeatable_and_finite()
        check_conv()
        check_experts()
        check_assigned()
    assert {"selective_scan=triton", "causal_conv1d=triton", "expert_dispatch=triton"} <= ran
    print("all agree")  # noqa: T201
