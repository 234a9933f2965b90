"""One evaluation as one self-contained HTML page, made to be read.

What belongs here: which figure goes where, and for whom. Numbers come from summary.py, words from report_words.py, figures
from plots.py, kaplan_meier.py and survival_figures.py, the layout is templates/report.html.j2. The page names no case:
nothing but counts, means and curves goes into it, and links to pictures of slides (held_out_slides.py says why it does not
hold them).
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mice_model.calibration import Calibration
from mice_model.comparison import Comparison
from mice_model.discrimination import auc_curves
from mice_model.evaluation import Evaluation, HeldOut
from mice_model.held_out_slides import HeldOutSlides
from mice_model.html_pages import templates, write_page
from mice_model.kaplan_meier import kaplan_meier_svg
from mice_model.metrics import risk_groups
from mice_model.plots import coverage_svg, forest_svg, routing_svg, training_curves_svg
from mice_model.report_words import (
    ENDPOINTS,
    bootstrap_p,
    headings,
    is_best,
    label,
    plain_p,
    score,
    signed,
    verdict,
)
from mice_model.scored_folds import scored_folds
from mice_model.summary import MEAN, MICE
from mice_model.survival_figures import auc_svg, calibration_svg

STAGE_TITLES = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}
MOST_IN_FOREST, MOST_IN_AUC = 7, 4  # models in one figure: more cannot be told apart
MOST_AUC_FIGURES = 6


def write_report(
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    path: Path,
    slides: HeldOutSlides | None = None,
    comparisons: Sequence[Comparison] = (),
) -> None:
    """Write the report of an evaluation and its summary; a reader of an older one at `path` never sees half of the new one."""
    write_page(path, render(evaluation, summary, slides, comparisons))


def render(
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    slides: HeldOutSlides | None = None,
    comparisons: Sequence[Comparison] = (),
) -> str:
    """Return the page as HTML; comparisons with other evaluations (ablations, shares of the data) are sections of it."""
    environment = templates("mice_model")
    environment.filters |= {"score": score, "signed": signed, "bootstrap_p": bootstrap_p, "plain_p": plain_p, "label": label}
    environment.tests["best"] = is_best
    routed = [h for h in evaluation.held_out if h.routing.size]
    is_one_table = len({h.routing.shape[1] for h in routed}) == 1
    weight_CE = np.stack([h.routing.mean(axis=0) for h in routed]) if is_one_table else np.empty((0, 0))
    return environment.get_template("report.html.j2").render(
        e=evaluation,
        s=summary,
        mean_key=MEAN,
        mice=MICE,
        is_honest=not evaluation.protocol.startswith("author:"),  # study.Study.protocol
        endpoint=ENDPOINTS.get(evaluation.endpoint, evaluation.endpoint),
        baselines=[name for name in summary["models"] if name != MICE],
        headings=headings(summary, weight_CE.mean(axis=0).tolist() if is_one_table else ()),
        verdict=verdict,
        smallest_p=2 / (summary["num_bootstrap"] + 1),
        num_cases=sum(cohort["num_cases"] for cohort in summary["cohorts"].values()),
        num_events=sum(cohort["num_events"] for cohort in summary["cohorts"].values()),
        notes=(*evaluation.notes, *_own_notes(summary)),
        figures={
            **_figures(evaluation, summary),
            **_figures_over_time(evaluation, summary),
            "routing": routing_svg([h.cancer_type for h in routed], weight_CE) if is_one_table else "",
        },
        slides=slides or HeldOutSlides(),
        comparisons=comparisons,
    )


def _figures(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of ranking and training as inline SVG (matplotlib escapes its text); one without data is empty."""
    means = {name: entry["c_index"] for name, entry in summary["c_index"][MEAN].items()}
    models = _with_strongest(summary["models"], means, MOST_IN_FOREST)
    stages = list(dict.fromkeys(curve.stage for curve in evaluation.curves))
    return {
        "forest": forest_svg(summary["c_index"], {name: label(name) for name in models}),
        "is_forest_of_all": len(models) == len(summary["models"]),
        "survival": [
            kaplan_meier_svg(
                held_out.cancer_type,
                held_out.duration_days,
                held_out.event_observed,
                risk_groups(held_out.risk_score[MICE], held_out.fold),
                summary["log_rank_p"][held_out.cancer_type],
            )
            for held_out in evaluation.held_out
        ],
        "curves": [
            training_curves_svg(STAGE_TITLES.get(stage, stage), [c for c in evaluation.curves if c.stage == stage])
            for stage in stages
        ],
        "coverage": coverage_svg(evaluation.coverage) if evaluation.coverage else "",
    }


def _figures_over_time(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return AUC(t) of the cancer types with the most events, and calibration of all; empty without training outcomes."""
    with_events = sorted(evaluation.held_out, key=lambda held_out: -int(held_out.event_observed.sum()))
    auc = (_auc_figure(held_out, summary["auc"]) for held_out in with_events if held_out.cancer_type in summary["auc"])
    calibrated = {name: row for name, row in summary["calibration"].items() if name != MEAN and row}
    return {
        "auc": list(islice(filter(None, auc), MOST_AUC_FIGURES)),
        "calibration": [
            calibration_svg(name, {float(years): _calibration(found) for years, found in row.items()})
            for name, row in calibrated.items()
        ],
    }


def _auc_figure(held_out: HeldOut, auc: Mapping[str, Mapping[str, float | None]]) -> str:
    models = _with_strongest(list(held_out.risk_score), auc[held_out.cancer_type], MOST_IN_AUC)
    times, curves = auc_curves(held_out, scored_folds(held_out), models)
    return auc_svg(held_out.cancer_type, times, {label(name): curve for name, curve in curves.items()}) if len(times) else ""


def _with_strongest(models: Sequence[str], scores: Mapping[str, float | None], most: int) -> list[str]:
    """Return MICE and the baselines with the highest scores, in the order of `models`."""
    baselines = sorted((name for name in models if name != MICE), key=lambda name: -(scores.get(name) or 0.0))
    kept = {MICE, *baselines[: most - 1]}
    return [MICE, *(name for name in models if name in kept and name != MICE)]


def _calibration(found: Mapping[str, Any]) -> Calibration:
    """Return what the summary's plain values stand for."""

    def value(of: Any) -> Any:
        return tuple(np.nan if each is None else each for each in of) if isinstance(of, list) else of

    return Calibration(**{field.name: value(found[field.name]) for field in fields(Calibration)})


def _own_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what the numbers themselves say about their gaps."""
    notes = [
        f"{name}: {cohort['num_undefined_folds']} of {cohort['num_folds']} folds have no comparable pair; its mean is"
        " over the others."
        for name, cohort in summary["cohorts"].items()
        if cohort["num_undefined_folds"]
    ]
    total = len(summary["cohorts"])
    counts = {name: row["num_cancer_types"] for name, row in summary["c_index"][MEAN].items()}
    notes += [
        f"{label(name)}: measured in {count} of {total} cancer types; its mean and its difference are over those."
        for name, count in counts.items()
        if count < total
    ]
    words = {"uno": "Uno's C", "auc": "mean AUC(t)", "brier": "integrated Brier score"}
    for name, counted in summary["undefined_folds"].items():
        gaps = [f"{words[metric]} in {count}" for metric, count in counted.items() if count]
        if gaps:
            notes.append(f"{name}: of {summary['cohorts'][name]['num_folds']} folds, undefined is {', '.join(gaps)}.")
    if not summary["uno"]:
        notes.append("Uno's C, AUC(t), Brier scores and calibration: not measured, no training outcomes were kept.")
    return [*notes, *summary["left_out"]]
