"""One evaluation as one self-contained HTML page, made to be read.

What belongs here: words, number formats, and which figure goes where. Numbers come from summary.py, figures from
plots.py, the layout is templates/report.html.j2. The page names no case: nothing but counts, means and curves goes
into it, and links to pictures of slides (held_out_slides.py says why it does not hold them).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mice_model.evaluation import Evaluation
from mice_model.held_out_slides import HeldOutSlides
from mice_model.html_pages import templates
from mice_model.kaplan_meier import kaplan_meier_svg
from mice_model.metrics import risk_groups
from mice_model.plots import coverage_svg, forest_svg, routing_svg, training_curves_svg
from mice_model.summary import MEAN, MICE

MODEL_LABELS = {
    "mice": "MICE",
    "cox_clinical": "Cox, clinical",
    "cox_rna": "Cox, RNA",
    "cox_clinical_rna": "Cox, clinical + RNA",
    "rsf": "Survival forest",
}
STAGE_TITLES = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}
ENDPOINTS = {
    "os": "overall survival",
    "dss": "disease-specific survival",
    "dfi": "disease-free interval",
    "pfi": "progression-free interval",
}
NOT_DEFINED = "not defined"
MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


def write_report(evaluation: Evaluation, summary: Mapping[str, Any], path: Path, slides: HeldOutSlides | None = None) -> None:
    """Write the report of an evaluation and its summary; a reader of an older one at `path` never sees half of the new one."""
    page = render(evaluation, summary, slides)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def render(evaluation: Evaluation, summary: Mapping[str, Any], slides: HeldOutSlides | None = None) -> str:
    """Return the page as HTML."""
    environment = templates("mice_model")
    environment.filters |= {"c_index": _c_index, "signed": _signed, "p_value": _p_value, "label": _label}
    environment.tests["best"] = _is_best
    return environment.get_template("report.html.j2").render(
        e=evaluation,
        s=summary,
        mean_key=MEAN,
        mice=MICE,
        endpoint=ENDPOINTS.get(evaluation.endpoint, evaluation.endpoint),
        baselines=[name for name in summary["models"] if name != MICE],
        verdict=_verdict,
        smallest_p=2 / (summary["num_bootstrap"] + 1),
        num_cases=sum(cohort["num_cases"] for cohort in summary["cohorts"].values()),
        num_events=sum(cohort["num_events"] for cohort in summary["cohorts"].values()),
        notes=(*evaluation.notes, *_own_notes(summary)),
        figures=_figures(evaluation, summary),
        slides=slides or HeldOutSlides(),
    )


def _figures(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return every figure as inline SVG (matplotlib escapes its text); one without data is empty."""
    models = {name: _label(name) for name in summary["models"]}
    stages = list(dict.fromkeys(curve.stage for curve in evaluation.curves))
    routed = [h for h in evaluation.held_out if h.routing.size]
    num_experts = {h.routing.shape[1] for h in routed}
    return {
        "forest": forest_svg(summary["c_index"], models),
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
        "routing": routing_svg([h.cancer_type for h in routed], np.stack([h.routing.mean(axis=0) for h in routed]))
        if len(num_experts) == 1
        else "",
    }


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
    return notes + [
        f"{_label(name)}: measured in {count} of {total} cancer types; its mean and its difference are over those."
        for name, count in counts.items()
        if count < total
    ]


def _label(name: str) -> str:
    return MODEL_LABELS.get(name, name)


def _c_index(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    if value is None:
        return NOT_DEFINED
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    return f"{sign}{abs(value):.3f}"


def _p_value(value: float | None, smallest: float) -> str:
    if value is None:
        return f"p {NOT_DEFINED}"
    relation = "\N{LESS-THAN OR EQUAL TO}" if value <= smallest else "="
    return f"p{NO_BREAK}{relation}{NO_BREAK}{max(value, smallest):.2g}"


def _verdict(entry: Mapping[str, Any]) -> str:
    """Return in words how MICE does against a baseline; better and worse need p < 0.05 and an interval without zero."""
    if entry["low"] is None or entry["p_value"] is None:
        return NOT_DEFINED
    if entry["p_value"] >= 0.05 or entry["low"] <= 0 <= entry["high"]:
        return "unclear"
    return "better" if entry["low"] > 0 else "worse"


def _is_best(entry: Mapping[str, Any], row: Mapping[str, Mapping[str, Any]]) -> bool:
    values = [other["c_index"] for other in row.values() if other["c_index"] is not None]
    return entry["c_index"] is not None and entry["c_index"] == max(values)
