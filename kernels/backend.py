"""The one switch between implementations, and the record of which ran.

Belongs here: which backend serves which tensors. Does not belong: any arithmetic. Nothing imports triton or mamba_ssm until a
call wants them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

# `auto` is triton for what it can do on a GPU, torch elsewhere. `mamba_ssm` replaces the scan only; the rest goes as in `auto`.
Backend = Literal["auto", "triton", "torch", "mamba_ssm"]
_TRITON_DTYPES = {torch.float32, torch.float16, torch.bfloat16}
_recorders: list[set[str]] = []


class KernelBackendError(RuntimeError):
    """The backend asked for cannot serve this call."""


def choose(operation: str, backend: str, tokens: Tensor) -> str:
    """Return `triton`, `torch` or `mamba_ssm` for these tokens and record it. KernelBackendError if it cannot be had."""
    if backend not in get_args(Backend):
        raise KernelBackendError(f"backend: {backend!r}, expected one of {get_args(Backend)}. Correct the setting.")
    chosen = backend
    if backend == "auto" or (backend == "mamba_ssm" and operation != "selective_scan"):
        chosen = "triton" if tokens.is_cuda and tokens.dtype in _TRITON_DTYPES and _is_installed("triton") else "torch"
    elif backend == "triton":
        if not _is_installed("triton"):
            raise KernelBackendError("backend triton: not installed, expected triton 3.7. Install the extra `gpu`.")
        if tokens.dtype not in _TRITON_DTYPES:
            raise KernelBackendError(f"backend triton: {tokens.dtype} tokens, expected float32, float16 or bfloat16. Use `auto`.")
        if not (tokens.is_cuda or is_interpreting()):
            raise KernelBackendError(f"backend triton: tokens on {tokens.device}, expected a CUDA device. Use `auto` or `torch`.")
    elif backend == "mamba_ssm" and not _is_installed("mamba_ssm"):
        raise KernelBackendError("backend mamba_ssm: not installed, expected mamba-ssm 2.3.1. Install the extra `mamba`.")
    for names in _recorders:
        names.add(f"{operation}={chosen}")
    return chosen


@contextmanager
def recording() -> Iterator[set[str]]:
    """Yield a set that fills with `operation=backend` of every operation called inside, in any thread."""
    names: set[str] = set()
    _recorders.append(names)
    try:
        yield names
    finally:
        _recorders[:] = [recorder for recorder in _recorders if recorder is not names]


def is_interpreting() -> bool:
    """Return whether Triton's kernels run in its interpreter, on CPU tensors, as the environment says."""
    return os.environ.get("TRITON_INTERPRET", "0") in {"1", "true", "on"}


@lru_cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
