"""UNI's network: a ViT-L/16 with layer scale (Dosovitskiy 2021, Touvron 2021), under the key names of its published weights.

Architecture as in Chen et al., Nature Medicine 2024: width 1024, 24 blocks, 16 heads, 224-pixel pictures; the class token is the
embedding. Written from the papers. The weights are Mahmood Lab's, CC BY-NC-ND 4.0 on request: none come with this platform.

Shape legend: n pictures, T tokens, W width, H heads, d width of a head.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mice_model.slide_embedding.encoder import UNI
from mice_model.slide_embedding.network import InputNormalisation, NetworkEncoder
from mice_model.slide_embedding.weights import load_strictly, sha256_of_files, weight_files

IMAGENET = InputNormalisation(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of the network; the defaults are UNI's."""

    width: int = 1024
    depth: int = 24
    num_heads: int = 16
    image_px: int = 224
    patch_px: int = 16
    mlp_ratio: int = 4
    layer_scale: float = 1e-5


class _PatchEmbed(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_px, config.patch_px)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x_nTW: Tensor) -> Tensor:
        n, tokens, width = x_nTW.shape
        qkv = self.qkv(x_nTW).reshape(n, tokens, 3, self.num_heads, width // self.num_heads)
        q_nHTd, k_nHTd, v_nHTd = qkv.permute(2, 0, 3, 1, 4)
        y_nHTd = nn.functional.scaled_dot_product_attention(q_nHTd, k_nHTd, v_nHTd)
        y: Tensor = self.proj(y_nHTd.transpose(1, 2).reshape(n, tokens, width))
        return y


class _LayerScale(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((config.width,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Mlp(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.fc2 = nn.Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return y


class _Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = _Attention(config), _Mlp(config)
        self.ls1, self.ls2 = _LayerScale(config), _LayerScale(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        y: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return y


class VisionTransformer(nn.Module):
    """Normalised pictures (n, 3, image_px, image_px) -> class tokens (n, W)."""

    def __init__(self, config: ViTConfig | None = None) -> None:
        super().__init__()
        config = config or ViTConfig()
        num_tokens = 1 + (config.image_px // config.patch_px) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, config.width))
        self.patch_embed = _PatchEmbed(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, W)."""
        tokens = self.patch_embed(x)
        x_nTW = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        for block in self.blocks:
            x_nTW = block(x_nTW)
        y: Tensor = self.norm(x_nTW[:, 0])
        return y


def open_uni(folder: Path, device: str = "", config: ViTConfig | None = None) -> NetworkEncoder:
    """Return UNI with the weights of a local folder; `config` is for a network of its kind but another size.

    Raises EncoderError for weights that are missing, pickled or of another model.
    """
    files = weight_files(UNI, folder)
    with torch.device("meta"):  # the weights take the place of what would be drawn first
        network = VisionTransformer(config)
    load_strictly(UNI, network, files)
    width = network.norm.normalized_shape[0]
    return NetworkEncoder(UNI, network, lambda run, x: run(x), width, sha256_of_files(files), IMAGENET, device)
