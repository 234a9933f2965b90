"""Scoring the held-out cases, once: by the networks of their fold, by the skip alone, and by the linear and forest baselines.

What belongs here: which risks of which cases are put side by side. How networks are trained is protocol.py's, what a baseline is
baselines.py's. Nothing is fitted here that sees a held-out case.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.progress import tracked
from mice_model.baselines import BaselineRun, FoldInputs, run_fold_baselines
from mice_model.evaluation import HeldOut
from mice_model.protocol import IntArray, Run, network_kinds_of
from mice_model.text import TextEncoder
from mice_model.training import Predicted, predict

_REPORT_COMPONENTS = 40  # of the linear baseline on everything (shared design model.md, section 4)


def score_held_out(run: Run) -> tuple[list[HeldOut], tuple[str, ...]]:
    """Score every held-out case with the networks of its fold (mean over seeds), the skip alone, and the baselines.

    Return the results by cancer type, and the baselines' notes.
    """
    study, results, notes = run.data.study, [], []
    scored = {fold: _score_fold(run, fold) for fold in tracked(study.folds, "scoring held-out cases", len(study.folds))}
    for cancer_type in tracked(study.evaluate, "linear and forest baselines", len(study.evaluate)):
        runs = run_fold_baselines([_inputs(run, cancer_type, fold) for fold in study.folds], seed=0)
        notes += [f"{cancer_type}: {note}" for one in runs for note in one.notes]
        results.append(_held_out(run, cancer_type, scored, runs))
    return results, tuple(dict.fromkeys(notes))


@dataclass(frozen=True)
class _Scored:
    """Held-out predictions of a cancer type and fold, means over seeds; `others`: risks of other networks and of the skip."""

    risk: NDArray[np.float64]
    survival: NDArray[np.float64]
    routing: NDArray[np.float64]
    others: dict[str, NDArray[np.float64]]


def _score_fold(run: Run, fold: int) -> dict[str, _Scored]:
    """Return each cancer type's held-out predictions of one fold."""
    study, fold_data, found = run.data.study, run.prepare(fold), {}
    for cancer_type in study.evaluate:
        _, rows = run.data.cohort_rows(cancer_type, fold)
        of_kind: dict[str, list[Predicted]] = {}
        for seed in study.seeds:
            for kind in network_kinds_of(study, seed):
                one = predict(run.trained(fold_data, cancer_type, seed, kind), fold_data, rows)
                of_kind.setdefault(kind, []).append(one)
        mice = of_kind.pop("")
        others = {kind.replace(":", "_"): np.mean([p.risk for p in of_seed], axis=0) for kind, of_seed in of_kind.items()}
        if fold_data.skip is not None:
            others["skip"] = fold_data.skip.log_risk[rows]
        found[cancer_type] = _Scored(
            np.mean([p.risk for p in mice], axis=0),
            np.mean([p.survival for p in mice], axis=0),
            np.mean([p.routing for p in mice], axis=0),
            others,
        )
    return found


def _held_out(run: Run, cancer_type: str, scored: dict[int, dict[str, _Scored]], baselines: list[BaselineRun]) -> HeldOut:
    data, folds = run.data.training_set, run.data.study.folds
    train = {fold: run.data.cohort_rows(cancer_type, fold)[0] for fold in folds}
    rows = [run.data.cohort_rows(cancer_type, fold)[1] for fold in folds]
    everyone, ours = np.concatenate(rows), [scored[fold][cancer_type] for fold in folds]
    names = [name for name in baselines[0].risk if all(name in one.risk for one in baselines)]
    risk = {"mice": np.concatenate([one.risk for one in ours])}
    risk |= {name: np.concatenate([one.others[name] for one in ours]) for name in ours[0].others}
    risk |= {name: np.concatenate([one.risk[name] for one in baselines]) for name in names}
    return HeldOut(
        cancer_type=cancer_type,
        case_id=tuple(data.cases["case_id"][everyone]),
        fold=np.concatenate([np.full(len(r), fold, np.int64) for r, fold in zip(rows, folds, strict=True)]),
        duration_days=data.duration_days[everyone],
        event_observed=data.event_observed[everyone],
        risk_score=risk,
        survival_bins=np.concatenate([one.survival for one in ours]),
        bin_edges_days={fold: tuple(run.time_bins(fold)[1][cancer_type].tolist()) for fold in folds},
        routing=np.concatenate([one.routing for one in ours]),
        training_outcomes={fold: (data.duration_days[r], data.event_observed[r]) for fold, r in train.items()},
    )


def _inputs(run: Run, cancer_type: str, fold: int) -> FoldInputs:
    """Return what the baselines see: the same training and held-out cases as fine-tuning, raw features."""
    data = run.data.training_set
    train, test = run.data.cohort_rows(cancer_type, fold)
    mutations = data.mutations.counts[np.concatenate([train, test])]
    frequent = np.flatnonzero(np.asarray((mutations[: len(train)] > 0).mean(axis=0)).ravel() >= 0.02)
    mutated = np.asarray((mutations[:, frequent] > 0).todense(), dtype=np.float64)
    has_rna = data.rna.is_present[train].any()
    rna = data.rna.values.astype(np.float64) if has_rna else None
    copies = data.copy_number.values.astype(np.float64)
    reports = _report_components(run, train)
    return FoldInputs(
        clinical_train=data.clinical[train],
        clinical_test=data.clinical[test],
        omics_train={
            "rna": None if rna is None else rna[train],
            "copy_number": copies[train],
            "mutations": mutated[: len(train)],
        },
        omics_test={
            "rna": None if rna is None else rna[test],
            "copy_number": copies[test],
            "mutations": mutated[len(train) :],
        },
        duration_train=data.duration_days[train],
        event_train=data.event_observed[train],
        report_train=None if reports is None else reports[train],
        report_test=None if reports is None else reports[test],
        all_numeric_columns=run.data.study.features.clinical_numeric,
    )


def _report_components(run: Run, train: IntArray) -> NDArray[np.float64] | None:
    """Return the reports of all cases (n, k) by an encoder fitted on `train`, or as the store has them; None without reports."""
    features, counted = run.data.study.features, run.data.counted
    if features.report_encoding is not None:
        return run.data.training_set.report_embeddings.values.astype(np.float64)
    text = TextEncoder.fit(counted, train, features.report_terms, features.report_min_documents, _REPORT_COMPONENTS, seed=0)
    return None if text is None else text.encode(counted).astype(np.float64)
