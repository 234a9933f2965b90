"""The training loss of MICE: discrete-time survival likelihood plus alpha times a contrastive term, and two additions.

The additions, off by default, score the risk itself within each cancer type: Cox's partial likelihood, pairwise ranking.

Belongs here: the loss of one batch. Does not belong: time bins (time_bins.py), optimisation, metrics.

Shape legend: B cases, K time bins, V real modality features of the batch (at most B x modalities), W width,
C cancer types of the batch, N the most cases of one of them.
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
RANKING_SCALE = 0.1  # of a risk difference: a tenth of a time bin of expected survival, ours
_LEAST_PROBABILITY = 1e-7  # paper, eq. 2: keeps the logarithm finite


class LossParts(NamedTuple):
    """Scalars: `total`, for backward, is the weighted sum of the others, which are for the log; at weight 0 one reads zero."""

    total: Tensor
    survival: Tensor
    contrastive: Tensor
    cox: Tensor
    ranking: Tensor


def total_loss(
    output: MiceOutput,
    batch: Batch,
    alpha: float = 2.0,
    *,
    survival_weight: float = 1.0,
    cox_weight: float = 0.0,
    ranking_weight: float = 0.0,
) -> LossParts:
    """Return survival_weight * L_surv + alpha * L_con + cox_weight * L_cox + ranking_weight * L_rank of the batch.

    A term of weight 0 is not computed. survival_weight = 0 with the others off is contrastive pre-training.
    """
    if not (alpha or survival_weight or cox_weight or ranking_weight):
        raise ValueError("alpha and the weights: all 0, expected at least one above. There is nothing to train on.")
    zero = output.hazards_BK.new_zeros(())
    survival = contrastive = cox = ranking = total = zero
    if survival_weight:
        survival = survival_nll(output.hazards_BK, output.survival_BK, batch.time_bin_B, batch.event_observed_B)
        total = total + survival_weight * survival
    if alpha:
        contrastive = contrastive_loss(output.modality_features, batch.present)
        total = total + alpha * contrastive
    if cox_weight:
        cox = cox_loss(output.risk_score_B, batch.duration_days_B, batch.event_observed_B, batch.cancer_type_B)
        total = total + cox_weight * cox
    if ranking_weight:
        ranking = ranking_loss(output.risk_score_B, batch.duration_days_B, batch.event_observed_B, batch.cancer_type_B)
        total = total + ranking_weight * ranking
    return LossParts(total, survival, contrastive, cox, ranking)


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


def cox_loss(risk_B: Tensor, duration_days_B: Tensor, event_observed_B: Tensor, cancer_type_B: Tensor) -> Tensor:
    """Return Breslow's negative log partial likelihood of the risk, stratified by cancer type, as a mean over events.

    An event i adds log(sum_j exp(r_j)) - r_i, j over the cases of its cancer type with t_j >= t_i. The loss is zero
    (with a zero gradient) without events. Each type is a row, longest time first: a risk set is then a beginning of
    the row, whose sums come from one logcumsumexp, which neither overflows nor cancels in float32.
    """
    by_time_B = torch.argsort(duration_days_B, descending=True, stable=True)
    order_B = by_time_B[torch.argsort(cancer_type_B[by_time_B], stable=True)]
    risk_B, event_B = at_least_float32(risk_B)[order_B], event_observed_B[order_B]
    if not event_B.any():
        return risk_B.sum() * 0.0
    _, row_B, counts_C = torch.unique_consecutive(cancer_type_B[order_B], return_inverse=True, return_counts=True)
    position_B = torch.arange(len(risk_B), device=risk_B.device)
    column_B = position_B - (counts_C.cumsum(0) - counts_C)[row_B]
    risk_CN = risk_B.new_full((len(counts_C), int(counts_C.max())), -torch.inf).index_put((row_B, column_B), risk_B)
    summed_B = torch.logcumsumexp(risk_CN, dim=1)[row_B, column_B]
    # Cases of equal time share the risk set of the last of them.
    is_new_B = (row_B.diff() != 0) | (duration_days_B[order_B].diff() != 0)
    tie_B = F.pad(is_new_B.cumsum(0), (1, 0))
    last_B = torch.bincount(tie_B).cumsum(0)[tie_B] - 1
    return (summed_B[last_B] - risk_B)[event_B].mean()


def ranking_loss(risk_B: Tensor, duration_days_B: Tensor, event_observed_B: Tensor, cancer_type_B: Tensor) -> Tensor:
    """Return the mean of log(1 + exp(-(r_i - r_j) / s)) over comparable pairs of one cancer type, s = RANKING_SCALE.

    Comparable as in Harrell's C: i died before j's time, or at the time at which j was censored. It is a smooth stand-in
    for 1 - C: as s goes to 0, s times the loss counts each misranked pair by how far it is misranked. Zero (with a zero
    gradient) without such pairs.
    """
    risk_B = at_least_float32(risk_B)
    earlier_BB = duration_days_B[:, None] < duration_days_B
    tied_with_censored_BB = (duration_days_B[:, None] == duration_days_B) & ~event_observed_B
    is_pair_BB = (earlier_BB | tied_with_censored_BB) & event_observed_B[:, None] & (cancer_type_B[:, None] == cancer_type_B)
    i_K, j_K = is_pair_BB.nonzero(as_tuple=True)
    if not len(i_K):
        return risk_B.sum() * 0.0
    return F.softplus((risk_B[j_K] - risk_B[i_K]) / RANKING_SCALE).mean()
