"""Studies on a share of the training cases: which rows are kept, and the stratified split that they are drawn by."""

from math import ceil, floor

import numpy as np
import pytest
from training_sets import training_set

from mice_model.data import StudyData
from mice_model.report_cleaning import prepared
from mice_model.resampling import stratified_split
from mice_model.study import Study
from mice_model.text import TermCounts

N = 600
CANCER = np.array(["amber", "birch", "cedar", "dogwood"])[np.random.default_rng(0).choice(4, N, p=[0.5, 0.3, 0.15, 0.05])]
FOLD = np.random.default_rng(1).integers(-1, 3, N)  # -1: the split has no place for the case
EVENT = np.random.default_rng(2).random(N) < 0.4
STRATUM = np.array([f"{cancer}{event}" for cancer, event in zip(CANCER, EVENT, strict=True)])


def study_data(share=1.0, seed=0):
    study = Study(
        name="share",
        description="some of the cases",
        contracts=("synthetic",),
        split="by hand",
        leave_out_cancer_types=("dogwood",),
        evaluate=("amber",),
        folds=(0, 1, 2),
        training_share=share,
        training_share_seed=seed,
    )
    data = training_set(CANCER, fold=[None if fold < 0 else fold for fold in FOLD.tolist()], event_observed=EVENT)
    reports = prepared(data.reports, data.cases["case_id"].to_list(), "mask")
    return StudyData(study, data, reports, TermCounts.of(data.reports), None, ("amber", "birch", "cedar"))


def counts(rows):
    names, numbers = np.unique(STRATUM[rows], return_counts=True)
    return dict(zip(names.tolist(), numbers.tolist(), strict=True))


@pytest.mark.parametrize("fold", [0, 2])
def test_all_rows_but_the_held_out_are_trained_on(fold):
    rows = study_data().training_rows(fold)
    np.testing.assert_array_equal(rows, np.flatnonzero((fold != FOLD) & (CANCER != "dogwood")))
    assert (FOLD[rows] == -1).any(), "a case of no fold may be trained on"


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("fold", [0, 1])
def test_a_share_of_every_stratum_is_kept_and_never_a_held_out_row(share, fold):
    whole, rows = study_data().training_rows(fold), study_data(share).training_rows(fold)
    assert not (FOLD[rows] == fold).any()
    assert set(rows) <= set(whole)
    np.testing.assert_array_equal(rows, np.unique(rows))
    assert len(rows) == pytest.approx(share * len(whole), abs=1.5)
    kept = counts(rows)
    for name, number in counts(whole).items():
        assert kept.get(name, 0) == pytest.approx(share * number, abs=2)


def test_the_same_seed_keeps_the_same_rows_and_another_others():
    rows = study_data(0.5).training_rows(1)
    np.testing.assert_array_equal(study_data(0.5).training_rows(1), rows)
    other = study_data(0.5, seed=1).training_rows(1)
    assert 0 < len(np.setdiff1d(other, rows)) < len(rows)
    assert len(other) == pytest.approx(len(rows), abs=1)


def test_fine_tuning_has_the_kept_rows_of_its_cancer_type_and_all_held_out_ones():
    data, whole = study_data(0.5), study_data()
    train, held_out = data.cohort_rows("amber", 1)
    kept = data.training_rows(1)
    np.testing.assert_array_equal(train, kept[(CANCER[kept] == "amber") & (FOLD[kept] >= 0)])
    np.testing.assert_array_equal(held_out, whole.cohort_rows("amber", 1)[1])
    np.testing.assert_array_equal(held_out, np.flatnonzero((CANCER == "amber") & (FOLD == 1)))


@pytest.mark.parametrize("fraction", [0.05, 0.15, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_the_split_takes_the_fraction_of_every_stratum(fraction, seed):
    stratum = np.random.default_rng(seed).choice(5, 400, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    kept, taken = stratified_split(stratum, fraction, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, taken])), np.arange(400))
    for part in (kept, taken):
        assert (np.diff(part) > 0).all()
    for index in range(5):
        expected = fraction * (stratum == index).sum()
        assert floor(expected) <= (stratum[taken] == index).sum() <= ceil(expected)


def test_every_case_is_taken_as_often_as_the_fraction_says():
    stratum, num_splits = np.repeat([0, 1, 2], [1, 7, 12]), 4_000
    rng = np.random.default_rng(0)
    taken = np.zeros(20)
    for _ in range(num_splits):
        taken[stratified_split(stratum, 0.25, rng)[1]] += 1
    np.testing.assert_allclose(taken / num_splits, 0.25, atol=0.04)


def test_no_case_splits_into_none():
    kept, taken = stratified_split(np.empty(0, np.int64), 0.5, np.random.default_rng(0))
    assert (len(kept), len(taken)) == (0, 0)
