"""The honest protocol: for every fold, pre-train on all cancer types without it, fine-tune per cancer type, score it once.

Each step keeps its result under the model version and is skipped where that is there, so an interrupted run goes on. What a fit
does is training.py; which rows it may see is decided here and nowhere else.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feature_store.errors import StudyError
from mice_model.artifacts import load_curve, load_network, load_pipeline, network_path, save_network, save_pipeline
from mice_model.baselines import BaselineRun, FoldInputs, run_fold_baselines
from mice_model.data import FoldData, StudyData
from mice_model.evaluation import HeldOut, TrainingCurve
from mice_model.model import MICE
from mice_model.preprocessing import FeaturePipeline
from mice_model.study import TrainConfig
from mice_model.time_bins import assign_time_bin, fit_time_bins
from mice_model.training import fit, pick_device, predict

logger = logging.getLogger(__name__)

IntArray = NDArray[np.int64]
# A cancer type with fewer training events than this has its time bins from all cancer types together.
_LEAST_EVENTS_FOR_BINS = 20


@dataclass(frozen=True)
class Run:
    """One model version being made: its data, and the folder that keeps its parts."""

    data: StudyData
    folder: Path
    prepared: dict[int, FoldData] = field(default_factory=dict)

    def fold_folder(self, fold: int) -> Path:
        """Return the folder of one held-out fold."""
        return self.folder / f"fold-{fold}"

    def prepare(self, fold: int) -> FoldData:
        """Return the data as a pipeline fitted without `fold` encodes it, time bins too; the newest fold is remembered."""
        if fold in self.prepared:
            return self.prepared[fold]
        path, data = self.fold_folder(fold) / "pipeline", self.data
        rows = data.training_rows(fold)
        data.refuse_held_out(rows, fold)
        pipeline = load_pipeline(path)
        if pipeline is None:
            sample = data.patch_sample(rows) if "slide" in data.study.features.modalities else np.empty((0, 0), np.float32)
            pipeline = FeaturePipeline.fit(data.training_set, data.counted, sample, rows, data.study.features, fold)
            save_pipeline(path, pipeline)
        bins, _ = self.time_bins(fold)
        encoded = pipeline.encode(data.training_set, data.counted)
        self.prepared.clear()
        self.prepared[fold] = FoldData(data, fold, pipeline, encoded, bins)
        return self.prepared[fold]

    def time_bins(self, fold: int) -> tuple[IntArray, dict[str, NDArray[np.float64]]]:
        """Return (bin of every case, inner edges by cancer type), edges fitted on the training rows of `fold`."""
        data, num_bins = self.data.training_set, self.data.study.network.num_time_bins
        rows = self.data.training_rows(fold)
        duration, event = data.duration_days, data.event_observed
        pooled = fit_time_bins(duration[rows], event[rows], num_bins)
        bins, edges = assign_time_bin(duration, pooled), {}
        for index, name in enumerate(self.data.cancer_types):
            ours = rows[self.data.cancer_index[rows] == index]
            enough = event[ours].sum() >= _LEAST_EVENTS_FOR_BINS
            edges[name] = fit_time_bins(duration[ours], event[ours], num_bins) if enough else pooled
            everyone = self.data.cancer_index == index
            bins[everyone] = assign_time_bin(duration[everyone], edges[name])
        return bins, edges

    def network(self, fold_data: FoldData) -> MICE:
        """Return an untrained network of the study's size on the device to train on."""
        config = self.data.study.model_config_for(self.data.cancer_types, fold_data.input_dims)
        return MICE(config).to(pick_device())


def pretrain(run: Run, fold: int) -> list[TrainingCurve]:
    """Pre-train one network per seed on every training row of all cancer types, `fold` held out."""
    study = run.data.study
    check_study(run.data)
    return [
        _fitted(run, fold, seed, Fit("pretrain", "", study.pretrain, run.data.training_rows(fold), None)) for seed in study.seeds
    ]


def finetune(run: Run, fold: int) -> list[TrainingCurve]:
    """Fine-tune, from the fold's pre-trained weights, one network per seed and evaluated cancer type."""
    study = run.data.study
    return [
        _fitted(
            run,
            fold,
            seed,
            Fit("finetune", name, study.finetune, run.data.cohort_rows(name, fold)[0], start_from=""),
        )
        for seed in study.seeds
        for name in study.evaluate
    ]


@dataclass(frozen=True)
class Fit:
    """One network to fit: on which rows, how, and from which weights of the same fold and seed.

    `start_from` names a cancer type, "" the pre-trained network, None random weights.
    """

    stage: str
    cancer_type: str
    config: TrainConfig
    rows: IntArray
    start_from: str | None


def _fitted(run: Run, fold: int, seed: int, what: Fit) -> TrainingCurve:
    """Fit and save one network, or return the curve of the one that is there."""
    path = network_path(run.folder, fold, what.cancer_type, seed)
    saved = load_curve(path)
    if saved is not None:
        return saved
    run.data.refuse_held_out(what.rows, fold)
    fold_data = run.prepare(fold)
    torch.manual_seed(seed)
    model = run.network(fold_data) if what.start_from is None else _loaded(run, fold_data, what.start_from, seed)
    curve = fit(model, fold_data, what.rows, what.config, stage=what.stage, cancer_type=what.cancer_type, fold=fold, seed=seed)
    save_network(path, model.state_dict(), curve)
    return curve


def score_held_out(run: Run) -> tuple[list[HeldOut], tuple[str, ...]]:
    """Score every held-out case with the networks of its fold (mean over seeds) and with the baselines.

    Return the results by cancer type, and the baselines' notes.
    """
    study, results, notes = run.data.study, [], []
    scored = {fold: _score_fold(run, fold) for fold in study.folds}
    for cancer_type in study.evaluate:
        runs = run_fold_baselines([_inputs(run, cancer_type, fold) for fold in study.folds], seed=0)
        notes += [f"{cancer_type}: {note}" for one in runs for note in one.notes]
        results.append(_held_out(run, cancer_type, scored, runs))
    return results, tuple(dict.fromkeys(notes))


@dataclass(frozen=True)
class _Scored:
    risk: NDArray[np.float64]
    survival: NDArray[np.float64]
    routing: NDArray[np.float64]


def _score_fold(run: Run, fold: int) -> dict[str, _Scored]:
    """Return each cancer type's held-out predictions of one fold, averaged over seeds."""
    study, fold_data, found = run.data.study, run.prepare(fold), {}
    for cancer_type in study.evaluate:
        _, rows = run.data.cohort_rows(cancer_type, fold)
        of_seed = [predict(_loaded(run, fold_data, cancer_type, s), fold_data, rows) for s in study.seeds]
        found[cancer_type] = _Scored(
            np.mean([p.risk for p in of_seed], axis=0),
            np.mean([p.survival for p in of_seed], axis=0),
            np.mean([p.routing for p in of_seed], axis=0),
        )
    return found


def _held_out(run: Run, cancer_type: str, scored: dict[int, dict[str, _Scored]], baselines: list[BaselineRun]) -> HeldOut:
    data, folds = run.data.training_set, run.data.study.folds
    rows = [run.data.cohort_rows(cancer_type, fold)[1] for fold in folds]
    everyone = np.concatenate(rows)
    names = [name for name in baselines[0].risk if all(name in one.risk for one in baselines)]
    risk = {"mice": np.concatenate([scored[fold][cancer_type].risk for fold in folds])}
    risk |= {name: np.concatenate([one.risk[name] for one in baselines]) for name in names}
    return HeldOut(
        cancer_type=cancer_type,
        case_id=tuple(data.cases["case_id"][everyone]),
        fold=np.concatenate([np.full(len(r), fold, np.int64) for r, fold in zip(rows, folds, strict=True)]),
        duration_days=data.duration_days[everyone],
        event_observed=data.event_observed[everyone],
        risk_score=risk,
        survival_bins=np.concatenate([scored[fold][cancer_type].survival for fold in folds]),
        bin_edges_days={fold: tuple(run.time_bins(fold)[1][cancer_type].tolist()) for fold in folds},
        routing=np.concatenate([scored[fold][cancer_type].routing for fold in folds]),
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
    )


def _loaded(run: Run, fold_data: FoldData, cancer_type: str, seed: int) -> MICE:
    path = network_path(run.folder, fold_data.fold, cancer_type, seed)
    found = load_network(path)
    if found is None:
        raise StudyError(
            f"study {run.data.study.name}: no weights {path.name} for fold {fold_data.fold}. Run the steps before this one."
        )
    model = run.network(fold_data)
    model.load_state_dict(found[0])
    return model


def check_study(data: StudyData) -> None:
    """Refuse a study whose evaluated cancer types or folds the snapshot does not hold."""
    study = data.study
    unknown = [name for name in study.evaluate if name not in data.cancer_types]
    if unknown:
        raise StudyError(f"study {study.name}: no cases of {unknown}, expected some of {data.cancer_types}. Correct `evaluate`.")
    for cancer_type in study.evaluate:
        for fold in study.folds:
            train, test = data.cohort_rows(cancer_type, fold)
            if not len(test) or not len(train):
                raise StudyError(
                    f"study {study.name}: fold {fold} of {cancer_type} has {len(train)} training and {len(test)} held-out cases, "
                    f"expected some of each in split {study.split}. Correct `folds` or `split`."
                )
