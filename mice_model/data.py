"""The one module of the model that knows the store: reading a study's training set, sampling patches, making batches.

Shape legend: n cases of the training set, B cases of a batch, d patch embedding width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_store.bag_reader import BagReader
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.leakage import refuse_held_out
from feature_store.training_set import TrainingSet, latest_snapshot, read_training_set, training_set_id
from mice_model.batch import Batch
from mice_model.cox_skip import FittedSkip, Outcomes
from mice_model.evaluation import Coverage
from mice_model.preprocessing import Encoded, FeaturePipeline, Rows
from mice_model.report_cleaning import PreparedReports, prepared
from mice_model.resampling import stratified_split
from mice_model.study import TFIDF, Study
from mice_model.text import TermCounts

IntArray = NDArray[np.int64]

# Patches of a bag looked at to learn the embeddings' scale; the mean of a bag is known well enough from this many.
_SCALE_PATCHES_PER_BAG = 64


@dataclass
class StudyData:
    """A study's cases as read from one snapshot, with what is computed once for all folds. `rows` index its n cases."""

    study: Study
    training_set: TrainingSet
    reports: PreparedReports
    counted: TermCounts
    reader: BagReader
    cancer_types: tuple[str, ...]
    cancer_index: IntArray = field(init=False)

    def __post_init__(self) -> None:
        codes = {name: index for index, name in enumerate(self.cancer_types)}
        self.cancer_index = np.array([codes.get(t, -1) for t in self.training_set.cases["cancer_type"]], dtype=np.int64)

    @property
    def fold(self) -> IntArray:
        """The fold each case is held out in; -1 for a case the split does not place."""
        return self.training_set.cases["fold"].fill_null(-1).to_numpy().astype(np.int64)

    @property
    def rows(self) -> Rows:
        """The cases as the feature pipeline sees them."""
        return Rows(self.cancer_index, len(self.cancer_types))

    @property
    def outcomes(self) -> Outcomes:
        """The cases' outcomes as the skip's fit sees them."""
        data = self.training_set
        return Outcomes(data.duration_days, data.event_observed, self.cancer_index, len(self.cancer_types))

    def training_rows(self, fold: int) -> IntArray:
        """Return the rows that may be trained on when `fold` is held out: every usable case of another fold or of none.

        Of a study with a `training_share`, that share of them, the same for whatever is fitted.
        """
        rows = np.flatnonzero((self.fold != fold) & (self.cancer_index >= 0))
        share = self.study.training_share
        if share == 1:
            return rows
        strata = self.cancer_index[rows] * 2 + self.training_set.event_observed[rows]
        chosen, _ = stratified_split(strata, 1 - share, np.random.default_rng([self.study.training_share_seed, fold]))
        return rows[chosen]

    def refuse_held_out(self, rows: IntArray, fold: int) -> None:
        """Raise LeakageError if any of `rows` is held out in `fold`: for whoever is about to fit something on them."""
        refuse_held_out(self.training_set.cases, rows, fold)

    def cohort_rows(self, cancer_type: str, fold: int) -> tuple[IntArray, IntArray]:
        """Return (training, held out) rows of one cancer type within the split's own cases."""
        ours = self.cancer_index == self.cancer_types.index(cancer_type)
        rows = self.training_rows(fold)
        return rows[ours[rows] & (self.fold[rows] >= 0)], np.flatnonzero(ours & (self.fold == fold))

    def patches_per_slide(self, num_slides: int) -> int:
        """Return the most patches that are taken of each slide of a case: its limit is shared between them."""
        return max(self.study.features.patches_per_case // num_slides, 1)

    def patch_sample(self, rows: IntArray) -> NDArray[np.float32]:
        """Return evenly spaced patches of the bags of `rows`, (m, d); (0, 0) if they have no bags."""
        records = [bag for row in rows for bag in self.training_set.bags[row]]
        if not records:
            return np.empty((0, 0), np.float32)
        patches, _ = self.reader.pack(records, _SCALE_PATCHES_PER_BAG, None)
        return patches

    @property
    def encoders(self) -> dict[str, str]:
        """What made the inputs that are not taken as they are, by modality: the encoder of the reports, of the bags."""
        features = self.study.features
        encoders = {"report": features.report_encoder}
        if features.report_encoder != TFIDF:
            encoders["report"] += f" ({features.report_pooling})"
        slides = sorted({bag.encoder for bags in self.training_set.bags for bag in bags})
        if slides and "slide" in features.modalities:
            encoders["slide"] = slides[0]
        return encoders

    @property
    def has_report(self) -> NDArray[np.bool_]:
        """Which cases have a report with something in it, (n,)."""
        is_counted = self.study.features.report_encoder == TFIDF
        return self.counted.is_present if is_counted else self.training_set.report_embeddings.is_present

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of results has to know of the data."""
        what = "left out before encoding" if self.reports.policy == "mask" else "left in the texts"
        return (f"words about the outcome in reports: {self.reports.outcome_words}; {what}.",)

    def counts(self) -> dict[str, int]:
        """Count cases, those with RNA, mutations, copy number and report, those with a slide, and events."""
        data = self.training_set
        complete = data.rna.is_present & data.mutations.is_present & data.copy_number.is_present & self.has_report
        return {
            "cases": len(data),
            "events": int(data.event_observed.sum()),
            "cases_with_rna_mutations_copy_number_report": int(complete.sum()),
            "cases_with_slide": sum(bool(bags) for bags in data.bags),
        }

    def coverage(self) -> list[Coverage]:
        """Count cases, events and modalities by cancer type."""
        data, found = self.training_set, []
        there = {
            "rna": data.rna.is_present,
            "copy_number": data.copy_number.is_present,
            "mutations": data.mutations.is_present,
            "report": self.has_report,
            "slide": np.array([bool(bags) for bags in data.bags]),
        }
        for index, name in enumerate(self.cancer_types):
            ours = self.cancer_index == index
            counts = {modality: int(present[ours].sum()) for modality, present in there.items()}
            found.append(Coverage(name, int(ours.sum()), int(data.event_observed[ours].sum()), counts))
        return found


def newest_training_set(study: Study, home: Home, cohorts: Sequence[str]) -> tuple[int, str]:
    """Return the newest snapshot that published a cohort, and the content hash of the study's training set in it."""
    lake = Lake(home)
    snapshot_id = latest_snapshot(lake)
    return snapshot_id, training_set_id(lake, snapshot_id, cohorts, study.endpoint, study.split, study.features.report_encoding)


@contextmanager
def open_study(study: Study, home: Home, snapshot_id: int, cohorts: Sequence[str]) -> Iterator[StudyData]:
    """Read the study's training set from a snapshot and yield it with an open bag reader."""
    features = study.features
    training_set = read_training_set(
        Lake(home),
        snapshot_id,
        cohorts,
        study.endpoint,
        study.split,
        slide_encoder=features.slide_encoder,
        report_encoding=features.report_encoding,
    )
    reports = prepared(training_set.reports, training_set.cases["case_id"].to_list(), features.report_outcome_words)
    counted = TermCounts.of(reports.texts if features.report_encoder == TFIDF else [None] * len(training_set))
    found = sorted(set(training_set.cases["cancer_type"]) - set(study.leave_out_cancer_types))
    with BagReader(home.bags) as reader:
        yield StudyData(study, training_set, reports, counted, reader, tuple(found))


@dataclass(frozen=True)
class FoldData:
    """A study's data as the pipeline fitted without `fold` encodes it, ready to be cut into batches; `time_bin` (n,)."""

    data: StudyData
    fold: int
    pipeline: FeaturePipeline
    encoded: Encoded
    time_bin: IntArray
    skip: FittedSkip | None = None  # its log risks are cross-fitted for training cases
    baseline: NDArray[np.float32] | None = None  # (cancer types, time bins), logits of the hazards at a log risk of 0

    @property
    def input_dims(self) -> dict[str, int]:
        """Width of each modality's network input."""
        dims = {name: values.shape[1] for name, values in self.encoded.vectors.items()}
        if self.pipeline.patches is not None:
            dims["slide"] = len(self.pipeline.patches.mean)
        return dims

    def batch(self, rows: IntArray, rng: np.random.Generator | None) -> Batch:
        """Return a batch of `rows`; bags above the study's limit are subsampled at random, or evenly if `rng` is None."""
        data = self.data.training_set
        patches, cu_seqlens, bag_case = self._bags(rows, rng)
        return Batch(
            case_ids=data.cases["case_id"][rows].to_list(),
            cancer_type_B=torch.from_numpy(self.data.cancer_index[rows]),
            vectors={name: torch.from_numpy(values[rows]) for name, values in self.encoded.vectors.items()},
            present={name: torch.from_numpy(there[rows]) for name, there in self.encoded.is_present.items()},
            patches_Pd=patches,
            cu_seqlens=torch.from_numpy(cu_seqlens),
            bag_case_S=torch.from_numpy(bag_case),
            duration_days_B=torch.from_numpy(data.duration_days[rows].astype(np.float32)),
            event_observed_B=torch.from_numpy(data.event_observed[rows]),
            time_bin_B=torch.from_numpy(self.time_bin[rows]),
            offset_B=None if self.skip is None else torch.from_numpy(self.skip.log_risk[rows].astype(np.float32)),
            baseline_BK=None if self.baseline is None else torch.from_numpy(self.baseline[self.data.cancer_index[rows]]),
        )

    def _bags(self, rows: IntArray, rng: np.random.Generator | None) -> tuple[Tensor, NDArray[np.int32], IntArray]:
        """Return the bags of `rows`, scaled and packed, all slides of a case one after the other; bounds; whose they are."""
        scaler, has_slide = self.pipeline.patches, self.encoded.is_present.get("slide", np.zeros(len(self.time_bin), bool))
        bag_case = np.flatnonzero(has_slide[rows])
        if scaler is None or not len(bag_case):
            return torch.empty(0, self.input_dims.get("slide", 1)), np.zeros(1, np.int32), bag_case
        of_case = [self.data.training_set.bags[row] for row in rows[bag_case]]
        num_slides = [len(bags) for bags in of_case]
        limits = [self.data.patches_per_slide(num) for num in num_slides for _ in range(num)]
        packed, bounds = self.data.reader.pack(list(chain.from_iterable(of_case)), limits, rng, np.float16)
        # Scaler.apply for patches, which are never nan: torch widens and scales in place some 4 times as fast as numpy
        patches = torch.from_numpy(packed).float()
        patches.sub_(torch.from_numpy(scaler.mean)).div_(torch.from_numpy(scaler.std)).clamp_(-scaler.clip, scaler.clip)
        return patches, bounds[np.cumsum([0, *num_slides])], bag_case
