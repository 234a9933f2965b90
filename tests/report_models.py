"""A small model of BERT's shape in a folder, as BioBERT lies on the hub: weights, config, and a vocabulary without more."""

import string
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *SPECIAL,
    *string.ascii_letters,
    *(f"##{c}" for c in string.ascii_letters),
    *"0123456789.,:-()",
    "Carcinoma",
    "the",
    "tumor",
)


def save_bert(folder: Path, words: tuple[str, ...] = WORDS, positions: int = 32, seed: int = 0) -> Path:
    """Write a random BERT (width 24, 2 layers, windows of `positions` tokens) with its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=positions,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return folder
