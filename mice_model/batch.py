"""The one structure that flows from data to model: a batch of cases with packed bags. Tensors and ids only, no store.

Shape legend: B cases, P patches (all bags packed), S bags (cases that have patches), d_m width of modality m.
"""

from dataclasses import dataclass

import torch
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

    def __len__(self) -> int:
        """Return the number of cases, B."""
        return len(self.case_ids)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on `device`; ids stay as they are."""
        return Batch(
            case_ids=self.case_ids,
            cancer_type_B=self.cancer_type_B.to(device),
            vectors={k: v.to(device) for k, v in self.vectors.items()},
            present={k: v.to(device) for k, v in self.present.items()},
            patches_Pd=self.patches_Pd.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
            bag_case_S=self.bag_case_S.to(device),
            duration_days_B=self.duration_days_B.to(device),
            event_observed_B=self.event_observed_B.to(device),
            time_bin_B=self.time_bin_B.to(device),
        )
