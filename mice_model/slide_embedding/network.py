"""A torch network as a patch encoder: scaling and normalising pictures, batches of one size, mixed precision.

Belongs here: what UNI and Hugging Face's models share. Does not belong here: an architecture, reading weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Patches a batch: on a GPU as many as keep it busy, on a CPU as few as keep a batch in its caches.
_GPU_BATCH, _CPU_BATCH = 256, 16


@dataclass(frozen=True)
class InputNormalisation:
    """What is done to a picture first: scaled to `size_px` squared (bilinear, antialiased), less `mean`, over `std`."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{self.size_px} px; mean {mean}; std {std}"

    def apply(self, patches: Tensor) -> Tensor:
        """Return float32 (n, 3, size_px, size_px) for uint8 patches (n, h, w, 3), on their device."""
        x = patches.permute(0, 3, 1, 2).float() / 255
        if x.shape[-1] != self.size_px:
            x = nn.functional.interpolate(x, (self.size_px, self.size_px), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


class NetworkEncoder:
    """A network on a device. `forward` gives its vectors (n, width) for normalised pictures (n, 3, s, s).

    On CUDA in bfloat16 (float16 where the device has none) under autocast, compiled: batches then have one shape, the last one
    filled up, so that nothing is compiled twice. On a CPU in float32 as it is.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        forward: Callable[[Callable[..., Any], Tensor], Tensor],
        width: int,
        weight_sha256: str,
        normalisation: InputNormalisation,
        device: str = "",
    ) -> None:
        self.name, self.width, self.weight_sha256 = name, width, weight_sha256
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._is_cuda = self.device.type == "cuda"
        self._dtype = torch.bfloat16 if self._is_cuda and torch.cuda.is_bf16_supported() else torch.float16
        self._input = normalisation
        # Precision decides bits of the result: embeddings of one kind never mix with those of another (RecipeFolder.open_for).
        precision = str(self._dtype).removeprefix("torch.") if self._is_cuda else "float32"
        self.normalisation = f"{normalisation}; {precision}"
        self.batch_size = _GPU_BATCH if self._is_cuda else _CPU_BATCH
        self._network = network.eval().requires_grad_(requires_grad=False).to(self.device)
        self._run: Callable[..., Any] = torch.compile(self._network) if self._is_cuda else self._network
        self._forward = forward

    @torch.inference_mode()
    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (n, width) for RGB patches (n, size, size, 3)."""
        num = len(patches)
        batch = torch.from_numpy(np.ascontiguousarray(patches))
        if self._is_cuda:
            batch = batch.pin_memory().to(self.device, non_blocking=True)
            if num < self.batch_size:
                batch = torch.cat([batch, batch[-1:].expand(self.batch_size - num, -1, -1, -1)])
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._is_cuda):
            vectors = self._forward(self._run, self._input.apply(batch))
        found: NDArray[np.float32] = vectors[:num].float().cpu().numpy()
        return found
