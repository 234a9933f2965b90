"""The one module of the model that knows the store: reading a study's training set, sampling patches, making batches.

Shape legend: n cases of the training set, B cases of a batch, d patch embedding width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.training_set import TrainingSet, read_training_set
from mice_model.batch import Batch
from mice_model.evaluation import Coverage
from mice_model.preprocessing import Encoded, FeaturePipeline
from mice_model.study import Study
from mice_model.text import TermCounts

IntArray = NDArray[np.int64]

# Patches of a bag looked at to learn the embeddings' scale; the mean of a bag is known well enough from this many.
_SCALE_PATCHES_PER_BAG = 64


@dataclass
class StudyData:
    """A study's cases as read from one snapshot, with what is computed once for all folds. `rows` index its n cases."""

    study: Study
    training_set: TrainingSet
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

    def training_rows(self, fold: int) -> IntArray:
        """Return the rows that may be trained on when `fold` is held out: every usable case of another fold or of none."""
        return np.flatnonzero((self.fold != fold) & (self.cancer_index >= 0))

    def cohort_rows(self, cancer_type: str, fold: int) -> tuple[IntArray, IntArray]:
        """Return (training, held out) rows of one cancer type within the split's own cases."""
        ours = self.cancer_index == self.cancer_types.index(cancer_type)
        return np.flatnonzero(ours & (self.fold >= 0) & (self.fold != fold)), np.flatnonzero(ours & (self.fold == fold))

    def patch_sample(self, rows: IntArray) -> NDArray[np.float32]:
        """Return evenly spaced patches of the bags of `rows`, (m, d); (0, 0) if they have no bags."""
        records = [bag for row in rows for bag in self.training_set.bags[row]]
        if not records:
            return np.empty((0, 0), np.float32)
        patches, _ = self.reader.pack(records, _SCALE_PATCHES_PER_BAG, None)
        return patches

    def coverage(self) -> list[Coverage]:
        """Count cases, events and modalities by cancer type."""
        data, found = self.training_set, []
        there = {
            "rna": data.rna.is_present,
            "copy_number": data.copy_number.is_present,
            "mutations": data.mutations.is_present,
            "report": self.counted.is_present,
            "slide": np.array([bool(bags) for bags in data.bags]),
        }
        for index, name in enumerate(self.cancer_types):
            ours = self.cancer_index == index
            counts = {modality: int(present[ours].sum()) for modality, present in there.items()}
            found.append(Coverage(name, int(ours.sum()), int(data.event_observed[ours].sum()), counts))
        return found


@contextmanager
def open_study(study: Study, home: Home, snapshot_id: int, cohorts: Sequence[str]) -> Iterator[StudyData]:
    """Read the study's training set from a snapshot and yield it with an open bag reader."""
    training_set = read_training_set(
        Lake(home), snapshot_id, cohorts, study.endpoint, study.split, slide_encoder=study.features.slide_encoder
    )
    found = sorted(set(training_set.cases["cancer_type"]) - set(study.leave_out_cancer_types))
    with BagReader(home.bags) as reader:
        yield StudyData(study, training_set, TermCounts.of(training_set.reports), reader, tuple(found))


@dataclass(frozen=True)
class FoldData:
    """A study's data as the pipeline fitted without `fold` encodes it, ready to be cut into batches; `time_bin` (n,)."""

    data: StudyData
    fold: int
    pipeline: FeaturePipeline
    encoded: Encoded
    time_bin: IntArray

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
            patches_Pd=torch.from_numpy(patches),
            cu_seqlens=torch.from_numpy(cu_seqlens),
            bag_case_S=torch.from_numpy(bag_case),
            duration_days_B=torch.from_numpy(data.duration_days[rows].astype(np.float32)),
            event_observed_B=torch.from_numpy(data.event_observed[rows]),
            time_bin_B=torch.from_numpy(self.time_bin[rows]),
        )

    def _bags(self, rows: IntArray, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.int32], IntArray]:
        """Pack the bags of `rows`: all slides of a case one after the other, scaled."""
        scaler = self.pipeline.patches
        if scaler is None:
            return np.empty((0, 1), np.float32), np.zeros(1, np.int32), np.empty(0, np.int64)
        records: list[BagRecord] = []
        ends, bag_case = [0], []
        limit = self.data.study.features.patches_per_case
        for position, row in enumerate(rows):
            bags = self.data.training_set.bags[row]
            if bags:
                records += bags
                ends.append(ends[-1] + len(bags))
                bag_case.append(position)
        if not records:
            return np.empty((0, len(scaler.mean)), np.float32), np.zeros(1, np.int32), np.empty(0, np.int64)
        # the limit is a case's: a case of several slides shares it between them
        widest = max(b - a for a, b in pairwise(ends))
        patches, offsets = self.data.reader.pack(records, max(limit // widest, 1), rng)
        return scaler.apply(patches), offsets[ends].astype(np.int32), np.array(bag_case, dtype=np.int64)
