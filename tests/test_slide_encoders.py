"""Patch encoders: UNI's network against transformers', weights that fit and do not, Hugging Face's models, the classical one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, ViTModel
from transformers import ViTConfig as HuggingFaceViTConfig

from faults.pyramids import tissue_tile
from feature_store.contract.rules import Encoder
from feature_store.errors import EncoderError
from mice_model.slide_embedding.classical import ClassicalEncoder
from mice_model.slide_embedding.encoder import open_encoder
from mice_model.slide_embedding.uni import VisionTransformer, ViTConfig, open_uni

SMALL = ViTConfig(width=96, depth=3, num_heads=6)
PREPROCESSOR = {"size": {"height": 224, "width": 224}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.fixture
def tissue() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([tissue_tile(rng, 224) for _ in range(5)])


def random_network(config: ViTConfig) -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(config).eval()
    for name, tensor in network.named_parameters():
        torch.nn.init.normal_(tensor, mean=float(name.endswith(("norm1.weight", "norm2.weight", "norm.weight"))), std=0.05)
        if name.endswith("gamma"):  # at 1e-5 the blocks would hardly count
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return network


def as_dinov2(network: VisionTransformer, config: ViTConfig) -> Dinov2Model:
    """Return transformers' network with the same weights: its names for them are other ones."""
    other = Dinov2Model(
        Dinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            image_size=config.image_px,
            patch_size=config.patch_px,
            use_mask_token=True,
        )
    ).eval()
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    parts = {"norm1": "norm1", "norm2": "norm2", "mlp": "mlp", "attn.proj": "attention.o_proj"}
    state = {"embeddings.mask_token": torch.zeros(1, config.width)}
    for name, tensor in network.state_dict().items():
        if name in names:
            state[names[name]] = tensor
        elif name.startswith("patch_embed.proj."):
            state[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = tensor
        elif name.startswith("norm."):
            state[f"layernorm.{name.removeprefix('norm.')}"] = tensor
        else:
            _, number, rest = name.split(".", 2)
            layer = f"encoder.layer.{number}."
            kind = rest.rpartition(".")[2]
            if rest.startswith("attn.qkv"):
                for part, value in zip("qkv", tensor.chunk(3), strict=True):
                    state[f"{layer}attention.{part}_proj.{kind}"] = value
            elif rest.startswith("ls"):
                state[f"{layer}layer_scale{rest[2]}.lambda1"] = tensor
            else:
                old = next(part for part in parts if rest.startswith(part))
                state[layer + rest.replace(old, parts[old])] = tensor
    other.load_state_dict(state, strict=True)
    return other


def test_unis_network_is_transformers_on_the_same_weights() -> None:
    network = random_network(SMALL)
    pictures = torch.randn(3, 3, 224, 224)
    with torch.inference_mode():
        ours, theirs = network(pictures), as_dinov2(network, SMALL)(pixel_values=pictures).last_hidden_state[:, 0]
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_unis_network_has_the_published_names_and_sizes() -> None:
    with torch.device("meta"):
        state = VisionTransformer().state_dict()
    block = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias", "ls1.gamma"]
    block += ["norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias", "ls2.gamma"]
    outside = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"]
    assert set(state) == {*outside, *(f"blocks.{number}.{name}" for number in range(24) for name in block)}
    assert tuple(state["pos_embed"].shape) == (1, 197, 1024)
    assert tuple(state["blocks.23.attn.qkv.weight"].shape) == (3072, 1024)
    assert sum(tensor.numel() for tensor in state.values()) == 303_350_784


@pytest.fixture
def uni(tmp_path: Path) -> Path:
    folder = tmp_path / "uni"
    folder.mkdir()
    save_file(random_network(SMALL).state_dict(), folder / "model.safetensors")
    return folder


def test_uni_loads_its_weights(uni: Path, tissue: np.ndarray) -> None:
    encoder = open_uni(uni, "cpu", SMALL)
    found = encoder.encode(tissue)
    pictures = torch.from_numpy(tissue).permute(0, 3, 1, 2) / 255
    pictures = (pictures - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.inference_mode():
        expected = random_network(SMALL)(pictures).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found, encoder.encode(tissue))
    assert (encoder.width, encoder.normalisation) == (96, "224 px; mean 0.485 0.456 0.406; std 0.229 0.224 0.225; float32")
    larger = np.repeat(np.repeat(tissue, 2, axis=1), 2, axis=2)
    assert np.abs(encoder.encode(larger) - found).max() < 0.5  # the same picture at twice the size
    assert len(encoder.weight_sha256) == 64


def test_uni_refuses_other_weights_by_name(uni: Path) -> None:
    state = random_network(SMALL).state_dict()
    changes = {
        "blocks.2.ls2.gamma is missing": {k: v for k, v in state.items() if k != "blocks.2.ls2.gamma"},
        "head.weight is not of it": state | {"head.weight": torch.zeros(2, 96)},
        r"pos_embed is \(1, 50, 96\), expected \(1, 197, 96\)": state | {"pos_embed": torch.zeros(1, 50, 96)},
    }
    for message, other in changes.items():
        save_file(other, uni / "model.safetensors")
        with pytest.raises(EncoderError, match=f"encoder uni: 1 tensors that do not fit.*{message}"):
            open_uni(uni, "cpu", SMALL)
    (uni / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EncoderError, match="unreadable weights"):
        open_uni(uni, "cpu", SMALL)


def test_pickled_and_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "uni"
    with pytest.raises(EncoderError, match=r"no weights in .* Put them there"):
        open_uni(folder, "cpu", SMALL)
    folder.mkdir()

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(Trap(), folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model.bin in .* expected safetensors"):
        open_uni(folder, "cpu", SMALL)
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def encoders(tmp_path: Path) -> Path:
    """A folder of encoders' weights with one of Hugging Face's kind, saved as it is published."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    model = ViTModel(HuggingFaceViTConfig(**sizes, image_size=224, patch_size=32))
    model.save_pretrained(tmp_path / "clinic" / "vit")
    (tmp_path / "clinic" / "vit" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    return tmp_path


def test_a_model_of_hugging_face_loads_offline_by_its_name(encoders: Path, tissue: np.ndarray) -> None:
    encoder = open_encoder(Encoder(name="clinic/vit", dim=48), encoders, "cpu")
    model = ViTModel.from_pretrained(encoders / "clinic" / "vit").eval()
    pictures = torch.from_numpy(tissue).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        expected = model(pixel_values=pictures).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(tissue), expected, atol=1e-5)
    assert encoder.normalisation == "224 px; mean 0.5 0.5 0.5; std 0.5 0.5 0.5; float32"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Encoder(name="clinic/vit", dim=1024), "48 values a patch, expected 1024"),
        (Encoder(name="clinic/vit", dim=48, sha256="0" * 64), "expected 0000"),
        (Encoder(name="clinic/other", dim=48), "no weights in"),
        (Encoder(name="../clinic/vit", dim=48), "leads out of"),
        (Encoder(name="classical", dim=1024), "57 values a patch, expected 1024"),
    ],
)
def test_an_encoder_that_is_not_the_declared_one_is_refused(encoders: Path, declared: Encoder, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        open_encoder(declared, encoders, "cpu")


def test_a_folder_that_holds_no_vision_model_is_refused(encoders: Path) -> None:
    (encoders / "clinic" / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match="expected a vision model of transformers"):
        open_encoder(Encoder(name="clinic/vit", dim=48), encoders, "cpu")


def test_the_classical_encoder_measures_what_it_says(tissue: np.ndarray) -> None:
    encoder = ClassicalEncoder()
    found = encoder.encode(tissue)
    assert found.shape == (5, encoder.width)
    np.testing.assert_array_equal(found, encoder.encode(tissue))
    np.testing.assert_array_equal(found[2:3], encoder.encode(tissue[2:3]))  # whatever the others in the batch are
    assert np.isfinite(found).all()
    # a patch of nuclei, and the same ground without
    rows, columns = np.mgrid[:224, :224]
    ground = np.full((224, 224, 3), (226, 160, 192), np.uint8)
    dotted = ground.copy()
    dotted[((rows % 32 - 16) ** 2 + (columns % 32 - 16) ** 2) < 49] = (92, 62, 140)
    number, share, size = encoder.encode(np.stack([dotted, ground]))[:, -6:-3].T
    assert number[0] == pytest.approx(49 / 224**2 * 1e4)
    assert share[0] == pytest.approx(0.145, abs=0.04)
    assert size[0] == pytest.approx(1.0, abs=0.3)
    assert (number[1], share[1]) == (0, 0)
    glass = encoder.encode(np.full((1, 224, 224, 3), 255, np.uint8))
    assert np.isfinite(glass).all()
