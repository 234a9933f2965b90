"""The fitted feature pipeline, from raw features to the network's inputs: fitted on training rows, saved with the model.

What belongs here: which parts each modality's vector is made of. How a part is fitted is feature_parts.py's.

Shape legend: n cases, d_m width of modality m.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.training_set import TrainingSet, Vectors
from mice_model.feature_parts import ClinicalPart, MutationPart, ReportPart, VectorPart
from mice_model.scaling import FloatArray, IntArray, Scaler
from mice_model.study import FeatureConfig
from mice_model.text import TermCounts

OMICS = ("rna", "copy_number", "mutations", "protein", "measures")


@dataclass(frozen=True)
class Rows:
    """The cases a pipeline is fitted on or applied to: their cancer types (n,), of `num_cancers` (-1: none of them)."""

    cancer_index: IntArray
    num_cancers: int

    def groups(self, within_cancer_types: bool) -> tuple[IntArray, int]:
        """Return the groups to scale within: the cancer types, or one group of all."""
        return (self.cancer_index, self.num_cancers) if within_cancer_types else (np.full_like(self.cancer_index, -1), 0)


@dataclass(frozen=True)
class Encoded:
    """Network inputs of n cases: `vectors` modality -> (n, d_m), zero where absent; `is_present` modality -> (n,).

    `parts`: part -> (modality, first column, end): where each part's own columns stand, less the flag of its presence.
    """

    vectors: dict[str, FloatArray]
    is_present: dict[str, NDArray[np.bool_]]
    parts: dict[str, tuple[str, int, int]]

    def part(self, name: str) -> FloatArray:
        """Return the columns of one part, (n, width)."""
        modality, start, end = self.parts[name]
        return self.vectors[modality][:, start:end]


@dataclass(frozen=True)
class FeaturePipeline:
    """All that is learned from training cases before the network sees a number; None where training had no data for a part."""

    rna: VectorPart | None
    copy_number: VectorPart | None
    mutations: MutationPart | None
    protein: VectorPart | None
    measures: VectorPart | None
    report: ReportPart | None
    clinical: ClinicalPart | None
    patches: Scaler | None
    is_within: bool
    measures_named: tuple[str, ...]  # no part of RNA and copy number, whether `measures` has them or not

    @classmethod
    def fit(
        cls,
        data: TrainingSet,
        counted: TermCounts,
        patches: FloatArray,
        rows: IntArray,
        cases: Rows,
        config: FeatureConfig,
        seed: int,
    ) -> "FeaturePipeline":
        """Fit on `rows` (training cases); `patches` (m, d) is a sample of patches of training cases, empty if there are none."""
        group, num_groups = cases.groups(config.within_cancer_types)
        fitting = (rows, group, num_groups, config)
        wanted = config.omics if "omics" in config.modalities else ()
        genes, copies = _without(data.rna, config.measures), _without(data.copy_number, config.measures)
        return cls(
            rna=VectorPart.fit(genes, "rna", *fitting) if "rna" in wanted else None,
            copy_number=VectorPart.fit(copies, "copy_number", *fitting) if "copy_number" in wanted else None,
            mutations=MutationPart.fit(data.mutations, *fitting) if "mutations" in wanted else None,
            protein=VectorPart.fit(data.protein, "protein", *fitting) if "protein" in wanted else None,
            measures=VectorPart.fit(_measured(data, config.measures), "measures", *fitting) if "measures" in wanted else None,
            report=ReportPart.fit(data, counted, *fitting, seed) if "report" in config.modalities else None,
            clinical=ClinicalPart.fit(data.clinical, *fitting) if "clinical" in config.modalities else None,
            patches=Scaler.fit(patches, config.clip) if len(patches) else None,
            is_within=config.within_cancer_types,
            measures_named=config.measures,
        )

    def encode(self, data: TrainingSet, counted: TermCounts, cases: Rows) -> Encoded:
        """Turn all n cases of a training set into network inputs."""
        group, _ = cases.groups(self.is_within)
        vectors: dict[str, FloatArray] = {}
        is_present: dict[str, NDArray[np.bool_]] = {}
        places: dict[str, tuple[str, int, int]] = {}
        blocks, start = [], 0
        for name, values, there in self._omics(data, group):  # each part is followed by a flag: whether the case has it
            blocks += [values * there[:, None], there[:, None].astype(np.float32)]
            places[name] = ("omics", start, start + values.shape[1])
            start += values.shape[1] + 1
            is_present["omics"] = is_present.get("omics", np.zeros(len(data), bool)) | there
        if blocks:
            vectors["omics"] = np.concatenate(blocks, axis=1, dtype=np.float32)
        whole = {
            "report": None if self.report is None else self.report.encode(data, counted, group),
            "clinical": None if self.clinical is None else self.clinical.encode(data.clinical, group),
        }
        for name, found in whole.items():
            if found is not None:
                values, is_present[name] = found
                vectors[name] = values * is_present[name][:, None]
                places[name] = (name, 0, values.shape[1])
        if self.patches is not None:
            is_present["slide"] = np.array([bool(bags) for bags in data.bags])
        return Encoded(vectors, is_present, places)

    def _omics(self, data: TrainingSet, group: IntArray) -> Iterator[tuple[str, FloatArray, NDArray[np.bool_]]]:
        measured = () if self.measures is None else self.measures.features
        sources = {
            "rna": _without(data.rna, self.measures_named),
            "copy_number": _without(data.copy_number, self.measures_named),
            "protein": data.protein,
            "measures": _measured(data, measured),
        }
        for name in OMICS:
            part = getattr(self, name)
            if isinstance(part, MutationPart):
                yield name, part.encode(data.mutations, group), data.mutations.is_present
            elif isinstance(part, VectorPart):
                yield name, part.encode(sources[name], group), sources[name].is_present


def _without(vectors: Vectors, names: Sequence[str]) -> Vectors:
    """Return the vectors less some features; a case that has only those counts as without."""
    left = np.array([feature not in set(names) for feature in vectors.features], bool)
    if left.all():
        return vectors
    values = vectors.values[:, left]
    features = tuple(feature for feature, is_left in zip(vectors.features, left, strict=True) if is_left)
    is_present = np.logical_and(vectors.is_present, np.isfinite(values).any(axis=1))
    return Vectors(features, values, np.asarray(is_present))


def _measured(data: TrainingSet, names: Sequence[str]) -> Vectors:
    """Return the named features of RNA and copy number side by side, those that there are."""
    sources = (data.rna, data.copy_number)
    columns = {feature: (source, index) for source in sources for index, feature in enumerate(source.features)}
    found = tuple(name for name in names if name in columns)
    values = np.full((len(data), len(found)), np.nan, np.float32)
    for position, name in enumerate(found):
        source, index = columns[name]
        values[:, position] = source.values[:, index]
    return Vectors(found, values, np.asarray(np.isfinite(values).any(axis=1)))
