"""The training loss of MICE: discrete-time survival likelihood plus alpha times a contrastive term.

Belongs here: the loss of one batch. Does not belong: time bins (time_bins.py), optimisation, metrics.

Shape legend: B cases, K time bins, V real modality features of the batch (at most B x modalities), W width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mice_model.batch import Batch
from mice_model.blocks import at_least_float32
from mice_model.model import MiceOutput

TEMPERATURE = 0.1  # paper, eq. 1
_LEAST_PROBABILITY = 1e-7  # paper, eq. 2: keeps the logarithm finite


class LossParts(NamedTuple):
    """Scalars: total = survival + alpha * contrastive. Only `total` is for backward; the parts are for the log."""

    total: Tensor
    survival: Tensor
    contrastive: Tensor


def total_loss(output: MiceOutput, batch: Batch, alpha: float = 2.0) -> LossParts:
    """Return L_surv + alpha * L_con of the batch; at alpha = 0 the contrastive term is not computed and reads zero."""
    survival = survival_nll(output.hazards_BK, output.survival_BK, batch.time_bin_B, batch.event_observed_B)
    if alpha == 0:
        return LossParts(survival, survival, survival.new_zeros(()))
    contrastive = contrastive_loss(output.modality_features, batch.present)
    return LossParts(survival + alpha * contrastive, survival, contrastive)


def survival_nll(hazards_BK: Tensor, survival_BK: Tensor, time_bin_B: Tensor, event_observed_B: Tensor) -> Tensor:
    """Return the mean over cases of -(1 - c)[log S_{y-1} + log h_y] - c log S_y, c = 1 if censored (eq. 2)."""
    y_B1 = time_bin_B[:, None]
    hazard_B = hazards_BK.gather(1, y_B1).squeeze(1)
    before_and_after = F.pad(survival_BK, (1, 0), value=1.0)  # column y is S_{y-1}, column y + 1 is S_y
    before_B = before_and_after.gather(1, y_B1).squeeze(1)
    after_B = before_and_after.gather(1, y_B1 + 1).squeeze(1)
    event_log_likelihood_B = _log(before_B) + _log(hazard_B)
    return -torch.where(event_observed_B, event_log_likelihood_B, _log(after_B)).mean()


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=_LEAST_PROBABILITY).log()


def contrastive_loss(features: Mapping[str, Tensor], present: Mapping[str, Tensor], temperature: float = TEMPERATURE) -> Tensor:
    """Return the supervised contrastive loss over the real features of the batch, a scalar (eq. 1).

    An anchor is a real feature z_i (L2-normalised) whose case has at least one other; its term is the mean over those
    others p of -log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)), a over every other real feature of the batch.
    The loss is the mean over anchors, and zero (with a zero gradient) if there are none. `features` and `present` are
    by modality, (B, W) and (B,).
    """
    mask_MB = torch.stack([present[name] for name in features])
    real_VW = F.normalize(at_least_float32(torch.stack(list(features.values()))[mask_MB]), dim=-1)
    case_V = mask_MB.nonzero()[:, 1]
    positives_B = mask_MB.sum(0) - 1
    positives_V = positives_B[case_V]
    is_anchor_V = positives_V > 0
    # The positives' similarities add up to z_i (sum of the case's features - z_i): no V x V table of who is whose.
    sum_BW = real_VW.new_zeros(mask_MB.shape[1], real_VW.shape[1]).index_add(0, case_V, real_VW)
    positive_sum_V = (real_VW * (sum_BW[case_V] - real_VW)).sum(1) / temperature
    similarity_VV = (real_VW @ real_VW.T / temperature).fill_diagonal_(-torch.inf)
    if not is_anchor_V.any():
        return real_VW.sum() * 0.0
    term_V = torch.logsumexp(similarity_VV, dim=1) - positive_sum_V / positives_V.clamp(min=1)
    return term_V[is_anchor_V].mean()
