"""Text models as report encoders: the real loading path offline, every window counted, the same vector every time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from report_models import SPECIAL, WORDS, save_bert
from transformers import AutoModel, BertTokenizer

from feature_store.errors import EncoderError
from mice_model.report_embedding.encoder import ReportEncoder, open_report_encoder

NAME = "lab/small-bert"
TEXT = "the tumor is a Carcinoma (grade 2) of 14 cm, margins free; " * 4


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    save_bert(folder / NAME)
    return folder


@pytest.fixture(scope="module")
def encoder(encoders: Path) -> ReportEncoder:
    return open_report_encoder(NAME, encoders, "mean")


def literally(folder: Path, encoder: ReportEncoder, pooling: str) -> tuple[np.ndarray, int]:
    """Window by window, one at a time, without padding: what the encoder's batches have to give."""
    network = AutoModel.from_pretrained(folder).eval()
    ids = encoder._tokenizer(TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    num_windows = -(-len(ids) // (encoder.window - 2))
    size = -(-len(ids) // num_windows)
    vectors = []
    for start in range(0, len(ids), size):
        window = torch.tensor([[WORDS.index("[CLS]"), *ids[start : start + size], WORDS.index("[SEP]")]])
        with torch.no_grad():
            hidden = network(input_ids=window).last_hidden_state[0]
        vectors += [hidden[0]] if pooling == "cls" else list(hidden[1:-1])
    return torch.stack(vectors).mean(dim=0).numpy(), num_windows


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_all_windows_count(encoders: Path, pooling: str) -> None:
    encoder = open_report_encoder(NAME, encoders, pooling)
    expected, num_windows = literally(encoders / NAME, encoder, pooling)
    found = encoder.encode(TEXT)
    assert num_windows > 3
    assert found.vector.shape == (encoder.width,) == (24,)
    assert found.windows.shape == (num_windows, 24)
    np.testing.assert_allclose(found.vector, expected, atol=1e-5)
    np.testing.assert_allclose(found.windows.sum(axis=0), found.vector, atol=1e-6)
    assert len(encoder.windows(TEXT)) == num_windows
    last = encoder.encode(TEXT.rstrip() + " tumor")
    assert not np.allclose(last.vector, found.vector, atol=1e-4)  # the end of a long text tells


def test_the_same_text_gives_the_same_bits(encoder: ReportEncoder, encoders: Path) -> None:
    first = encoder.encode(TEXT).vector
    encoder.encode("another text before")
    again = open_report_encoder(NAME, encoders, "mean")
    for other in (encoder, again):
        assert np.array_equal(other.encode(TEXT).vector, first)
    assert again.sha256 == encoder.sha256
    assert open_report_encoder(NAME, encoders, "cls").sha256 != encoder.sha256


@pytest.mark.parametrize("text", ["", " ", "\u4e2d"])
def test_a_text_without_words_has_a_vector_all_the_same(encoder: ReportEncoder, text: str) -> None:
    found = encoder.encode(text)
    assert np.isfinite(found.vector).all()
    assert len(found.windows) == 1


def test_the_tokenizer_of_five_tokens(tmp_path: Path, encoder: ReportEncoder) -> None:
    """BertTokenizer(vocab_file=…) gives the special tokens alone and says nothing; so does a folder without its vocabulary."""
    folder = save_bert(tmp_path / NAME)
    assert len(BertTokenizer(vocab_file=str(folder / "vocab.txt"))) == len(SPECIAL)  # the trap is still there
    assert len(encoder._tokenizer) == len(WORDS)
    (folder / "vocab.txt").unlink()
    with pytest.raises(EncoderError, match=r"5 entries|expected a text model"):
        open_report_encoder(NAME, tmp_path, "mean")


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / NAME)
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "one", "two"]), encoding="utf-8")
    with pytest.raises(EncoderError, match=rf"{len(WORDS) + 2} entries .* expected about the {len(WORDS)}"):
        open_report_encoder(NAME, tmp_path, "mean")


def test_a_cased_vocabulary_keeps_its_capitals(tmp_path: Path, encoder: ReportEncoder) -> None:
    """BioBERT is cased and says so nowhere but in its vocabulary."""
    ids = encoder._tokenizer("Carcinoma", add_special_tokens=False)["input_ids"]
    assert ids == [WORDS.index("Carcinoma")]
    uncased = tuple(dict.fromkeys(word if word in SPECIAL else word.lower() for word in WORDS))
    save_bert(tmp_path / NAME, uncased)
    small = open_report_encoder(NAME, tmp_path, "mean")
    assert small._tokenizer("Carcinoma", add_special_tokens=False)["input_ids"] == [uncased.index("carcinoma")]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no weights"):
        open_report_encoder(NAME, tmp_path, "mean")
    with pytest.raises(EncoderError, match="leads out"):
        open_report_encoder("../elsewhere", tmp_path / "encoders", "mean")
    folder = save_bert(tmp_path / NAME)
    (folder / "config.json").write_text('{"model_type": "no such"}', encoding="utf-8")
    with pytest.raises(EncoderError, match="expected a text model"):
        open_report_encoder(NAME, tmp_path, "mean")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="expected safetensors"):
        open_report_encoder(NAME, tmp_path, "mean")
