"""What MICE has to beat: Cox models and a survival forest on the same training and held-out cases.

What belongs here: which columns make which baseline, and one function that runs them all for a fold; the fits are in
cox.py and forest.py, the columns in design_matrix.py. Everything is fitted on training cases; test cases only ever pass
through fitted maps.

Shapes: n training cases, m test cases, p columns. Durations in days, > 0. Every risk is higher = worse, and comparable
within one fit only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mice_model.cox import DEFAULT_PENALIZER, BaselineFitError, fit_predict_cox
from mice_model.design_matrix import DEFAULT_CATEGORICAL, DEFAULT_NUMERIC, ClinicalDesign, principal_components
from mice_model.forest import ForestJob, fit_predict_forests, is_forest_installed

FloatArray = NDArray[np.float64]

CLINICAL_WEIGHT = 3.0  # model.md, section 4: beside 32 components a few clinical columns would be shrunk away
NUM_COMPONENTS = 32
MIN_OMICS_SHARE = 0.5  # omics that fewer of the training cases have count as absent: most rows would be imputed
FOREST_NOTE = "rsf: left out, scikit-survival is not installed; `pip install .[baselines]` brings it."


@dataclass(frozen=True)
class FoldInputs:
    """One fold of one cohort: clinical tables, omics matrices (n, G) and (m, G) by name (None: absent), outcomes (n,).

    `rna` is the expression matrix; a case without it has a row of nan. Where most training cases lack it, all other
    omics matrices (mutations, copy number) take its place. `report_*`: projections of the reports (n, k) and (m, k), zero where
    there is none. `all_numeric_columns`: the clinical columns that `cox_all` sees.
    """

    clinical_train: pl.DataFrame
    clinical_test: pl.DataFrame
    omics_train: dict[str, FloatArray | None]
    omics_test: dict[str, FloatArray | None]
    duration_train: FloatArray
    event_train: NDArray[np.bool_]
    report_train: FloatArray | None = None
    report_test: FloatArray | None = None
    numeric_columns: tuple[str, ...] = DEFAULT_NUMERIC
    categorical_columns: tuple[str, ...] = DEFAULT_CATEGORICAL
    all_numeric_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaselineRun:
    """Each baseline's risk (m,) by name, and in words what was left out or stood in for something else."""

    risk: dict[str, FloatArray]
    notes: tuple[str, ...]


def _usable(inputs: FoldInputs) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return the omics that most training cases have, as (training, test)."""
    return {
        name: (train, test)
        for name, train in inputs.omics_train.items()
        if train is not None
        and np.isfinite(train).any(axis=1).mean() >= MIN_OMICS_SHARE
        and (test := inputs.omics_test.get(name)) is not None
    }


def _components(inputs: FoldInputs, seed: int) -> tuple[FloatArray, FloatArray, str] | None:
    """Return the omics components of training and test cases with a note (empty for RNA), or None without any omics."""
    usable = _usable(inputs)
    names = ["rna"] if "rna" in usable else sorted(usable)
    if not names:
        return None
    train_X = np.concatenate([usable[name][0] for name in names], axis=1)
    test_X = np.concatenate([usable[name][1] for name in names], axis=1)
    note = (
        ""
        if names == ["rna"]
        else f"no RNA: components of {' and '.join(names)} stand in for it in cox_rna, cox_clinical_rna, rsf."
    )
    return *principal_components(train_X, test_X, NUM_COMPONENTS, seed=seed), note


def _run_cox(inputs: FoldInputs, seed: int) -> tuple[BaselineRun, ForestJob]:
    """Run the Cox baselines of one fold and return the forest's job on the widest matrix there is."""
    outcome = inputs.duration_train, inputs.event_train
    design = ClinicalDesign.fit(inputs.clinical_train, inputs.numeric_columns, inputs.categorical_columns)
    notes = [f"clinical column {name}: left out, no value in the training cases." for name in design.left_out]
    risk: dict[str, FloatArray] = {}
    train, test = design.transform(inputs.clinical_train), design.transform(inputs.clinical_test)
    has_clinical = bool((np.ptp(train, axis=0) > 0).any())
    if has_clinical:
        risk["cox_clinical"] = fit_predict_cox(train, *outcome, test)
    else:
        notes.append("cox_clinical and cox_clinical_rna: left out, no clinical column varies in the training cases.")
    components = _components(inputs, seed)
    if components is None:
        notes.append("cox_rna and cox_clinical_rna: left out, no omics in this cohort; rsf uses clinical columns only.")
    else:
        train_P, test_P, note = components
        notes += [note] if note else []
        risk["cox_rna"] = fit_predict_cox(train_P, *outcome, test_P)
        weight = np.repeat([CLINICAL_WEIGHT, 1.0], [train.shape[1], train_P.shape[1]])
        train, test = np.concatenate([train, train_P], axis=1), np.concatenate([test, test_P], axis=1)
        if has_clinical:
            risk["cox_clinical_rna"] = fit_predict_cox(train, *outcome, test, DEFAULT_PENALIZER / weight**2)
    if inputs.all_numeric_columns:
        risk["cox_all"] = _cox_all(inputs, seed)
    if not risk:
        raise BaselineFitError("baselines: neither a clinical column that varies nor omics. Check the cohort's tables.")
    return BaselineRun(risk, tuple(notes)), ForestJob(train, *outcome, test, seed)


def _cox_all(inputs: FoldInputs, seed: int) -> FloatArray:
    """Return the risk (m,) by a Cox model of all that MICE sees but slides: the widest linear baseline of one cancer type."""
    design = ClinicalDesign.fit(inputs.clinical_train, inputs.all_numeric_columns, inputs.categorical_columns)
    train, test = [design.transform(inputs.clinical_train)], [design.transform(inputs.clinical_test)]
    usable = _usable(inputs)
    for names in (["rna"], sorted(set(usable) - {"rna"})):
        there = [usable[name] for name in names if name in usable]
        if there:
            of_train, of_test = (np.concatenate([pair[side] for pair in there], axis=1) for side in (0, 1))
            train_P, test_P = principal_components(of_train, of_test, NUM_COMPONENTS, seed=seed)
            train, test = [*train, train_P], [*test, test_P]
    if inputs.report_train is not None and inputs.report_test is not None:
        spread = inputs.report_train.std(axis=0)
        varies = spread > 0
        train.append(inputs.report_train[:, varies] / spread[varies])
        test.append(inputs.report_test[:, varies] / spread[varies])
    num_columns = sum(block.shape[1] for block in train)
    weight = np.repeat([CLINICAL_WEIGHT, 1.0], [train[0].shape[1], num_columns - train[0].shape[1]])
    columns = np.concatenate(train, axis=1), np.concatenate(test, axis=1)
    penalty = DEFAULT_PENALIZER / weight**2
    return fit_predict_cox(columns[0], inputs.duration_train, inputs.event_train, columns[1], penalty)


def run_fold_baselines(folds: Sequence[FoldInputs], *, seed: int) -> list[BaselineRun]:
    """Run every baseline on every fold (of any cohorts), in order; all forests share one child process.

    `cox_clinical`: age, sex, stage, grade. `cox_rna`: 32 principal components. `cox_clinical_rna`: both, the clinical
    columns weighted 3 times. `cox_all`: these, the further clinical columns, 32 components of the other omics and the reports,
    where the inputs name such columns. `rsf`: a forest on clinical columns and RNA. See `BaselineRun.notes` for what was
    absent.
    """
    runs, jobs = zip(*(_run_cox(inputs, seed) for inputs in folds), strict=True) if folds else ((), ())
    if not is_forest_installed():
        return [BaselineRun(run.risk, (*run.notes, FOREST_NOTE)) for run in runs]
    forests = fit_predict_forests(jobs)
    return [BaselineRun({**run.risk, "rsf": rsf}, run.notes) for run, rsf in zip(runs, forests, strict=True)]
