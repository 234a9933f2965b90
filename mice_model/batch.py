"""The one structure that flows from data to model: a batch of cases with packed bags. Tensors and ids only, no store.

Shape legend: B cases, P patches (all bags packed), S bags (cases that have patches), M modalities, d_m width of modality m.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Batch:
    """Preprocessed inputs and outcomes of B cases.

    cancer_type_B: int64 index into `ModelConfig.cancer_types`.
    vectors: modality name -> float32 (B, d_m); the row of a case without that modality is zero.
    present: modality name -> bool (B,), for vector modalities and for the bag modality.
    patches_Pd: float32 (P, d) patch embeddings of all bags, one after the other (P may be 0).
    cu_seqlens: int32 (S + 1,), bag s is rows cu_seqlens[s]:cu_seqlens[s+1]; S counts cases with a bag only.
    bag_case_S: int64 (S,), the batch row of bag s, ascending.
    duration_days_B: float32, > 0.  event_observed_B: bool.  time_bin_B: int64 (0 <= bin < num_time_bins).
    offset_B: float32, the log risk that a Cox model fitted beforehand gives the case, zero for a case without one; None
    where no such model was fitted (a network with `cox_skip` refuses that).
    baseline_BK: float32, the logits of the hazards that go with an offset of 0 in the case's cancer type; None for zeros.
    """

    case_ids: list[str]
    cancer_type_B: Tensor
    vectors: dict[str, Tensor]
    present: dict[str, Tensor]
    patches_Pd: Tensor
    cu_seqlens: Tensor
    bag_case_S: Tensor
    duration_days_B: Tensor
    event_observed_B: Tensor
    time_bin_B: Tensor
    offset_B: Tensor | None = None
    baseline_BK: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of cases, B."""
        return len(self.case_ids)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; the copy of a pinned batch to a GPU goes on while the caller does."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pinned(self) -> "Batch":
        """Return the batch in memory that a GPU can copy from by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            case_ids=self.case_ids,
            cancer_type_B=change(self.cancer_type_B),
            vectors={name: change(tensor) for name, tensor in self.vectors.items()},
            present={name: change(tensor) for name, tensor in self.present.items()},
            patches_Pd=change(self.patches_Pd),
            cu_seqlens=change(self.cu_seqlens),
            bag_case_S=change(self.bag_case_S),
            duration_days_B=change(self.duration_days_B),
            event_observed_B=change(self.event_observed_B),
            time_bin_B=change(self.time_bin_B),
            offset_B=None if self.offset_B is None else change(self.offset_B),
            baseline_BK=None if self.baseline_BK is None else change(self.baseline_BK),
        )


def drop_modalities(batch: Batch, probability: float, generator: torch.Generator | None = None) -> Batch:
    """Return the batch with each present modality of each case hidden with `probability`, but never a case's last one.

    Where chance would hide all of a case, one of them, drawn uniformly, stays. A hidden vector is zero, a hidden bag's
    patches are gone, and `present` says so; all else is the batch's own. Draws are made on the CPU.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: {probability}, expected 0 to 1")
    names = list(batch.present)
    present_BM = torch.stack([batch.present[name] for name in names], dim=1)
    draw_BM = torch.rand(present_BM.shape, generator=generator).to(present_BM.device)
    # Of a case that would lose all, the largest draw stays: given that all are below the probability, any is as likely.
    survivor_B1 = draw_BM.masked_fill(~present_BM, -1.0).argmax(dim=1, keepdim=True)
    kept_BM = present_BM & ((draw_BM >= probability).scatter(1, survivor_B1, value=True))
    present = dict(zip(names, kept_BM.unbind(1), strict=True))
    bags = [name for name in names if name not in batch.vectors]
    keep_S = present[bags[0]][batch.bag_case_S] if bags else torch.ones_like(batch.bag_case_S, dtype=torch.bool)
    lengths_S = batch.cu_seqlens.diff()
    return replace(
        batch,
        present=present,
        vectors={name: x.masked_fill(~present[name][:, None], 0.0) for name, x in batch.vectors.items()},
        patches_Pd=batch.patches_Pd[keep_S.repeat_interleave(lengths_S)],
        cu_seqlens=F.pad(lengths_S[keep_S].cumsum(0), (1, 0)).to(batch.cu_seqlens.dtype),
        bag_case_S=batch.bag_case_S[keep_S],
    )
