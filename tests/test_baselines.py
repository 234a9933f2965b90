"""Baselines: a planted signal is found, nothing of a test case enters a fit, and the GPL wall stands."""

import ast
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mice_model.baselines as baselines_module
from feature_store.errors import ColumnMissingError
from mice_model.baselines import FoldInputs, run_fold_baselines
from mice_model.cox import ATTEMPTS, BaselineFitError, fit_predict_cox
from mice_model.design_matrix import ClinicalDesign, principal_components
from mice_model.forest import ForestError, ForestJob, fit_predict_forests, is_forest_installed
from mice_model.metrics import concordance_index

REPOSITORY = Path(__file__).parents[1]
RUNTIME_PACKAGES = ("dagster_project", "feature_store", "kernels", "mice_cli", "mice_model", "sql")

needs_forest = pytest.mark.skipif(not is_forest_installed(), reason="scikit-survival is not installed")


def planted(seed=0, n=160, num_genes=60):
    """Survival that depends on age, stage and one expression programme of ten genes."""
    rng = np.random.default_rng(seed)
    age, stage, programme = rng.normal(60, 10, n), rng.integers(1, 5, n).astype(float), rng.normal(size=n)
    rna = rng.normal(size=(n, num_genes))
    rna[:, :10] += 2 * programme[:, None]
    risk = 0.06 * (age - 60) + 0.5 * stage + programme
    duration = np.ceil(rng.exponential(900 * np.exp(-risk)))
    clinical = pl.DataFrame(
        {
            "age_at_diagnosis_years": age,
            "sex": rng.choice(["female", "male"], n),
            "stage": np.where(rng.random(n) < 0.1, np.nan, stage),
            "grade": [None] * n,
        },
        schema_overrides={"grade": pl.Float64},
    ).with_columns(pl.col("stage").fill_nan(None))
    return clinical, rna, duration, rng.random(n) < 0.7


def fold_inputs(seed=0, rna=True):
    clinical, genes, duration, event = planted(seed)
    train, test = slice(0, 110), slice(110, 160)
    mutations = (np.random.default_rng(seed).random((160, 12)) < 0.2).astype(float)
    inputs = FoldInputs(
        clinical_train=clinical[train],
        clinical_test=clinical[test],
        omics_train={"rna": genes[train] if rna else None, "mutations": mutations[train]},
        omics_test={"rna": genes[test] if rna else None, "mutations": mutations[test]},
        duration_train=duration[train],
        event_train=event[train],
    )
    return inputs, duration[test], event[test]


@needs_forest
def test_planted_signal_is_found_by_every_baseline():
    inputs, duration, event = fold_inputs()
    (run,) = run_fold_baselines([inputs], seed=0)
    found = {name: concordance_index(duration, event, risk) for name, risk in run.risk.items()}
    assert set(found) == {"cox_clinical", "cox_rna", "cox_clinical_rna", "rsf"}
    assert min(found.values()) > 0.6
    assert found["cox_clinical_rna"] > 0.75
    assert found["cox_clinical_rna"] > max(found["cox_clinical"], found["cox_rna"])
    assert run.notes == ("clinical column grade: left out, no value in the training cases.",)


def test_cox_recovers_the_coefficients_of_simulated_hazards():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2))
    duration = rng.exponential(1000 * np.exp(-X @ [1.0, -0.5])) + 0.1
    risk = fit_predict_cox(X, duration, np.ones(2000), np.eye(2), penalizer=0.0)
    np.testing.assert_allclose(risk, [1.0, -0.5], atol=0.08)


def test_a_smaller_penalty_gives_a_column_more_weight_and_its_scale_none():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 2))
    duration = rng.exponential(1000 * np.exp(-X @ [1.0, 1.0])) + 0.1
    event = np.ones(300)
    plain = fit_predict_cox(X, duration, event, np.eye(2), 1.0)
    weighted = fit_predict_cox(X, duration, event, np.eye(2), np.array([1.0 / 9, 1.0]))
    scaled = fit_predict_cox(X * [3.0, 1.0], duration, event, np.eye(2) * [3.0, 1.0], 1.0)
    assert weighted[0] > plain[0] * 1.3
    np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_cox_drops_columns_constant_in_training_only():
    rng = np.random.default_rng(2)
    X, duration = rng.normal(size=(100, 1)), rng.exponential(500, 100) + 1
    with_constant = np.column_stack([X, np.full(100, 7.0)])
    test_X = rng.normal(size=(20, 2))
    risk = fit_predict_cox(with_constant, duration, np.ones(100), test_X)
    np.testing.assert_allclose(risk, fit_predict_cox(X, duration, np.ones(100), test_X[:, :1]), atol=1e-9)


def test_cox_falls_back_to_a_stronger_penalty_and_says_so(monkeypatch, caplog):
    tried = []

    def never_at_first(frame, penalty, step_size):
        tried.append((penalty[0], step_size))
        return np.ones(1) if len(tried) == 3 else None

    monkeypatch.setattr("mice_model.cox._try_cox", never_at_first)
    X = np.arange(10.0)[:, None]
    fit_predict_cox(X, np.arange(1.0, 11.0), np.ones(10), X, 0.5)
    assert tried == [(0.5 * factor, step) for factor, step in ATTEMPTS[:3]]
    assert len(caplog.records) == 2
    monkeypatch.setattr("mice_model.cox._try_cox", lambda *_: None)
    with pytest.raises(BaselineFitError, match="no convergence"):
        fit_predict_cox(X, np.arange(1.0, 11.0), np.ones(10), X)


def test_cox_survives_complete_separation():
    X = np.column_stack([np.repeat([0.0, 1.0], 20), np.eye(40)[3]])
    duration = np.concatenate([np.arange(100.0, 120.0), np.arange(1.0, 21.0)])
    risk = fit_predict_cox(X, duration, X[:, 0], X)
    assert risk[20:].min() > risk[:20].max() - 1e-9


@pytest.mark.parametrize(("X", "event", "message"), [(np.ones((5, 2)), 1, "constant"), (np.eye(5), 0, "0 events")])
def test_cox_refuses_what_cannot_be_fitted(X, event, message):
    with pytest.raises(BaselineFitError, match=message):
        fit_predict_cox(X, np.arange(1.0, 6.0), np.full(5, event), X)


def test_clinical_design_by_hand():
    train = pl.DataFrame({"age_at_diagnosis_years": [50.0, 60.0, 70.0, None], "sex": ["f", "m", "f", None]})
    design = ClinicalDesign.fit(train, numeric=("age_at_diagnosis_years",), categorical=("sex",))
    assert design.column_names == (
        "age_at_diagnosis_years",
        "age_at_diagnosis_years missing",
        "sex = f",
        "sex = m",
        "sex missing",
    )
    z = 10 / np.sqrt(50)
    expected = [[-z, 0, 1, 0, 0], [0, 0, 0, 1, 0], [z, 0, 1, 0, 0], [0, 1, 0, 0, 1]]
    np.testing.assert_allclose(design.transform(train), expected, atol=1e-12)
    unseen = pl.DataFrame({"age_at_diagnosis_years": [60.0], "sex": ["other"]})
    np.testing.assert_array_equal(design.transform(unseen), np.zeros((1, 5)))
    with pytest.raises(ColumnMissingError, match="sex"):
        design.transform(unseen.drop("sex"))
    with pytest.raises(ColumnMissingError, match="stage"):
        ClinicalDesign.fit(train)


def test_test_rows_do_not_reach_the_fitted_transformations():
    _, genes, _, _ = planted()
    train, test = genes[:110].copy(), genes[110:].copy()
    train[3, 5] = test[2, 7] = np.nan
    train_P, test_P = principal_components(train, test, k=8)
    np.testing.assert_allclose(train_P.std(axis=0, ddof=1), 1, atol=0.01)  # randomised PCA is approximate
    reversed_train_P, reversed_test_P = principal_components(train, test[::-1], k=8)
    np.testing.assert_array_equal(reversed_train_P, train_P)
    np.testing.assert_allclose(reversed_test_P[::-1], test_P, atol=1e-9)
    wild_train_P, wild_test_P = principal_components(train, test * 1e6, k=8)
    np.testing.assert_array_equal(wild_train_P, train_P)
    assert np.isfinite(wild_test_P).all()


@needs_forest
def test_test_rows_do_not_reach_any_fit():
    inputs, _, _ = fold_inputs()
    order = np.random.default_rng(5).permutation(50)
    permuted = replace(
        inputs,
        clinical_test=inputs.clinical_test[order],
        omics_test={name: values[order] for name, values in inputs.omics_test.items()},
    )
    others_changed = replace(
        inputs,
        clinical_test=inputs.clinical_test.with_columns(
            pl.when(pl.int_range(pl.len()) < 10).then("age_at_diagnosis_years").otherwise(99.0).alias("age_at_diagnosis_years")
        ),
        omics_test={name: np.concatenate([v[:10], v[10:] * 50]) for name, v in inputs.omics_test.items()},
    )
    plain, shuffled, changed = run_fold_baselines([inputs, permuted, others_changed], seed=0)
    for name, risk in plain.risk.items():
        np.testing.assert_allclose(shuffled.risk[name], risk[order], atol=1e-9)
        np.testing.assert_allclose(changed.risk[name][:10], risk[:10], atol=1e-9)


def test_components_of_too_few_cases_or_without_variance():
    rng = np.random.default_rng(0)
    train_P, test_P = principal_components(rng.normal(size=(6, 40)), rng.normal(size=(3, 40)))
    assert (train_P.shape, test_P.shape) == ((6, 5), (3, 5))
    with pytest.raises(ValueError, match="none of 4 features varies"):
        principal_components(np.full((6, 4), 0.1), np.zeros((3, 4)))


def test_without_rna_other_omics_stand_in_and_a_note_says_so(monkeypatch):
    monkeypatch.setattr(baselines_module, "is_forest_installed", lambda: False)
    inputs, _, _ = fold_inputs(rna=False)
    (run,) = run_fold_baselines([inputs], seed=0)
    assert set(run.risk) == {"cox_clinical", "cox_rna", "cox_clinical_rna"}
    assert any("components of mutations stand in" in note for note in run.notes)
    assert any("pip install .[baselines]" in note for note in run.notes)


def everything(seed=0, has_reports=True):
    """Inputs whose reports say what no other column does, three in ten of them absent; nothing else tells the risk."""
    rng = np.random.default_rng(seed)
    n, train, test = 300, slice(0, 200), slice(200, 300)
    signal, has_report = rng.normal(size=n), rng.random(n) < 0.7
    reports = np.where(has_report[:, None], np.column_stack([signal, rng.normal(size=(n, 3)), np.zeros(n)]), 0)
    clinical = pl.DataFrame(
        {
            "age_at_diagnosis_years": rng.normal(60, 10, n),
            "diagnosis_year": rng.integers(1995, 2015, n).astype(float),
            "grade": [None] * n,
            "sex": rng.choice(["female", "male"], n),
        },
        schema_overrides={"grade": pl.Float64},
    )
    omics = {"rna": rng.normal(size=(n, 40)), "copy_number": rng.normal(size=(n, 20)), "mutations": rng.normal(size=(n, 9))}
    duration = np.ceil(rng.exponential(900 * np.exp(-1.5 * signal)))
    inputs = FoldInputs(
        clinical_train=clinical[train],
        clinical_test=clinical[test],
        omics_train={name: values[train] for name, values in omics.items()},
        omics_test={name: values[test] for name, values in omics.items()},
        duration_train=duration[train],
        event_train=rng.random(n)[train] < 0.8,
        report_train=reports[train] if has_reports else None,
        report_test=reports[test] if has_reports else None,
        numeric_columns=("age_at_diagnosis_years",),
        all_numeric_columns=("age_at_diagnosis_years", "diagnosis_year", "grade"),
    )
    return inputs, duration[test], has_report[test]


def cox_risks(inputs, monkeypatch):
    monkeypatch.setattr(baselines_module, "is_forest_installed", lambda: False)
    (run,) = run_fold_baselines([inputs], seed=0)
    return run.risk


def test_cox_all_finds_what_only_reports_say(monkeypatch):
    inputs, duration, has_report = everything()
    risk = cox_risks(inputs, monkeypatch)
    everyone = np.ones(100, bool)
    found = {name: concordance_index(duration, everyone, values) for name, values in risk.items()}
    assert set(found) == {"cox_clinical", "cox_rna", "cox_clinical_rna", "cox_all"}
    assert found["cox_all"] > 0.65
    assert max(value for name, value in found.items() if name != "cox_all") < 0.6
    with_report = concordance_index(duration[has_report], everyone[has_report], risk["cox_all"][has_report])
    assert with_report > 0.7


def test_cox_all_does_without_reports_and_without_any_report(monkeypatch):
    inputs, *_ = everything()
    without = cox_risks(everything(has_reports=False)[0], monkeypatch)["cox_all"]
    nothing_said = replace(inputs, report_train=np.zeros_like(inputs.report_train))  # nothing to learn a weight from
    np.testing.assert_array_equal(cox_risks(nothing_said, monkeypatch)["cox_all"], without)
    assert np.isfinite(without).all()
    assert np.abs(without - cox_risks(inputs, monkeypatch)["cox_all"]).max() > 0.1


def test_cox_all_takes_other_omics_where_there_is_no_rna_and_runs_where_columns_are_named_alone(monkeypatch):
    inputs, *_ = everything()
    no_rna = replace(inputs, omics_train={**inputs.omics_train, "rna": None})
    assert np.isfinite(cox_risks(no_rna, monkeypatch)["cox_all"]).all()
    no_omics = replace(inputs, omics_train={}, omics_test={})
    assert set(cox_risks(no_omics, monkeypatch)) == {"cox_clinical", "cox_all"}
    assert "cox_all" not in cox_risks(replace(inputs, all_numeric_columns=()), monkeypatch)


def test_test_rows_do_not_reach_the_fit_of_cox_all(monkeypatch):
    inputs, *_ = everything()
    changed = replace(
        inputs,
        omics_test={name: np.concatenate([values[:10], values[10:] * 50]) for name, values in inputs.omics_test.items()},
        report_test=np.concatenate([inputs.report_test[:10], inputs.report_test[10:] * 50]),
    )
    found, expected = cox_risks(changed, monkeypatch)["cox_all"], cox_risks(inputs, monkeypatch)["cox_all"]
    np.testing.assert_allclose(found[:10], expected[:10], atol=1e-9)


def test_without_omics_the_rna_baselines_are_left_out(monkeypatch):
    monkeypatch.setattr(baselines_module, "is_forest_installed", lambda: False)
    inputs, _, _ = fold_inputs()
    mostly_absent = np.full((110, 60), np.nan)
    mostly_absent[:20] = 1.0
    without = replace(inputs, omics_train={"rna": mostly_absent}, omics_test={"rna": np.ones((50, 60))})
    (run,) = run_fold_baselines([without], seed=0)
    assert set(run.risk) == {"cox_clinical"}
    assert any("no omics" in note for note in run.notes)


@needs_forest
def test_forest_process_answers_every_job_as_scikit_survival_does():
    from sksurv.ensemble import RandomSurvivalForest
    from sksurv.util import Surv

    _, X, duration, event = planted(3)
    jobs = [ForestJob(X[:80], duration[:80], event[:80], X[80:], seed) for seed in (0, 1)]
    first, second = fit_predict_forests(jobs, num_trees=20, num_processes=2)
    reference = RandomSurvivalForest(20, min_samples_leaf=15, max_features="sqrt", random_state=0)
    reference.fit(X[:80], Surv.from_arrays(event[:80], duration[:80]))
    np.testing.assert_allclose(first, reference.predict(X[80:]), atol=1e-9)
    assert not np.allclose(first, second)
    assert fit_predict_forests([]) == []


@needs_forest
def test_a_failing_forest_process_is_a_typed_error():
    with pytest.raises(ForestError, match="process ended with 1"):
        fit_predict_forests([ForestJob(np.ones((5, 1)), np.arange(5.0), np.zeros(5, bool), np.ones((2, 1)), 0)])


def test_no_runtime_package_imports_scikit_survival():
    offenders = []
    for package in RUNTIME_PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] in {"sksurv", "baselines"} for name in names):
                    offenders.append(f"{path.name}:{node.lineno}")
    assert offenders == []


def test_importing_the_baselines_and_the_report_does_not_import_scikit_survival():
    code = "import sys, mice_model.baselines, mice_model.report; sys.exit('sksurv' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
