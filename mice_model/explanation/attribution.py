"""What the networks say of one case: prediction, routing, attention over its patches, and how its report moved the risk.

Belongs here: numbers, all of them from the networks that score the case, averaged over these. Does not belong: choosing the
networks (trained.py), taking the report's part apart (report_terms.py), pictures.

Shape legend: K time bins, E overlapping experts, P patches that the networks saw, k width of the report's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from feature_store.bag_reader import even_rows
from feature_store.bag_record import BagRecord
from feature_store.errors import CaseUnusableError, ModelMissingError, StudyError
from mice_model.batch import Batch
from mice_model.data import FoldData
from mice_model.explanation.report_terms import Contribution, report_contributions
from mice_model.explanation.report_windows import Window
from mice_model.explanation.trained import Networks
from mice_model.protocol import Run

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Survival (K,) at the end of each time bin by the networks of one fold; `edges_days` (K - 1,) are the bins' inner edges."""

    fold: int
    edges_days: tuple[float, ...]
    survival: FloatArray


@dataclass(frozen=True)
class SlideAttention:
    """The patches of a slide that the networks saw: `rows` (n,) of its bag, ascending, and their attention `weight` (n,)."""

    record: BagRecord
    rows: NDArray[np.int64]
    weight: FloatArray


@dataclass(frozen=True)
class ReportShare:
    """The report's part in the risk to first order: `total` is gradient times input.

    `contributions` and `rest` add up to it; the rest is what no part of the text stands for, as values that the scaler cut.
    None where nobody can take this encoder's input apart.
    """

    total: float
    contributions: tuple[Contribution, ...] | None
    rest: float


@dataclass(frozen=True)
class Attribution:
    """One case as its networks see it: means over these, and the risk score of each.

    `is_present`: modality -> whether the case has it; one that it lacks was synthesised. Attention sums to one over all slides.
    """

    risk_score: float
    risk_of_network: tuple[float, ...]
    curves: tuple[Curve, ...]
    routing: FloatArray
    is_present: dict[str, bool]
    slides: tuple[SlideAttention, ...]
    report: ReportShare | None


@dataclass(frozen=True)
class _Seen:
    risk: float
    survival: FloatArray
    routing: FloatArray
    attention: FloatArray
    report_gradient: FloatArray | None


def attribute(run: Run, row: int, networks: Networks, windows: Sequence[Window] | None = None) -> Attribution:
    """Score the case of a row of the training set as the protocol does, and keep why.

    `windows`: of the case's reports, where a text model embedded them.

    Raises CaseUnusableError where the case has nothing that the networks look at, ModelMissingError for networks that are not
    there or of another make.
    """
    seen: list[_Seen] = []
    reports: list[ReportShare] = []
    curves = []
    is_present: dict[str, bool] = {}
    for fold in networks.folds:
        fold_data = run.prepare(fold)
        is_present = _is_present(fold_data, row)
        if not any(is_present.values()):
            raise CaseUnusableError(
                f"case {_case_id(run, row)}: none of {', '.join(run.data.study.features.modalities)}, expected at least one. "
                "See why: mice lineage; choose another case or study."
            )
        batch = fold_data.batch(np.array([row]), None)
        skip_k = _skip_of_reports(fold_data, row)
        of_fold = [_look(_network(run, fold_data, networks.cancer_type, seed), batch, skip_k) for seed in run.data.study.seeds]
        seen += of_fold
        gradients = [one.report_gradient for one in of_fold if one.report_gradient is not None]
        reports += [_report_share(fold_data, row, np.mean(gradients, axis=0), windows)] if gradients else []
        edges = run.time_bins(fold)[1][run.data.training_set.cases["cancer_type"][row]]
        curves.append(Curve(fold, tuple(edges.tolist()), np.mean([one.survival for one in of_fold], axis=0)))
    risks = [one.risk for one in seen]
    return Attribution(
        risk_score=float(np.mean(risks)),
        risk_of_network=tuple(risks),
        curves=tuple(curves),
        routing=np.mean([one.routing for one in seen], axis=0),
        is_present=is_present,
        slides=_by_slide(run, row, np.mean([one.attention for one in seen], axis=0)) if is_present.get("slide") else (),
        report=_mean_share(reports) if reports else None,
    )


def _is_present(fold_data: FoldData, row: int) -> dict[str, bool]:
    there, wanted = fold_data.encoded.is_present, fold_data.data.study.features.modalities
    return {name: bool(there[name][row]) for name in wanted if name in there}


def _look(model: nn.Module, batch: Batch, skip_k: FloatArray | None) -> _Seen:
    """Run one network on a batch of one case, deterministically, as `training.predict` does, and keep the report's gradient.

    `skip_k` (k,): what the report's vector adds to the skip's log risk, which is a way for it to the risk too.
    """
    model.eval()
    device = next(model.parameters()).device
    batch = batch.to(device)
    has_report = "report" in batch.present and bool(batch.present["report"][0])
    if has_report:
        batch.vectors["report"] = report_Bk = batch.vectors["report"].clone().requires_grad_()
        if batch.offset_B is not None and skip_k is not None:
            by_report = (report_Bk - report_Bk.detach()) @ torch.from_numpy(skip_k).to(report_Bk)
            batch.offset_B = batch.offset_B + by_report
    output = model(batch)
    gradient = torch.autograd.grad(output.risk_score_B[0], batch.vectors["report"])[0][0] if has_report else None
    attention = output.attention_P
    return _Seen(
        risk=float(output.risk_score_B[0].detach()),
        survival=_array(output.survival_BK[0]),
        routing=_array(output.routing_BE[0]),
        attention=np.empty(0) if attention is None else _array(attention),
        report_gradient=None if gradient is None else _array(gradient),
    )


def _array(tensor: torch.Tensor) -> FloatArray:
    return tensor.detach().double().cpu().numpy()


def _by_slide(run: Run, row: int, attention_P: FloatArray) -> tuple[SlideAttention, ...]:
    """Cut the case's attention by slide, in the order and with the rows that `FoldData.batch` packs them in."""
    bags = run.data.training_set.bags[row]
    limit = run.data.patches_per_slide(len(bags))
    rows = [even_rows(bag.num_patches, limit) for bag in bags]
    ends = np.cumsum([len(each) for each in rows])
    if ends[-1] != len(attention_P):
        raise AssertionError(f"case of {len(bags)} slides: {len(attention_P)} patches scored, {ends[-1]} expected by the limit")
    parts = np.split(attention_P, ends[:-1])
    return tuple(SlideAttention(bag, each, part) for bag, each, part in zip(bags, rows, parts, strict=True))


def _report_share(fold_data: FoldData, row: int, gradient_k: FloatArray, windows: Sequence[Window] | None) -> ReportShare:
    total = float(gradient_k @ fold_data.encoded.vectors["report"][row])
    parts = report_contributions(fold_data, row, gradient_k, windows)
    if parts is None:
        return ReportShare(total, None, total)
    return ReportShare(total, tuple(parts), total - sum(part.value for part in parts))


def _mean_share(shares: Sequence[ReportShare]) -> ReportShare:
    """Return the mean over folds, whose vocabularies differ: a term that a fold does not know gives nothing there."""
    sums: dict[str, float] = {}
    for share in shares:
        for part in share.contributions or ():
            sums[part.label] = sums.get(part.label, 0.0) + part.value
    is_known = all(share.contributions is not None for share in shares)
    parts = tuple(Contribution(label, value / len(shares)) for label, value in sums.items()) if is_known else None
    return ReportShare(float(np.mean([share.total for share in shares])), parts, float(np.mean([share.rest for share in shares])))


def _network(run: Run, fold_data: FoldData, cancer_type: str, seed: int) -> nn.Module:
    try:
        return run.trained(fold_data, cancer_type, seed)
    except StudyError as error:
        raise ModelMissingError(_unfit(run, f"{cancer_type}-seed{seed}", fold_data.fold, "no weights")) from error
    except RuntimeError as error:
        raise ModelMissingError(_unfit(run, f"{cancer_type}-seed{seed}", fold_data.fold, "weights of other shapes")) from error


def _skip_of_reports(fold_data: FoldData, row: int) -> FloatArray | None:
    if fold_data.skip is None or "report" not in dict(fold_data.skip.skip.parts):
        return None
    return fold_data.skip.skip.gradient("report", int(fold_data.data.cancer_index[row]))


def _unfit(run: Run, name: str, fold: int, found: str) -> str:
    study = run.data.study.name
    return f"study {study}, fold {fold}: {found} in {name}, expected those of its network. Train it: mice run --study {study}."


def _case_id(run: Run, row: int) -> str:
    return str(run.data.training_set.cases["case_id"][row])
