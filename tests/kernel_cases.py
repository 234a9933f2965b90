"""What the tests of kernels share: arguments of the scan, outputs and gradients by name, small experts."""

import torch

from kernels.expert_layers import ExpertLayer, ExpertParams

ARGUMENTS = ("u_PD", "delta_PD", "A_DN", "B_PN", "C_PN", "D_D", "z_PD", "delta_bias_D")


def scan_arguments(P, D, N, dtype=torch.float64):
    """Random float64 arguments whose values `dtype` can hold."""
    g = torch.Generator().manual_seed(0)
    shapes = ((P, D), (P, D), (D, N), (P, N), (P, N), (D,), (P, D), (D,))
    drawn = {n: torch.randn(*s, generator=g, dtype=torch.float64) for n, s in zip(ARGUMENTS, shapes, strict=True)}
    return {n: (-torch.exp(t) if n == "A_DN" else t).to(dtype).double() for n, t in drawn.items()}


def with_gradients(function, tensors, dtype, device="cpu", **options):
    """The output of a function of named tensors, and the gradients of a fixed projection of it by name, in float64 on the CPU."""
    leaves = {name: t.detach().to(device, dtype, copy=True).requires_grad_() for name, t in tensors.items()}
    out = function(**leaves, **options)
    direction = torch.linspace(-1, 1, max(out.numel(), 1))[: out.numel()].view(out.shape).to(device, out.dtype)
    (out * direction).sum().backward()
    return {"output": out.detach().double().cpu()} | {name: t.grad.double().cpu() for name, t in leaves.items()}


def assert_close_by_name(found, expected, forward, gradients):
    """Relative error in the 2-norm by name; `forward` bounds the output's, `gradients` the others'."""
    for name, reference in expected.items():
        error = ((found[name] - reference).norm() / reference.norm().clamp(min=1e-12)).item()
        assert error < (forward if name == "output" else gradients), (name, error)


def small_experts(ranks, width, heads, dtype, device="cpu"):
    g = torch.Generator().manual_seed(1)

    def draw(*shape):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * 0.5).to(device, dtype).requires_grad_()

    def layer(r):
        shapes = ((width,), (width,), (3 * heads * r, width), (width, heads * r), (width,), (width,), (width,), (r, width), (r,))
        return ExpertLayer(*(draw(*s) for s in (*shapes, (width, r), (width,))))

    return [ExpertParams(draw(width), (layer(r), layer(r))) for r in ranks]
