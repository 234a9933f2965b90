"""Scaling that is learned on training cases: by column, or by column within each cancer type.

What belongs here: means, standard deviations and how they are applied. Which columns, and whose rows, is preprocessing.py's.

Shape legend: n cases, d columns, G groups (cancer types).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mice_model.design_matrix import known_moments

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

LEAST_CASES = 10  # with fewer known values in a cancer type, the moments of all types together are the better guess
_LEAST_STD = 1e-3  # a column that hardly varies says nothing, and would be blown up


@dataclass(frozen=True)
class Scaler:
    """Training mean and standard deviation (1 where constant), each (d,); nan-aware; results are cut at ±clip."""

    mean: FloatArray
    std: FloatArray
    clip: float

    @classmethod
    def fit(cls, values: FloatArray, clip: float) -> "Scaler":
        """Learn from training rows (n, d), nan left out."""
        mean, spread = known_moments(values)
        return cls(mean.astype(np.float32), np.where(spread > 1e-6, spread, 1).astype(np.float32), clip)

    def apply(self, values: FloatArray) -> FloatArray:
        """Return z-scores, 0 (the training mean) where the value is unknown."""
        z = (values - self.mean) / self.std
        return np.where(np.isfinite(z), np.clip(z, -self.clip, self.clip), 0).astype(np.float32)


@dataclass(frozen=True)
class GroupScaler:
    """Training moments, each (1 + G, d): row 0 of all cases, row 1 + g of group g; std is inf where a column is constant.

    Within a cancer type, what tells types apart is no news: the network knows the type, and risks are compared within one.
    """

    mean: FloatArray
    std: FloatArray
    clip: float

    @classmethod
    def fit(cls, values: FloatArray, group: IntArray, num_groups: int, clip: float) -> "GroupScaler":
        """Learn from training rows (n, d), nan left out; `group` (n,). A group with few known values has the pooled moments."""
        mean = np.empty((1 + num_groups, values.shape[1]), np.float32)
        std = np.empty_like(mean)
        mean[0], std[0] = known_moments(values)
        for index in range(num_groups):
            ours = values[group == index]
            enough = np.isfinite(ours).sum(axis=0) >= LEAST_CASES
            of_group = known_moments(ours)
            mean[1 + index] = np.where(enough, of_group[0], mean[0])
            std[1 + index] = np.where(enough, of_group[1], std[0])
        return cls(mean, np.where(std > _LEAST_STD, std, np.inf).astype(np.float32), clip)

    def apply(self, values: FloatArray, group: IntArray) -> FloatArray:
        """Return z-scores by the moments of each row's group (-1: of all), 0 for an unknown value or a constant column."""
        out = np.empty(values.shape, np.float32)
        for index in np.unique(group):
            ours = group == index
            z = (values[ours] - self.mean[1 + index]) / self.std[1 + index]
            out[ours] = np.where(np.isfinite(z), np.clip(z, -self.clip, self.clip), 0)
        return out

    def of(self, group: int) -> Scaler:
        """Return the scaling of one group."""
        return Scaler(self.mean[1 + group], self.std[1 + group], self.clip)
