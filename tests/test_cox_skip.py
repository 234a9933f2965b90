"""The skip term: a planted signal, cross-fitting, penalties chosen within the training cases, nothing of a held-out case."""

from dataclasses import replace

import numpy as np
import pytest

from mice_model.artifacts import load_fitted, save_fitted
from mice_model.cox_skip import CoxSkip, FittedSkip, Outcomes, fit_cox_skip, inner_folds
from mice_model.metrics import concordance_index
from mice_model.stratified_cox import Coefficients, fit_stratified_cox, partial_loss
from mice_model.study import CoxSkipConfig

SEED = 3
NUM_CASES, NUM_CANCERS = 360, 3
ROWS = np.flatnonzero(np.arange(NUM_CASES) % 4 != 0)  # every fourth case is held out
HELD_OUT = np.setdiff1d(np.arange(NUM_CASES), ROWS)
# the same base for a part that says something and for one that says nothing, so that the multipliers tell them apart
CONFIG = CoxSkipConfig(penalties={"clinical": (50.0, 200.0), "rna": (50.0, 200.0)}, multipliers=(0.1, 10.0), num_inner_folds=4)
FIXED = CONFIG.model_copy(update={"multipliers": (1.0,)})


def planted(seed=0):
    """Return parts (clinical: two columns that decide; rna: forty that do not; other: not asked for) and outcomes."""
    rng = np.random.default_rng(seed)
    parts = {
        "rna": rng.normal(size=(NUM_CASES, 40)).astype(np.float32),
        "clinical": rng.normal(size=(NUM_CASES, 2)).astype(np.float32),
        "other": rng.normal(size=(NUM_CASES, 5)).astype(np.float32),
    }
    cancer = rng.integers(NUM_CANCERS, size=NUM_CASES)
    risk = parts["clinical"] @ np.array([1.5, -1.0])
    duration = rng.exponential(np.array([200, 800, 3000])[cancer] * np.exp(-risk)) + 1
    return parts, Outcomes(duration, rng.random(NUM_CASES) < 0.6, cancer, NUM_CANCERS)


PARTS, OUTCOMES = planted()


def fit(parts=PARTS, outcomes=OUTCOMES, rows=ROWS, config=CONFIG, seed=SEED):
    return fit_cox_skip(parts, outcomes, rows, config, seed)


@pytest.fixture(scope="module")
def fitted():
    return fit()


def c_index(risk, rows):
    """Return the mean over cancer types, whose baselines differ."""
    known, found = OUTCOMES, []
    for cancer in range(NUM_CANCERS):
        ours = rows[known.cancer[rows] == cancer]
        found.append(concordance_index(known.duration[ours], known.event[ours], risk[ours]))
    return np.mean(found)


def multipliers(skip, config=CONFIG):
    return {name: shared / config.penalties[name][0] for name, (shared, _) in skip.penalties.items()}


def key(chosen):
    return ", ".join(f"{name} {multiplier:g}" for name, multiplier in chosen.items())


def test_a_planted_signal_is_found(fitted):
    assert c_index(fitted.log_risk, HELD_OUT) > 0.75
    assert c_index(fitted.log_risk, ROWS) > 0.75
    assert fitted.skip.parts == (("clinical", 2), ("rna", 40)), "the order of the penalties, and no part without one"
    np.testing.assert_allclose(fitted.skip.coefficients.shared[:2], [1.5, -1.0], atol=0.5)
    assert np.abs(fitted.skip.coefficients.shared[2:]).max() < 0.2


def test_a_part_of_noise_gets_the_heavier_penalty(fitted):
    assert multipliers(fitted.skip) == pytest.approx({"clinical": 0.1, "rna": 10.0})
    for name, (shared, own) in fitted.skip.penalties.items():
        assert own / shared == pytest.approx(CONFIG.penalties[name][1] / CONFIG.penalties[name][0])


def test_the_penalties_are_those_of_the_smallest_loss_that_was_tried(fitted):
    tried = fitted.skip.cross_validated
    turns = [
        *({"clinical": multiplier, "rna": 1.0} for multiplier in (1.0, 0.1, 10.0)),
        *({"clinical": 0.1, "rna": multiplier} for multiplier in (0.1, 10.0)),
    ]
    assert list(tried) == [key(turn) for turn in turns]
    assert min(tried, key=tried.get) == key(multipliers(fitted.skip))


def test_the_loss_is_that_of_left_out_training_cases(fitted):
    columns = np.concatenate([PARTS["clinical"], PARTS["rna"]], axis=1).astype(float)
    folds, known, total = inner_folds(OUTCOMES, ROWS, CONFIG.num_inner_folds, SEED), OUTCOMES, 0.0
    shared, own = (np.repeat([pair[side] for pair in fitted.skip.penalties.values()], [2, 40]) for side in (0, 1))
    for fold in range(CONFIG.num_inner_folds):
        out, kept = ROWS[folds == fold], ROWS[folds != fold]
        of_kept = (known.duration[kept], known.event[kept], known.cancer[kept])
        coefficients = fit_stratified_cox(columns[kept], *of_kept, NUM_CANCERS, shared, own)
        risk = coefficients.log_risk(columns[out], known.cancer[out])
        np.testing.assert_allclose(fitted.log_risk[out], risk, atol=2e-3)  # which started from elsewhere
        total += partial_loss(known.duration[out], known.event[out], known.cancer[out], risk)
    expected = total / known.event[ROWS].sum()
    assert fitted.skip.cross_validated[key(multipliers(fitted.skip))] == pytest.approx(expected, abs=1e-4)


def test_inner_folds_have_their_share_of_every_cancer_type_and_event():
    folds = inner_folds(OUTCOMES, ROWS, 4, SEED)
    for cancer in range(NUM_CANCERS):
        for event in (False, True):
            ours = (OUTCOMES.cancer[ROWS] == cancer) & (OUTCOMES.event[ROWS] == event)
            counts = np.bincount(folds[ours], minlength=4)
            assert counts.max() - counts.min() <= 1
    assert not np.array_equal(folds, inner_folds(OUTCOMES, ROWS, 4, SEED + 1))


def test_the_log_risk_of_a_training_case_does_not_depend_on_its_own_outcome():
    """Durations are permuted within an inner fold's cases of one cancer type and event: the inner folds stay as they are."""
    folds = inner_folds(OUTCOMES, ROWS, FIXED.num_inner_folds, SEED)
    out = ROWS[folds == 1]
    same_stratum = out[(OUTCOMES.cancer[out] == 0) & OUTCOMES.event[out]]
    duration = OUTCOMES.duration.copy()
    duration[same_stratum] = np.roll(duration[same_stratum], 1)
    before, after = fit(config=FIXED), fit(outcomes=replace(OUTCOMES, duration=duration), config=FIXED)
    np.testing.assert_array_equal(after.log_risk[out], before.log_risk[out])
    others = ROWS[folds != 1]
    assert np.abs(after.log_risk[others] - before.log_risk[others]).min() > 0, "whose models saw these outcomes"
    assert not np.array_equal(after.skip.coefficients.shared, before.skip.coefficients.shared)


def test_cross_fitted_risks_are_less_sure_than_those_of_a_model_that_saw_the_case():
    noise = {"rna": PARTS["rna"]}
    found = fit(noise, config=CONFIG.model_copy(update={"penalties": {"rna": (5.0, 20.0)}, "multipliers": (1.0,)}))
    in_sample = found.skip.log_risk(noise, OUTCOMES.cancer)
    assert c_index(in_sample, ROWS) > 0.65
    assert c_index(found.log_risk, ROWS) < 0.58


def test_nothing_of_a_held_out_case_influences_anything(fitted):
    rng = np.random.default_rng(1)
    duration, event, cancer = OUTCOMES.duration.copy(), OUTCOMES.event.copy(), OUTCOMES.cancer.copy()
    duration[HELD_OUT], event[HELD_OUT] = rng.random(len(HELD_OUT)), ~event[HELD_OUT]
    cancer[HELD_OUT] = rng.permutation(cancer[HELD_OUT])
    kept = HELD_OUT[:5]
    cancer[kept] = OUTCOMES.cancer[kept]
    parts = {name: values.copy() for name, values in PARTS.items()}
    for values in parts.values():
        values[HELD_OUT[5:]] = np.nan
    other = fit(parts, Outcomes(duration, event, cancer, NUM_CANCERS))
    np.testing.assert_array_equal(other.skip.coefficients.shared, fitted.skip.coefficients.shared)
    np.testing.assert_array_equal(other.skip.coefficients.own, fitted.skip.coefficients.own)
    assert other.skip.cross_validated == fitted.skip.cross_validated
    np.testing.assert_array_equal(other.log_risk[ROWS], fitted.log_risk[ROWS])
    np.testing.assert_allclose(other.log_risk[kept], fitted.log_risk[kept], rtol=1e-12)


def test_held_out_cases_are_scored_by_the_model_of_all_training_cases(fitted):
    by_skip = fitted.skip.log_risk(PARTS, OUTCOMES.cancer)
    np.testing.assert_array_equal(fitted.log_risk[HELD_OUT], by_skip[HELD_OUT])
    assert not np.isclose(fitted.log_risk[ROWS], by_skip[ROWS]).all()


def test_the_same_call_gives_the_same_skip_and_another_seed_other_inner_folds(fitted):
    again, other = fit(), fit(seed=SEED + 1)
    np.testing.assert_array_equal(again.log_risk, fitted.log_risk)
    assert again.skip.cross_validated == fitted.skip.cross_validated
    assert other.skip.cross_validated != fitted.skip.cross_validated


@pytest.mark.parametrize("cancer", [0, 2, -1])
@pytest.mark.parametrize("part", ["clinical", "rna"])
def test_the_gradient_is_a_difference_of_log_risks(fitted, part, cancer):
    skip, of = fitted.skip, np.array([cancer])
    case = {name: values[:1] for name, values in PARTS.items()}
    before = skip.log_risk(case, of)
    gradient = skip.gradient(part, cancer)
    assert gradient.shape == (PARTS[part].shape[1],)
    for column, expected in enumerate(gradient):
        moved = case[part].copy()
        moved[0, column] += 1
        assert (skip.log_risk({**case, part: moved}, of) - before)[0] == pytest.approx(expected, abs=1e-6)


def test_a_cancer_type_without_training_cases_has_no_deviations():
    cancer = OUTCOMES.cancer.copy()
    cancer[HELD_OUT] = NUM_CANCERS
    found = fit(outcomes=replace(OUTCOMES, cancer=cancer, num_cancers=NUM_CANCERS + 1), config=FIXED)
    assert not found.skip.coefficients.own[NUM_CANCERS].any()
    unknown = found.skip.log_risk(PARTS, np.full(NUM_CASES, -1))
    np.testing.assert_array_equal(found.log_risk[HELD_OUT], unknown[HELD_OUT])


def test_a_saved_skip_gives_the_same_log_risks_to_the_bit(fitted, tmp_path):
    save_fitted(tmp_path / "skip", fitted)
    loaded = load_fitted(tmp_path / "skip", FittedSkip)
    np.testing.assert_array_equal(loaded.log_risk, fitted.log_risk)
    np.testing.assert_array_equal(loaded.skip.log_risk(PARTS, OUTCOMES.cancer), fitted.skip.log_risk(PARTS, OUTCOMES.cancer))
    assert (loaded.skip.parts, loaded.skip.penalties) == (fitted.skip.parts, fitted.skip.penalties)
    assert loaded.skip.cross_validated == fitted.skip.cross_validated


def test_log_risks_by_hand():
    skip = CoxSkip((("b", 1), ("a", 2)), Coefficients(np.array([1.0, 2.0, 3.0]), np.array([[0.0, 0.0, 10.0]])), {}, {})
    parts = {"a": np.array([[1, 1], [1, 1]], np.float32), "b": np.array([[5], [0]], np.float32)}
    np.testing.assert_array_equal(skip.log_risk(parts, np.array([0, -1])), [5 + 2 + 3 + 10, 2 + 3])
