"""The selective scan by mamba-ssm's own operator: an optional backend and the kernel's peer in benchmarks.

Belongs here: turning packed arguments into its layout and back. mamba-ssm has no packed scan, so sequences go one by one. Its
operator brings its own backward; CUDA only, and only where its extension was built.
"""

from itertools import pairwise

import torch
from torch import Tensor

from kernels.backend import KernelBackendError
from kernels.selective_scan_cpu import ScanInputs


def mamba_ssm_scan(x: ScanInputs, softplus: bool, bounds: list[int]) -> Tensor:
    """Return y (P, D). KernelBackendError where mamba-ssm or its CUDA extension is missing, or tokens are not on a GPU."""
    if not x.u.is_cuda:
        raise KernelBackendError(f"backend mamba_ssm: tokens on {x.u.device}, expected a CUDA device. Use `auto` or `torch`.")
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: PLC0415
    except ImportError as error:
        raise KernelBackendError(
            f"backend mamba_ssm: {error}, expected mamba-ssm with selective_scan_cuda. Build it with MAMBA_FORCE_BUILD=TRUE."
        ) from error
    A, D, bias = (None if t is None else t.float() for t in (x.A, x.D, x.bias))
    parts = []
    for start, end in pairwise(bounds):
        if end > start:
            u, delta, B, C, z = (
                None if t is None else t[start:end].t()[None].contiguous() for t in (x.u, x.delta, x.B, x.C, x.z)
            )
            y = selective_scan_fn(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=softplus)
            parts.append(y[0].t())
    return torch.cat(parts).to(x.u.dtype) if parts else torch.zeros_like(x.u)
