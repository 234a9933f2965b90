"""The one structure that flows from data to model: a batch of cases with packed bags. Tensors and ids only, no store.

Shape legend: B cases, P patches (all bags packed), S bags (cases that have patches), d_m width of modality m.
"""

from collections.abc import Callable
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
        )
