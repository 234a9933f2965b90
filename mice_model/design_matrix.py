"""Numbers for linear models: clinical columns, moments and principal components, fitted on training cases only.

What belongs here: what is learned from training cases (medians, means, categories, components) and applied to others.
No survival times, no model fit. Nothing in a fitted object depends on a test case.

Shapes: n training cases, m test cases, p columns, G genes (or other omics features), k components.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from feature_store.errors import ColumnMissingError

FloatArray = NDArray[np.float64]

DEFAULT_NUMERIC = ("age_at_diagnosis_years", "stage", "grade")
DEFAULT_CATEGORICAL = ("sex",)


@dataclass(frozen=True)
class NumericColumn:
    """A numeric column's training median (for missing values), mean and standard deviation (1 where constant)."""

    name: str
    median: float
    mean: float
    std: float
    has_missing: bool


@dataclass(frozen=True)
class CategoricalColumn:
    """A categorical column's values seen in training, ascending; any other value of a test case gets zeros."""

    name: str
    categories: tuple[str, ...]
    has_missing: bool


@dataclass(frozen=True)
class ClinicalDesign:
    """A fitted map from a clinical table to a matrix (n, p).

    Per numeric column: the z-score after median imputation. Per category seen in training: 0 or 1. Per column with a
    missing value in training: an indicator. `left_out` names the columns without any value in training.
    """

    numeric: tuple[NumericColumn, ...]
    categorical: tuple[CategoricalColumn, ...]
    left_out: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        train: pl.DataFrame,
        numeric: Sequence[str] = DEFAULT_NUMERIC,
        categorical: Sequence[str] = DEFAULT_CATEGORICAL,
    ) -> "ClinicalDesign":
        """Learn medians, scales and categories from training cases; ColumnMissingError names an absent column."""
        for name in (*numeric, *categorical):
            _require(train, name)
        is_empty = {name: train[name].drop_nulls().drop_nans().is_empty() for name in numeric}
        is_empty |= {name: train[name].drop_nulls().is_empty() for name in categorical}
        return cls(
            numeric=tuple(_fit_numeric(train, name) for name in numeric if not is_empty[name]),
            categorical=tuple(_fit_categorical(train, name) for name in categorical if not is_empty[name]),
            left_out=tuple(name for name, empty in is_empty.items() if empty),
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        """The p columns of `transform`, in order."""
        names: list[str] = []
        for number in self.numeric:
            names += [number.name, *([f"{number.name} missing"] if number.has_missing else [])]
        for kind in self.categorical:
            names += [f"{kind.name} = {value}" for value in kind.categories]
            names += [f"{kind.name} missing"] if kind.has_missing else []
        return tuple(names)

    def transform(self, table: pl.DataFrame) -> FloatArray:
        """Return (rows, p) without nan; ColumnMissingError names a fitted column that `table` lacks."""
        columns: list[FloatArray] = []
        for number in self.numeric:
            values = _numbers(table, number.name)
            is_missing = np.isnan(values)
            columns.append((np.where(is_missing, number.median, values) - number.mean) / number.std)
            if number.has_missing:
                columns.append(is_missing.astype(np.float64))
        for kind in self.categorical:
            words = _words(table, kind.name)
            columns += [np.array([word == value for word in words], dtype=np.float64) for value in kind.categories]
            if kind.has_missing:
                columns.append(np.array([word is None for word in words], dtype=np.float64))
        return np.stack(columns, axis=1) if columns else np.empty((table.height, 0))


def _require(table: pl.DataFrame, name: str) -> None:
    if name not in table.columns:
        raise ColumnMissingError(f"clinical table: no column {name!r}, expected one of {table.columns}. Add it or name others.")


def _numbers(table: pl.DataFrame, name: str) -> FloatArray:
    _require(table, name)
    return table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


def _words(table: pl.DataFrame, name: str) -> list[str | None]:
    _require(table, name)
    words: list[str | None] = table[name].cast(pl.String).to_list()
    return words


def _fit_numeric(train: pl.DataFrame, name: str) -> NumericColumn:
    values = _numbers(train, name)
    is_missing = np.isnan(values)
    median = float(np.median(values[~is_missing]))
    filled = np.where(is_missing, median, values)
    return NumericColumn(name, median, float(filled.mean()), float(filled.std()) or 1.0, bool(is_missing.any()))


def _fit_categorical(train: pl.DataFrame, name: str) -> CategoricalColumn:
    words = _words(train, name)
    return CategoricalColumn(name, tuple(sorted({word for word in words if word is not None})), None in words)


def known_moments(values: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation (G,) of the finite values (n, G) of each column; 0 and 0 where there are none."""
    is_known = np.isfinite(values)
    count = np.maximum(is_known.sum(axis=0), 1)
    mean = np.where(is_known, values, 0).sum(axis=0) / count
    return mean, np.sqrt((np.where(is_known, values - mean, 0) ** 2).sum(axis=0) / count)


def principal_components(
    train_X: FloatArray, test_X: FloatArray, k: int = 32, clip: float = 10.0, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Return k principal components (n, k), (m, k) of features (n, G), (m, G), scaled to unit training variance.

    Features are z-scored by the training mean and standard deviation and clipped at ±`clip` (published RNA z-scores
    reach 36,893); nan becomes the training mean; features constant in training are dropped. There are fewer than k
    components where n or G is too small. ValueError if no feature varies in training. Randomised PCA: the seed fixes
    the result.
    """
    mean, std = known_moments(train_X)
    varies = std > 1e-9 * np.maximum(1.0, np.abs(mean))  # rounding leaves a constant column a spread of about 1e-16
    if not varies.any():
        raise ValueError(f"principal_components: none of {train_X.shape[1]} features varies over {len(train_X)} cases")

    def scaled(values: FloatArray) -> FloatArray:
        z = (values[:, varies] - mean[varies]) / std[varies]
        return np.clip(np.where(np.isfinite(z), z, 0.0), -clip, clip)

    train_Z = scaled(train_X)
    num_components = min(k, len(train_Z) - 1, train_Z.shape[1])
    pca = PCA(num_components, whiten=True, svd_solver="randomized", random_state=seed).fit(train_Z)
    return pca.transform(train_Z), pca.transform(scaled(test_X))
