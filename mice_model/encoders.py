"""From modality inputs to one feature of the common width per case: slide bags, vectors, stand-ins for the missing.

Belongs here: what happens to one modality before the tokens meet. Does not belong: experts and routing (experts.py),
the choice of who is missing (model.py, from Batch.present), preprocessing (fitted on training cases, before the
batch).

Shape legend: B cases, P patches of all bags, S bags, M modalities, d input width, W common width.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from kernels.backend import Backend
from mice_model.batch import Batch
from mice_model.blocks import BlockKind, FeedForwardBlock, at_least_float32, mlp
from mice_model.config import ModalityConfig, ModelConfig, ScanConfig
from mice_model.mamba import MambaBlock


class SlideEncoder(nn.Module):
    """Packed patch embeddings -> one feature per bag (MambaMIL, arXiv 2403.06800, with one plain Mamba-1 block).

    f = MLP(d -> W); m = f + Mamba(LayerNorm(f)); a = softmax over the bag of Linear(tanh(Linear(m))). The feature is
    sum a_p m_p (`post_mamba`) or sum a_p f_p (`pre_mamba`, as the release pools).
    """

    def __init__(
        self,
        modality: ModalityConfig,
        width: int,
        scan: ScanConfig,
        block: BlockKind,
        dropout: float,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if scan.pool not in {"post_mamba", "pre_mamba"}:
            raise ValueError(f"scan.pool: {scan.pool!r}, expected 'post_mamba' or 'pre_mamba'")
        self.pool = scan.pool
        self.embed = FeedForwardBlock(block, modality.input_dim, width, dropout)
        self.norm = nn.LayerNorm(width)
        self.mamba = MambaBlock(width, scan, backend)
        self.attention = nn.Sequential(nn.Linear(width, scan.attention_dim), nn.Tanh(), nn.Linear(scan.attention_dim, 1))

    def forward(self, patches_Pd: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (S, W) and attention weights (P,), which sum to one over every bag that has patches."""
        f_PW = self.embed(patches_Pd)
        m_PW = f_PW + self.mamba(self.norm(f_PW), cu_seqlens)
        return pooled(m_PW if self.pool == "post_mamba" else f_PW, self.attention(m_PW).squeeze(-1), cu_seqlens)


def pooled(x_PW: Tensor, scores_P: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Return (S, W), sum a_p x_p over each bag, and the weights a (P,), the softmax of the bag's scores."""
    num_bags = cu_seqlens.shape[0] - 1
    lengths_S = cu_seqlens.diff()
    bag_P = torch.arange(num_bags, device=lengths_S.device).repeat_interleave(lengths_S)
    attention_P = segment_softmax(at_least_float32(scores_P), bag_P, num_bags)
    weighted_PW = x_PW * attention_P[:, None]
    return weighted_PW.new_zeros(num_bags, weighted_PW.shape[1]).index_add(0, bag_P, weighted_PW), attention_P


def segment_softmax(scores_P: Tensor, segment_P: Tensor, num_segments: int) -> Tensor:
    """Return (P,): the softmax of the scores within each segment; segments may differ in length and be empty."""
    lowest = scores_P.new_full((num_segments,), -torch.inf)
    # The maximum only guards against overflow: any shift gives the same softmax, so it takes no gradient.
    top_S = lowest.scatter_reduce(0, segment_P, scores_P.detach(), "amax")
    exp_P = torch.exp(scores_P - top_S[segment_P])
    sum_S = scores_P.new_zeros(num_segments).index_add(0, segment_P, exp_P)
    return exp_P / sum_S[segment_P]


class VectorEncoder(nn.Module):
    """(B, d) -> (B, W): one MLP through the modality's hidden widths (omics, reports, clinical variables)."""

    def __init__(self, modality: ModalityConfig, width: int, block: BlockKind, dropout: float) -> None:
        super().__init__()
        self.layers = mlp(block, (modality.input_dim, *modality.hidden, width), dropout)

    def forward(self, x_Bd: Tensor) -> Tensor:
        """Return (B, W)."""
        y: Tensor = self.layers(x_Bd)
        return y


class MissingModality(nn.Module):
    """Cancer embeddings (B, W) -> stand-ins (B, W) for the absent feature of one modality."""

    def __init__(self, width: int, block: BlockKind, dropout: float) -> None:
        super().__init__()
        self.layers = FeedForwardBlock(block, width, width, dropout)

    def forward(self, cancer_BW: Tensor) -> Tensor:
        """Return (B, W)."""
        y: Tensor = self.layers(cancer_BW)
        return y


class PairTokens(nn.Module):
    """A token per pair of modalities: block(W -> W) of the elementwise product of their two features, one block a pair.

    The plainest bilinear interaction: what two modalities say together, beside what each says. The tokens join the
    modalities' own before the pre-encoder, so the router sees them too. A stand-in takes part like a real feature.
    """

    def __init__(self, num_modalities: int, width: int, block: BlockKind, dropout: float) -> None:
        super().__init__()
        self.pairs = tuple(combinations(range(num_modalities), 2))
        self.blocks = nn.ModuleList(FeedForwardBlock(block, width, width, dropout) for _ in self.pairs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the M (M - 1) / 2 tokens, each (B, W), in the order (0, 1), (0, 2), ..., (1, 2), ..."""
        return [block(features[i] * features[j]) for block, (i, j) in zip(self.blocks, self.pairs, strict=True)]


def build_encoder(modality: ModalityConfig, config: ModelConfig) -> nn.Module:
    """Return the modality's encoder: a SlideEncoder for bags, a VectorEncoder for vectors."""
    if modality.kind == "bag":
        return SlideEncoder(modality, config.width, config.scan, config.block, config.dropout, config.kernel_backend)
    if modality.kind == "vector":
        return VectorEncoder(modality, config.width, config.block, config.dropout)
    raise ValueError(f"modality {modality.name}: kind {modality.kind!r}, expected 'bag' or 'vector'")


def encode_present(encoder: nn.Module, modality: ModalityConfig, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the rows that have the modality (int64), their features (rows, W), and patch weights (P,) of a bag encoder.

    Features are None if no case has it: the encoder then gets no gradient, and it never sees a row of zeros.
    """
    rows = batch.present[modality.name].nonzero().squeeze(1)
    if not rows.numel():
        return rows, None, None
    if modality.kind == "vector":
        return rows, encoder(batch.vectors[modality.name].index_select(0, rows)), None
    if not torch.equal(rows, batch.bag_case_S):
        raise ValueError(
            f"batch.present[{modality.name!r}]: cases {rows.tolist()}, expected those of bag_case_S, {batch.bag_case_S.tolist()}"
        )
    return rows, *encoder(batch.patches_Pd, batch.cu_seqlens)


def in_case_order(rows: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Return (B, W) of the parts' rows put where they belong: `rows` together name every case of the batch once."""
    return torch.cat(list(parts)).index_select(0, torch.argsort(torch.cat(list(rows))))
