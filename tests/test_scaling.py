"""Scaling within groups: hand values, few cases, constant columns, unknown values, cuts."""

import numpy as np
import pytest
from trees import assert_same

from mice_model.scaling import LEAST_CASES, GroupScaler, Scaler

CLIP = 10.0


def column(*values):
    return np.array(values, np.float32)[:, None]


def test_moments_of_each_group_by_hand():
    values = np.concatenate([column(*range(10)), column(*range(100, 120, 2))])
    scaler = GroupScaler.fit(values, np.repeat([0, 1], 10), 2, CLIP)
    np.testing.assert_allclose(scaler.mean[:, 0], [56.75, 4.5, 109], rtol=1e-6)
    np.testing.assert_allclose(scaler.std[1:, 0], [np.sqrt(8.25), 2 * np.sqrt(8.25)], rtol=1e-6)
    z = scaler.apply(column(4.5, 109, 4.5 + np.sqrt(8.25), 56.75, 56.75 + scaler.std[0, 0]), np.array([0, 1, 0, -1, -1]))
    np.testing.assert_allclose(z[:, 0], [0, 0, 1, 0, 1], atol=1e-6)


@pytest.mark.parametrize("num_known", [LEAST_CASES - 1, LEAST_CASES])
def test_a_group_with_few_known_values_has_the_moments_of_all(num_known):
    rare = np.full(30, np.nan, np.float32)
    rare[:num_known] = 50 + np.arange(num_known)
    values = np.concatenate([column(*range(30)), rare[:, None]])
    scaler = GroupScaler.fit(values, np.repeat([0, 1], 30), 2, CLIP)
    expected = 50 + np.arange(num_known) if num_known == LEAST_CASES else values[np.isfinite(values)]
    assert scaler.mean[2, 0] == pytest.approx(expected.mean(), rel=1e-6)
    assert scaler.std[2, 0] == pytest.approx(expected.std(), rel=1e-6)
    assert_same(scaler.of(1), Scaler(scaler.mean[2], scaler.std[2], CLIP))


def test_constant_columns_and_unknown_values_are_zero():
    values = np.column_stack([np.full(20, 7.0), np.r_[np.full(10, 1.0), np.arange(10)], np.full(20, np.nan)]).astype(np.float32)
    scaler = GroupScaler.fit(values, np.repeat([0, 1], 10), 2, CLIP)
    unseen = np.array([[9.0, 5.0, 3.0], [9.0, 4.5, 3.0], [np.nan, np.nan, np.nan]], np.float32)
    z = scaler.apply(unseen, np.array([0, 1, -1]))
    np.testing.assert_array_equal(z[0], [0, 0, 0])  # the second column is constant in group 0
    np.testing.assert_allclose(z[1], [0, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(z[2], [0, 0, 0])


def test_scores_are_cut():
    scaler = GroupScaler(np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32), 3.0)
    z = scaler.apply(column(-36_893, -3, 2, 36_893, np.inf), np.array([0, 0, -1, -1, 0]))
    np.testing.assert_array_equal(z[:, 0], [-3, -3, 2, 3, 0])  # infinity is no number, so it is unknown
    of_group = scaler.of(0).apply(column(-36_893, 2))
    np.testing.assert_array_equal(of_group[:, 0], [-3, 2])


def test_groups_scale_as_scalers_of_their_own_would():
    rng = np.random.default_rng(0)
    values, group = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(2, size=60)
    scaler = GroupScaler.fit(values, group, 2, CLIP)
    z = scaler.apply(values, group)
    for index in range(2):
        ours = values[group == index]
        np.testing.assert_array_equal(z[group == index], scaler.of(index).apply(ours))
        np.testing.assert_allclose(z[group == index], Scaler.fit(ours, CLIP).apply(ours), atol=1e-5)
