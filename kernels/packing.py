"""What packed kernels share: the error class, the check of `cu_seqlens`, and each token's place in its sequence.

Does not belong here: the arithmetic of any operation.
"""

from itertools import pairwise

import torch
from torch import Tensor


class KernelInputError(ValueError):
    """An argument of a kernel does not fit; the message names it, what was found, what was expected and what to do."""


def check_cu_seqlens(cu_seqlens: Tensor | None, num_tokens: int) -> list[int]:
    """Return the boundaries [0, ..., num_tokens]; None is one sequence.

    KernelInputError unless they are (S + 1,) integers from 0 to `num_tokens`, never decreasing. Reading a `cu_seqlens` that
    lies on a GPU waits for it; one in host memory costs nothing.
    """
    if cu_seqlens is None:
        return [0, num_tokens]
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() == 0 or cu_seqlens.dtype not in {torch.int32, torch.int64}:
        found = f"{cu_seqlens.dtype} {tuple(cu_seqlens.shape)}"
        raise KernelInputError(f"cu_seqlens: {found}, expected int32 or int64 of shape (S + 1,). Cumulate the lengths from 0.")
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise KernelInputError(f"cu_seqlens: starts at {bounds[0]}, expected 0. Cumulate the lengths from 0.")
    for s, (start, end) in enumerate(pairwise(bounds)):
        if end < start:
            raise KernelInputError(
                f"cu_seqlens: decreases from {start} to {end} at sequence {s}, expected never decreasing. Cumulate the lengths."
            )
    if bounds[-1] != num_tokens:
        raise KernelInputError(
            f"cu_seqlens: ends at {bounds[-1]}, expected the number of tokens, {num_tokens}. Pass the tokens of all sequences."
        )
    return bounds


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtypes: set[torch.dtype], like: Tensor) -> None:
    """KernelInputError unless the tensor has this shape, one of these dtypes, and the device of `like`."""
    if tuple(tensor.shape) != shape:
        raise KernelInputError(f"{name}: shape {tuple(tensor.shape)}, expected {shape} to fit the tokens. Check its axes.")
    if tensor.dtype not in dtypes:
        wanted = " or ".join(sorted(map(str, dtypes)))
        raise KernelInputError(f"{name}: {tensor.dtype}, expected {wanted} to fit the tokens. Convert it with .to().")
    if tensor.device != like.device:
        raise KernelInputError(f"{name}: on {tensor.device}, expected {like.device}, where the tokens are. Move it with .to().")


def positions(bounds: list[int], device: torch.device) -> Tensor:
    """Return int32 (P,): how many tokens of its own sequence come before each token."""
    starts, lengths = torch.tensor(bounds[:-1]), torch.tensor(bounds).diff()
    num_tokens = bounds[-1]
    if len(bounds) == 2:
        return torch.arange(num_tokens, dtype=torch.int32, device=device)
    start_P = torch.repeat_interleave(starts.to(device), lengths.to(device), output_size=num_tokens)
    return (torch.arange(num_tokens, device=device) - start_P).to(torch.int32)
