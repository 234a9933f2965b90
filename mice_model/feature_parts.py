"""The parts of the network's inputs, fitted on training rows and applied to any: omics vectors, mutations, reports, clinical.

What belongs here: what is learned of one kind of feature (which features, components, categories). Scaling is scaling.py's, what
goes together into a modality preprocessing.py's. `group` (n,) says within which group a case is scaled, -1 within all.

Shape legend: n cases, g features, k components.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from feature_store.training_set import Mutations, TrainingSet, Vectors
from mice_model.design_matrix import known_moments
from mice_model.positions import shared_positions
from mice_model.scaling import FloatArray, GroupScaler, IntArray
from mice_model.study import FeatureConfig
from mice_model.text import TermCounts, TextEncoder

# Values are cut there before anything is learned: published RNA z-scores reach 36,893, and one such value would drown a mean.
_LIMITS = {"rna": 20.0, "copy_number": 20.0, "protein": 20.0}
_NO_LIMIT = 1e9


@dataclass(frozen=True)
class Components:
    """Principal components of z-scores as (g, k), scaled together to a mean square of 1: large components stay large."""

    directions: FloatArray

    @classmethod
    def fit(cls, scaled: FloatArray, num_components: int, seed: int) -> "Components":
        """Fit on training cases (n, g)."""
        rank = min(num_components, len(scaled) - 1, scaled.shape[1])
        pca = PCA(rank, svd_solver="randomized", random_state=seed).fit(scaled)
        size = np.sqrt(np.square(pca.transform(scaled)).mean())
        return cls((pca.components_.T / max(size, 1e-9)).astype(np.float32))

    def apply(self, scaled: FloatArray) -> FloatArray:
        """Return (n, k); a case at the training mean of everything has zeros."""
        return scaled @ self.directions


def _components(scaled: FloatArray, name: str, config: FeatureConfig) -> Components | None:
    wanted = config.components.get(name, 0)
    return Components.fit(scaled, wanted, seed=0) if wanted and len(scaled) > 2 else None


@dataclass(frozen=True)
class VectorPart:
    """A fitted block of the omics input: which features, how they are scaled, which components of them are taken (None: all)."""

    features: tuple[str, ...]
    limit: float  # values beyond are cut before scaling
    scaler: GroupScaler
    components: Components | None

    @classmethod
    def fit(
        cls, vectors: Vectors, name: str, rows: IntArray, group: IntArray, num_groups: int, config: FeatureConfig
    ) -> "VectorPart | None":
        """Keep the features that enough training cases with the modality have, and that vary; None if none is left."""
        there = rows[vectors.is_present[rows]]
        limit = _LIMITS.get(name, _NO_LIMIT)
        have = np.clip(vectors.values[there], -limit, limit)
        share = np.isfinite(have).mean(axis=0) if len(there) else np.zeros(have.shape[1])
        kept = np.flatnonzero((share >= config.min_panel_share) & (known_moments(have)[1] > 1e-6))
        if not len(kept):
            return None
        features = tuple(vectors.features[index] for index in kept)
        scaler = GroupScaler.fit(have[:, kept], group[there], num_groups, config.clip)
        return cls(features, limit, scaler, _components(scaler.apply(have[:, kept], group[there]), name, config))

    def encode(self, vectors: Vectors, group: IntArray) -> FloatArray:
        """Return (n, g) z-scores or (n, k) components; a feature the vectors lack is 0."""
        ours, theirs = shared_positions(self.features, vectors.features)
        values = np.full((len(vectors.values), len(self.features)), np.nan, np.float32)
        values[:, ours] = np.clip(vectors.values[:, theirs], -self.limit, self.limit)
        scaled = self.scaler.apply(values, group)
        return scaled if self.components is None else self.components.apply(scaled)


@dataclass(frozen=True)
class MutationPart:
    """The most often mutated genes of the training cases as 0/1 or as components, and last the log count of variants, scaled."""

    genes: tuple[str, ...]
    scaler: GroupScaler
    components: Components | None

    @classmethod
    def fit(
        cls, mutations: Mutations, rows: IntArray, group: IntArray, num_groups: int, config: FeatureConfig
    ) -> "MutationPart | None":
        """Choose genes by their frequency among sequenced training cases; None if no case was sequenced."""
        sequenced = rows[mutations.is_present[rows]]
        if not len(sequenced):
            return None
        frequency = np.asarray((mutations.counts[sequenced] > 0).sum(axis=0)).ravel()
        kept = np.sort(np.argsort(-frequency, kind="stable")[: config.max_mutated_genes])
        genes = tuple(mutations.genes[index] for index in kept)
        found = _is_mutated(mutations, genes)[sequenced]
        scaler = GroupScaler.fit(found, group[sequenced], num_groups, config.clip)
        return cls(genes, scaler, _components(scaler.apply(found, group[sequenced])[:, :-1], "mutations", config))

    def encode(self, mutations: Mutations, group: IntArray) -> FloatArray:
        """Return (n, genes + 1) or (n, k + 1)."""
        scaled = self.scaler.apply(_is_mutated(mutations, self.genes), group)
        if self.components is None:
            return scaled
        return np.concatenate([self.components.apply(scaled[:, :-1]), scaled[:, -1:]], axis=1)


def _is_mutated(mutations: Mutations, genes: tuple[str, ...]) -> FloatArray:
    """Return (n, genes + 1): 0 or 1 by gene, then the log count of variants; nan where the case was not sequenced."""
    ours, theirs = shared_positions(genes, mutations.genes)
    out = np.zeros((len(mutations.is_present), len(genes) + 1), np.float32)
    out[:, ours] = (mutations.counts[:, theirs] > 0).toarray()
    out[:, -1] = np.log1p(mutations.counts.sum(axis=1)).ravel()
    out[~mutations.is_present] = np.nan
    return out


@dataclass(frozen=True)
class ReportPart:
    """The reports' vectors, scaled: the fitted encoder's projections or else (`text` is None) the store's embeddings."""

    text: TextEncoder | None
    scaler: GroupScaler

    @classmethod
    def fit(
        cls,
        data: TrainingSet,
        counted: TermCounts,
        rows: IntArray,
        group: IntArray,
        num_groups: int,
        config: FeatureConfig,
        seed: int,
    ) -> "ReportPart | None":
        """Fit the encoder, where texts themselves are encoded, and the scaling; None where training has no reports."""
        terms = (config.report_terms, config.report_min_documents, config.report_components)
        text = None if config.report_encoding else TextEncoder.fit(counted, rows, *terms, seed)
        reports, has_report = _reports(text, data, counted)
        there = rows[has_report[rows]]
        if not reports.shape[1] or not len(there):
            return None
        return cls(text, GroupScaler.fit(reports[there], group[there], num_groups, config.clip))

    def encode(self, data: TrainingSet, counted: TermCounts, group: IntArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return (n, k), and which cases have a report."""
        reports, has_report = _reports(self.text, data, counted)
        return self.scaler.apply(reports, group), has_report


def _reports(text: TextEncoder | None, data: TrainingSet, counted: TermCounts) -> tuple[FloatArray, NDArray[np.bool_]]:
    if text is not None:
        return text.encode(counted), counted.is_present
    return data.report_embeddings.values, data.report_embeddings.is_present


@dataclass(frozen=True)
class ClinicalPart:
    """Clinical variables as columns, scaled: numbers, 0/1 per category of the training cases, a flag per column with gaps."""

    numeric: tuple[str, ...]
    categories: tuple[tuple[str, tuple[str, ...]], ...]  # column -> its values in training, ascending
    flagged: tuple[str, ...]  # columns with a missing value in training
    products: tuple[tuple[int, int], ...]  # pairs of scaled columns whose products, cut as these are, come last
    scaler: GroupScaler

    @classmethod
    def fit(
        cls, clinical: pl.DataFrame, rows: IntArray, group: IntArray, num_groups: int, config: FeatureConfig
    ) -> "ClinicalPart | None":
        """Learn categories, gaps and scales; columns without any value in training are left out, None where all are."""
        train = clinical[rows]
        numeric = tuple(name for name in config.clinical_numeric if train[name].drop_nulls().len())
        categorical = [name for name in config.clinical_categorical if train[name].drop_nulls().len()]
        if not numeric and not categorical:
            return None
        categories = tuple((name, tuple(sorted(train[name].drop_nulls().cast(pl.String).unique()))) for name in categorical)
        flagged = tuple(name for name in (*numeric, *categorical) if train[name].null_count())
        columns = _clinical_columns(train, numeric, categories, flagged)
        known = [pair for pair in config.clinical_products if set(pair) <= set(numeric)]
        products = tuple((numeric.index(one), numeric.index(other)) for one, other in known)
        return cls(numeric, categories, flagged, products, GroupScaler.fit(columns, group[rows], num_groups, config.clip))

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of `encode`, in order."""
        values = [f"{name} = {value}" for name, found in self.categories for value in found]
        products = [f"{self.numeric[one]} x {self.numeric[other]}" for one, other in self.products]
        return (*self.numeric, *values, *(f"{name} missing" for name in self.flagged), *products)

    def encode(self, clinical: pl.DataFrame, group: IntArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return (n, columns), and which cases have any value."""
        named = [*self.numeric, *(name for name, _ in self.categories)]
        has_any = clinical.select(~pl.all_horizontal(pl.col(named).is_null())).to_series().to_numpy()
        scaled = self.scaler.apply(_clinical_columns(clinical, self.numeric, self.categories, self.flagged), group)
        # a square has the mean 1 over training cases, where all else has the mean 0
        products = [scaled[:, one] * scaled[:, other] - (one == other) for one, other in self.products]
        clip = self.scaler.clip
        return np.column_stack([scaled, *(np.clip(column, -clip, clip) for column in products)]).astype(np.float32), has_any


def _clinical_columns(
    table: pl.DataFrame, numeric: tuple[str, ...], categories: tuple[tuple[str, tuple[str, ...]], ...], flagged: tuple[str, ...]
) -> FloatArray:
    """Return (n, columns), nan where a number or a category is unknown."""
    numbers = [pl.col(name).cast(pl.Float32).fill_null(float("nan")) for name in numeric]
    kinds = [
        (pl.col(name).cast(pl.String) == value).cast(pl.Float32).fill_null(float("nan")).alias(f"{name}={value}")
        for name, found in categories
        for value in found
    ]
    gaps = [pl.col(name).is_null().cast(pl.Float32).alias(f"{name} missing") for name in flagged]
    return table.select(*numbers, *kinds, *gaps).to_numpy().astype(np.float32)
