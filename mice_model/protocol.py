"""The honest protocol: for every fold, pre-train on all cancer types without it, fine-tune per cancer type, score it once.

Each step keeps its result under the model version and is skipped where that is there, so an interrupted run goes on. What a fit
does is training.py; which rows it may see is decided here and nowhere else.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from feature_store.errors import StudyError
from mice_model.artifacts import load_curve, load_fitted, load_network, network_path, save_fitted, save_network
from mice_model.baseline_hazard import fit_baseline
from mice_model.cox_skip import FittedSkip, fit_cox_skip
from mice_model.data import FoldData, StudyData
from mice_model.evaluation import TrainingCurve
from mice_model.neural_baselines import build_network
from mice_model.preprocessing import Encoded, FeaturePipeline
from mice_model.study import Study, TrainConfig
from mice_model.time_bins import assign_time_bin, fit_time_bins
from mice_model.training import fit, pick_device

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
        pipeline = load_fitted(path, FeaturePipeline)
        if pipeline is None:
            sample = data.patch_sample(rows) if "slide" in data.study.features.modalities else np.empty((0, 0), np.float32)
            pipeline = FeaturePipeline.fit(data.training_set, data.counted, sample, rows, data.rows, data.study.features, fold)
            save_fitted(path, pipeline)
        bins, _ = self.time_bins(fold)
        encoded = pipeline.encode(data.training_set, data.counted, data.rows)
        skip = self._skip(fold, rows, encoded)
        baseline = None if skip is None else self._baseline(rows, bins, skip)
        self.prepared.clear()
        self.prepared[fold] = FoldData(data, fold, pipeline, encoded, bins, skip, baseline)
        return self.prepared[fold]

    def _skip(self, fold: int, rows: IntArray, encoded: Encoded) -> FittedSkip | None:
        """Return the skip fitted without `fold`; None where the study has none."""
        config, path = self.data.study.cox_skip, self.fold_folder(fold) / "skip"
        if config is None:
            return None
        saved = load_fitted(path, FittedSkip)
        if saved is None:
            parts = {name: encoded.part(name) for name in encoded.parts}
            saved = fit_cox_skip(parts, self.data.outcomes, rows, config, seed=fold)
            save_fitted(path, saved)
        return saved

    def _baseline(self, rows: IntArray, bins: IntArray, skip: FittedSkip) -> NDArray[np.float32]:
        """Return the baseline hazards' logits, fitted on the training rows given their cross-fitted log risks."""
        data, num_bins = self.data, self.data.study.network.num_time_bins
        event, cancer = data.training_set.event_observed[rows], data.cancer_index[rows]
        return fit_baseline(bins[rows], event, cancer, skip.log_risk[rows], len(data.cancer_types), num_bins)

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

    def network(self, fold_data: FoldData, kind: str = "") -> nn.Module:
        """Return an untrained network of the study's size on the device to train on; `kind` names a baseline."""
        study = self.data.study
        config = study.model_config_for(self.data.cancer_types, fold_data.input_dims)
        if starts_from_nothing(kind):
            config = replace(config, cox_skip=False, head_scale=1.0)
        return build_network(kind or study.network.kind, config).to(pick_device())

    def trained(self, fold_data: FoldData, cancer_type: str, seed: int, kind: str = "") -> nn.Module:
        """Return the network of a cancer type ("": the pre-trained one). Raises StudyError where there is none."""
        path = network_path(self.folder, fold_data.fold, cancer_type, seed, kind)
        found = load_network(path)
        if found is None:
            where = f"no weights {path.name} for fold {fold_data.fold}"
            raise StudyError(f"study {self.data.study.name}: {where}. Run the steps before this one.")
        model = self.network(fold_data, kind)
        model.load_state_dict(found[0])
        return model


def network_kinds_of(study: Study, seed: int) -> tuple[str, ...]:
    """Return the kinds of networks to train with a seed: the study's own (""), and with its first seed the baselines."""
    return ("", *study.baselines) if seed == study.seeds[0] else ("",)


def starts_from_nothing(kind: str) -> bool:
    """Return whether a kind of network is a baseline without the skip, not MICE or MICE with one group of experts."""
    return bool(kind) and not kind.startswith("experts:")


def prepare(run: Run, fold: int, seed: int) -> list[TrainingCurve]:  # noqa: ARG001 - called as the other stages are
    """Fit what a fold's networks share, whatever the seed: the feature pipeline and the skip."""
    check_study(run.data)
    run.prepare(fold)
    return []


def pretrain(run: Run, fold: int, seed: int) -> list[TrainingCurve]:
    """Pre-train one network per kind on every training row of all cancer types, `fold` held out."""
    study = run.data.study
    rows = run.data.training_rows(fold)
    held_out = np.concatenate([run.data.cohort_rows(name, fold)[1] for name in study.evaluate])
    selection = held_out if study.selection == "author" else None
    kinds = network_kinds_of(study, seed)
    configs = {kind: study.baseline_pretrain if starts_from_nothing(kind) else study.pretrain for kind in kinds}
    fits = [Fit("pretrain", "", config, rows, None, selection, kind) for kind, config in configs.items()]
    return [_fitted(run, fold, seed, what) for what in fits]


def finetune(run: Run, fold: int, seed: int) -> list[TrainingCurve]:
    """Fine-tune, from the fold's pre-trained weights, one network per kind and evaluated cancer type."""
    study, fits = run.data.study, []
    for name in study.evaluate:
        rows, held_out = run.data.cohort_rows(name, fold)
        selection = held_out if study.selection == "author" else None
        kinds = network_kinds_of(study, seed)
        fits += [Fit("finetune", name, study.finetune, rows, "", selection, kind) for kind in kinds]
    return [_fitted(run, fold, seed, what) for what in fits]


@dataclass(frozen=True)
class Fit:
    """One network to fit: on which rows, how, and from which weights of the same fold and seed.

    `start_from` names a cancer type, "" the pre-trained network, None random weights. `selection`: the held-out rows that the
    author protocol chooses the epoch by. `kind` names a baseline.
    """

    stage: str
    cancer_type: str
    config: TrainConfig
    rows: IntArray
    start_from: str | None
    selection: IntArray | None = None
    kind: str = ""


def _fitted(run: Run, fold: int, seed: int, what: Fit) -> TrainingCurve:
    """Fit and save one network, or return the curve of the one that is there."""
    path = network_path(run.folder, fold, what.cancer_type, seed, what.kind)
    saved = load_curve(path)
    if saved is not None:
        return saved
    run.data.refuse_held_out(what.rows, fold)
    fold_data = run.prepare(fold)
    torch.manual_seed(seed)
    model = (
        run.network(fold_data, what.kind) if what.start_from is None else run.trained(fold_data, what.start_from, seed, what.kind)
    )
    names = {"stage": what.stage, "cancer_type": what.cancer_type, "fold": fold, "seed": seed}
    curve = fit(model, fold_data, what.rows, what.config, **names, selection=what.selection)  # type: ignore[arg-type]
    save_network(path, model.state_dict(), curve)
    return curve


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
