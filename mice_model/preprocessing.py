"""The fitted feature pipeline, from raw features to the network's inputs: fitted on training rows, saved with the model.

Shape legend: n cases, g genes, d_m width of modality m.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.training_set import Mutations, TrainingSet, Vectors
from mice_model.design_matrix import ClinicalDesign, known_moments
from mice_model.positions import shared_positions
from mice_model.study import FeatureConfig
from mice_model.text import TermCounts, TextEncoder

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Scaler:
    """Training mean and standard deviation (1 where constant), each (g,); nan-aware; results are cut at ±clip."""

    mean: FloatArray
    std: FloatArray
    clip: float

    @classmethod
    def fit(cls, values: FloatArray, clip: float) -> "Scaler":
        """Learn from training rows (n, g), nan left out."""
        mean, spread = known_moments(values)
        return cls(mean.astype(np.float32), np.where(spread > 1e-6, spread, 1).astype(np.float32), clip)

    def apply(self, values: FloatArray) -> FloatArray:
        """Return z-scores, 0 (the training mean) where the value is unknown."""
        z = (values - self.mean) / self.std
        return np.where(np.isfinite(z), np.clip(z, -self.clip, self.clip), 0).astype(np.float32)


@dataclass(frozen=True)
class VectorPart:
    """A fitted block of the omics input: which features, and how they are scaled."""

    features: tuple[str, ...]
    scaler: Scaler

    @classmethod
    def fit(cls, vectors: Vectors, rows: NDArray[np.int64], config: FeatureConfig) -> "VectorPart | None":
        """Keep the features that enough training cases with the modality have, and that vary; None if none is left."""
        have = vectors.values[rows[vectors.is_present[rows]]]
        if not len(have):
            return None
        have = np.clip(have, -config.clip, config.clip)  # before the mean: one value of 36,893 would drown all others
        share = np.isfinite(have).mean(axis=0)
        kept = np.flatnonzero((share >= config.min_panel_share) & (known_moments(have)[1] > 1e-6))
        if not len(kept):
            return None
        features = tuple(vectors.features[index] for index in kept)
        return cls(features, Scaler.fit(have[:, kept], config.clip))

    def encode(self, vectors: Vectors) -> FloatArray:
        """Return (n, g) z-scores in this part's feature order; a feature the vectors lack is 0."""
        ours, theirs = shared_positions(self.features, vectors.features)
        out = np.full((len(vectors.values), len(self.features)), np.nan, np.float32)
        out[:, ours] = np.clip(vectors.values[:, theirs], -self.scaler.clip, self.scaler.clip)
        return self.scaler.apply(out)


@dataclass(frozen=True)
class MutationPart:
    """The most often mutated genes of the training cases as 0/1, and the scaled log count of variants."""

    genes: tuple[str, ...]
    scaler: Scaler

    @classmethod
    def fit(cls, mutations: Mutations, rows: NDArray[np.int64], config: FeatureConfig) -> "MutationPart | None":
        """Choose genes by their frequency among sequenced training cases; None if no case was sequenced."""
        sequenced = rows[mutations.is_present[rows]]
        if not len(sequenced):
            return None
        frequency = np.asarray((mutations.counts[sequenced] > 0).sum(axis=0)).ravel()
        kept = np.sort(np.argsort(-frequency, kind="stable")[: config.max_mutated_genes])
        genes = tuple(mutations.genes[index] for index in kept)
        return cls(genes, Scaler.fit(_is_mutated(mutations, genes)[sequenced], config.clip))

    def encode(self, mutations: Mutations) -> FloatArray:
        """Return (n, genes + 1) z-scores."""
        return self.scaler.apply(_is_mutated(mutations, self.genes))


def _reports(text: TextEncoder | None, data: TrainingSet, counted: TermCounts) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return (n, k) and which cases have one: the fitted encoder's projections, or else the embeddings that the store has."""
    if text is not None:
        return text.encode(counted), counted.is_present
    return data.report_embeddings.values, data.report_embeddings.is_present


def _is_mutated(mutations: Mutations, genes: tuple[str, ...]) -> FloatArray:
    """Return (n, genes + 1): 0 or 1 by gene, then the log count of variants; nan where the case was not sequenced."""
    ours, theirs = shared_positions(genes, mutations.genes)
    out = np.zeros((len(mutations.is_present), len(genes) + 1), np.float32)
    out[:, ours] = (mutations.counts[:, theirs] > 0).toarray()
    out[:, -1] = np.log1p(mutations.counts.sum(axis=1)).ravel()
    out[~mutations.is_present] = np.nan
    return out


@dataclass(frozen=True)
class Encoded:
    """Network inputs of n cases: `vectors` modality -> (n, d_m), zero where absent; `is_present` modality -> (n,)."""

    vectors: dict[str, FloatArray]
    is_present: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class FeaturePipeline:
    """All that is learned from training cases before the network sees a number; None where training had no data for a part."""

    rna: VectorPart | None
    copy_number: VectorPart | None
    mutations: MutationPart | None
    text: TextEncoder | None  # None too where reports come embedded
    text_scaler: Scaler | None
    clinical: ClinicalDesign | None
    patches: Scaler | None

    @classmethod
    def fit(
        cls,
        data: TrainingSet,
        counted: TermCounts,
        patches: FloatArray,
        rows: NDArray[np.int64],
        config: FeatureConfig,
        seed: int,
    ) -> "FeaturePipeline":
        """Fit on `rows` (training cases); `patches` (m, d) is a sample of patches of training cases, empty if there are none."""
        text = TextEncoder.fit(counted, rows, config.report_terms, config.report_min_documents, config.report_components, seed)
        reports, has_report = _reports(text, data, counted)
        with_report = rows[has_report[rows]]
        return cls(
            rna=VectorPart.fit(data.rna, rows, config),
            copy_number=VectorPart.fit(data.copy_number, rows, config),
            mutations=MutationPart.fit(data.mutations, rows, config),
            text=text,
            text_scaler=Scaler.fit(reports[with_report], config.clip) if reports.shape[1] and len(with_report) else None,
            clinical=ClinicalDesign.fit(data.clinical[rows]) if "clinical" in config.modalities else None,
            patches=Scaler.fit(patches, config.clip) if len(patches) else None,
        )

    def encode(self, data: TrainingSet, counted: TermCounts) -> Encoded:
        """Turn all n cases of a training set into network inputs."""
        vectors: dict[str, FloatArray] = {}
        is_present: dict[str, NDArray[np.bool_]] = {}
        parts = [
            (part.encode(source), source.is_present)  # type: ignore[arg-type]
            for part, source in (
                (self.rna, data.rna),
                (self.copy_number, data.copy_number),
                (self.mutations, data.mutations),
            )
            if part is not None
        ]
        if parts:  # each part is followed by one column that says whether the case has it
            blocks = [np.concatenate([values * there[:, None], there[:, None]], axis=1) for values, there in parts]
            vectors["omics"] = np.concatenate(blocks, axis=1, dtype=np.float32)
            is_present["omics"] = np.any([there for _, there in parts], axis=0)
        if self.text_scaler is not None:
            reports, has_report = _reports(self.text, data, counted)
            vectors["report"] = self.text_scaler.apply(reports) * has_report[:, None]
            is_present["report"] = has_report
        if self.clinical is not None:
            has_any = data.clinical.select(~pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
            vectors["clinical"] = self.clinical.transform(data.clinical).astype(np.float32) * has_any[:, None]
            is_present["clinical"] = has_any
        if self.patches is not None:
            is_present["slide"] = np.array([bool(bags) for bags in data.bags])
        return Encoded(vectors, is_present)
