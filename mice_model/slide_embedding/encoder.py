"""What a patch encoder is, and finding the one that a contract names.

Belongs here: the interface, the choice by name, and holding an encoder against what was declared. What an encoder computes:
classical.py, uni.py, huggingface.py.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_store.contract.rules import Encoder
from feature_store.errors import EncoderError

CLASSICAL, UNI = "classical", "uni"


class PatchEncoder(Protocol):
    """Turns pictures into vectors, always the same for the same picture in a batch of the same size."""

    name: str
    width: int
    weight_sha256: str
    normalisation: str
    batch_size: int

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (n, width) for RGB patches (n, size, size, 3), n at most `batch_size`."""


def open_encoder(declared: Encoder, encoders: Path, device: str = "", *, uses_hub: bool = False) -> PatchEncoder:
    """Return the encoder that a contract declares: `classical`, `uni`, or a Hugging Face vision model by its name.

    Weights lie in `encoders/<name>`; with `uses_hub`, a Hugging Face model that does not is fetched. `device` is torch's name of
    one; without it, CUDA if there is any. Raises EncoderError for weights that are missing, of another kind, or not those
    declared.
    """
    encoder = _opened(declared, encoders, device, uses_hub=uses_hub)
    if encoder.width != declared.dim:
        raise EncoderError(
            f"encoder {declared.name}: {encoder.width} values a patch, expected {declared.dim} by the contract's `encoder.dim`. "
            "Correct the contract, or put the right weights in place."
        )
    if declared.sha256 and encoder.weight_sha256 != declared.sha256:
        raise EncoderError(
            f"encoder {declared.name}: weights of sha256 {encoder.weight_sha256}, expected {declared.sha256} by the contract. "
            "Put the right weights in place, or give the encoder another name."
        )
    return encoder


def _opened(declared: Encoder, encoders: Path, device: str, *, uses_hub: bool) -> PatchEncoder:
    if declared.name == CLASSICAL:
        from mice_model.slide_embedding.classical import ClassicalEncoder  # noqa: PLC0415 - without torch

        return ClassicalEncoder()
    from mice_model.slide_embedding.huggingface import open_huggingface  # noqa: PLC0415 - torch and transformers
    from mice_model.slide_embedding.uni import open_uni  # noqa: PLC0415

    folder = encoders / declared.name
    if not folder.resolve().is_relative_to(encoders.resolve()):
        raise EncoderError(f"encoder {declared.name!r}: leads out of {encoders}, expected a name. Correct the contract.")
    return (
        open_uni(folder, device) if declared.name == UNI else open_huggingface(declared.name, folder, device, uses_hub=uses_hub)
    )
