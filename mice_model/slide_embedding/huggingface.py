"""Any vision model of Hugging Face's transformers as a patch encoder, from a local folder, or the hub where that is allowed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoConfig, AutoModel

from feature_store.errors import EncoderError
from mice_model.slide_embedding.network import InputNormalisation, NetworkEncoder
from mice_model.slide_embedding.weights import sha256_of_files, weight_files

_PREPROCESSOR = "preprocessor_config.json"
_FETCHED = ["*.safetensors", "config.json", _PREPROCESSOR]


def open_huggingface(name: str, folder: Path, device: str = "", *, uses_hub: bool = False) -> NetworkEncoder:
    """Return the model of `folder`, or with `uses_hub`, where there is no such folder, of the hub under its name.

    The embedding is the class token, or the mean over the picture for networks without one. No code of a model's author is run.
    Raises EncoderError for a folder that holds no vision model, or none in safetensors.
    """
    if not folder.is_dir() and uses_hub:
        folder = Path(snapshot_download(name, allow_patterns=_FETCHED))
    files = weight_files(name, folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        normalisation = _normalisation(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"encoder {name}: {' '.join(str(error).split())[:300]}; expected a vision model of transformers in {folder} "
            f"(config.json, {_PREPROCESSOR}, *.safetensors). Save one there, or correct the name."
        ) from error
    network = getattr(network, "vision_model", network)  # of a model of pictures and texts
    own = getattr(config, "vision_config", config)
    width = getattr(own, "hidden_size", None) or own.hidden_sizes[-1]
    others = [folder / file for file in ("config.json", _PREPROCESSOR)]
    return NetworkEncoder(name, network, _class_token, width, sha256_of_files([*files, *others]), normalisation, device)


def _class_token(network: Callable[..., Any], x: Tensor) -> Tensor:
    found: Tensor = network(pixel_values=x).last_hidden_state
    return found[:, 0] if found.ndim == 3 else found.flatten(2).mean(dim=-1)


def _normalisation(folder: Path) -> InputNormalisation:
    """Read what the model's own preprocessor does to a picture, but for the crop: a patch is taken whole."""
    said = json.loads((folder / _PREPROCESSOR).read_text(encoding="utf-8"))
    size = said.get("crop_size") or said["size"]
    side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
    mean, std = (tuple(map(float, said[key])) for key in ("image_mean", "image_std"))
    return InputNormalisation(int(side), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
