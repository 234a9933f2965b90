"""Weights of networks in a local folder: finding them, their hash, and refusing what would have to be unpickled."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from feature_store.errors import EncoderError

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl")


def weight_files(name: str, folder: Path) -> list[Path]:
    """Return a folder's safetensors files. Raises EncoderError where there are none, and says what to do about pickled ones."""
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise EncoderError(
            f"encoder {name}: {', '.join(pickled)} in {folder}, expected safetensors. Loading pickled files runs whatever code "
            "is in them, so they are not loaded here: convert them where nothing can be harmed (docs/slides.md, Weights)."
        )
    raise EncoderError(
        f"encoder {name}: no weights in {folder}, expected *.safetensors. Put them there (docs/slides.md, Weights), or use the "
        "encoder `classical`, which needs none."
    )


def sha256_of_files(paths: Sequence[Path]) -> str:
    """Return the hash of a file, or of several files' names and hashes."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    lines = (f"{path.name}\0{digest}\n" for path, digest in zip(paths, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_strictly(name: str, network: nn.Module, files: Sequence[Path]) -> None:
    """Load weights into a network, every tensor of it and no other. Raises EncoderError that names what is wrong."""
    state: dict[str, Tensor] = {}
    try:
        for path in files:
            state |= load_file(path)
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"encoder {name}: unreadable weights ({error}), expected safetensors. Fetch them again.") from error
    own = network.state_dict()
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is not of it" for key in state if key not in own]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if wrong:
        raise EncoderError(
            f"encoder {name}: {len(wrong)} tensors that do not fit, expected the published weights; first: "
            f"{'; '.join(wrong[:3])}. Put the weights of this model in place."
        )
    with torch.no_grad():
        network.load_state_dict(state, strict=True, assign=True)
    network.float()
