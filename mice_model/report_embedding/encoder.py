"""A text model of Hugging Face's transformers as a report encoder: windows over the whole text, pooled, always the same.

Belongs here: loading it, cutting texts, pooling. Does not belong here: cleaning texts (report_cleaning.py), the store.

The paper's authors crop one random window of 512 tokens, in evaluation too; here all windows count, and nothing is random. A
report's vector follows from its own text alone: windows of different reports are never in one batch, whose shape would decide
the last bits.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from feature_store.errors import EncoderError
from mice_model.report_cleaning import CLEANING_VERSION
from mice_model.slide_embedding.weights import sha256_of_files, weight_files

Pooling = Literal["mean", "cls"]

_FETCHED = ["*.safetensors", "*.json", "vocab.txt", "merges.txt", "*.model"]
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_LONGEST_WINDOW = 512  # tokens: what BERT takes, and what longer models are no better for here
_WINDOWS_A_BATCH = 16
_LEAST_SHARE_OF_VOCABULARY = 0.5


@dataclass(frozen=True)
class EmbeddedText:
    """`vector` (width,) float32 of a text; `windows` (w, width): each window's share of it, which add up to it."""

    vector: NDArray[np.float32]
    windows: NDArray[np.float32]


class ReportEncoder:
    """A text model on a device; `width` values a text. `sha256` is over weights, tokenizer and all that decides a vector."""

    def __init__(self, name: str, network: Any, tokenizer: Any, pooling: Pooling, files_sha256: str, device: str = "") -> None:
        self.name, self.pooling, self.width = name, pooling, int(network.config.hidden_size)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._is_cuda = self.device.type == "cuda"
        self._network = network.eval().requires_grad_(requires_grad=False).to(self.device)
        self._tokenizer = tokenizer
        self.window = _longest_window(network.config)
        precision = "bfloat16" if self._is_cuda else "float32"
        recipe = f"{pooling} over windows of {self.window}; cleaning {CLEANING_VERSION}; {precision}; {files_sha256}"
        self.sha256 = hashlib.sha256(recipe.encode()).hexdigest()

    def encode(self, text: str) -> EmbeddedText:
        """Return a text's vector; an empty text's is that of the special tokens alone."""
        return self._pooled(self._windows(text))

    def windows(self, text: str) -> list[str]:
        """Return the text of each window, as the model reads it."""
        return [self._tokenizer.decode(window, skip_special_tokens=True) for window in self._windows(text)["input_ids"]]

    def _windows(self, text: str) -> dict[str, list[list[int]]]:
        """Cut a text into the fewest windows, of equal length but for the last."""
        num_special = self._tokenizer.num_special_tokens_to_add()
        num_tokens = len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        num_windows = max(1, math.ceil(num_tokens / (self.window - num_special)))
        cut = self._tokenizer(
            text,
            max_length=math.ceil(num_tokens / num_windows) + num_special if num_tokens else None,
            truncation=bool(num_tokens),
            return_overflowing_tokens=bool(num_tokens),
            return_special_tokens_mask=True,
        )
        keys = [key for key in ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask") if key in cut]
        return {key: cut[key] if num_tokens else [cut[key]] for key in keys}

    @torch.inference_mode()
    def _pooled(self, windows: dict[str, list[list[int]]]) -> EmbeddedText:
        sums, counts = [], []
        padded = {key: _padded(rows, self._padding(key)) for key, rows in windows.items()}
        is_special = padded.pop("special_tokens_mask").bool()
        for start in range(0, len(is_special), _WINDOWS_A_BATCH):
            batch = {key: rows[start : start + _WINDOWS_A_BATCH].to(self.device) for key, rows in padded.items()}
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._is_cuda):
                hidden = self._network(**batch).last_hidden_state.float()
            if self.pooling == "cls":
                sums.append(hidden[:, 0])
                counts.append(torch.ones(len(hidden), device=self.device))
                continue
            counting = ~is_special[start : start + _WINDOWS_A_BATCH].to(self.device)
            counting = counting if bool(counting.any()) else batch["attention_mask"].bool()
            sums.append((hidden * counting[..., None]).sum(dim=1))
            counts.append(counting.sum(dim=1))
        shares = (torch.cat(sums) / torch.cat(counts).sum()).cpu().numpy()
        return EmbeddedText(shares.sum(axis=0, dtype=np.float32), shares)

    def _padding(self, key: str) -> int:
        return {"input_ids": self._tokenizer.pad_token_id or 0, "special_tokens_mask": 1}.get(key, 0)


def open_report_encoder(
    name: str, encoders: Path, pooling: Pooling, device: str = "", *, uses_hub: bool = False
) -> ReportEncoder:
    """Return the text model of the folder `encoders/<name>`, or with `uses_hub`, where there is none, of the hub.

    No code of a model's author is run and nothing is unpickled. Raises EncoderError for weights or a tokenizer that are missing
    or do not belong together.
    """
    folder = encoders / name
    if not folder.resolve().is_relative_to(encoders.resolve()):
        raise EncoderError(f"encoder {name!r}: leads out of {encoders}, expected a name. Correct the study.")
    if not folder.is_dir() and uses_hub:
        folder = Path(snapshot_download(name, allow_patterns=_FETCHED))
    files = weight_files(name, folder)
    disable_progress_bar()  # of loading weights, which takes no time
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = AutoModel.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        tokenizer = _tokenizer(name, folder, int(config.vocab_size))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"encoder {name}: {' '.join(str(error).split())[:300]}; expected a text model of transformers in {folder} "
            "(config.json, *.safetensors, and its tokenizer's files). Save one there, or correct the name."
        ) from error
    if pooling == "cls" and tokenizer.cls_token_id is None:
        raise EncoderError(f"encoder {name}: its tokenizer has no class token, expected one for pooling `cls`. Take `mean`.")
    others = [folder / file for file in ("config.json", *_TOKENIZER_FILES) if (folder / file).is_file()]
    return ReportEncoder(name, network, tokenizer, pooling, sha256_of_files([*files, *others]), device)


def _tokenizer(name: str, folder: Path, vocab_size: int) -> Any:
    """Return the folder's tokenizer. A folder without its vocabulary would give one of the five special tokens, and no error."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(
            f"encoder {name}: its tokenizer cannot report windows, expected a fast one. Save tokenizer.json with it."
        )
    if not _LEAST_SHARE_OF_VOCABULARY * vocab_size <= len(tokenizer) <= vocab_size:
        raise EncoderError(
            f"encoder {name}: a tokenizer of {len(tokenizer):,} entries in {folder}, expected about the {vocab_size:,} of the "
            "model's config. Put the model's own vocabulary (vocab.txt or tokenizer.json) there."
        )
    # BioBERT, cased, comes with a vocabulary alone, and BERT's tokenizer makes small letters of all unless it is told
    if "tokenizer_config.json" not in {path.name for path in folder.iterdir()} and _is_cased(tokenizer):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, do_lower_case=False)
    return tokenizer


def _is_cased(tokenizer: Any) -> bool:
    """Say whether a vocabulary has words with capital letters, beside the special ones in brackets."""
    return any(token != token.lower() for token in tokenizer.get_vocab() if token.isalpha())


def _longest_window(config: Any) -> int:
    """Return the tokens that a window may have; RoBERTa's kin count positions from after the padding's."""
    offset = config.pad_token_id + 1 if "roberta" in config.model_type and config.pad_token_id is not None else 0
    return min(_LONGEST_WINDOW, int(getattr(config, "max_position_embeddings", _LONGEST_WINDOW)) - offset)


def _padded(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
