"""The words of a report: models' names, number formats, and the headings that say what was found.

What belongs here: from numbers of a summary to text. Which section shows what is in templates/report.html.j2, and what is
computed in summary.py. A finding names the highest or counts; whether a difference is more than chance is the verdict's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mice_model.summary import MEAN, MICE

MODEL_LABELS = {
    "mice": "MICE",
    "cox_clinical": "Cox, clinical",
    "cox_rna": "Cox, RNA",
    "cox_clinical_rna": "Cox, clinical + RNA",
    "cox_all": "Cox, all features",
    "rsf": "Survival forest",
    "mlp_clinical": "MLP, clinical",
    "mlp_omics": "MLP, omics",
    "mlp_report": "MLP, report",
    "abmil": "ABMIL, slides",
    "concatenation": "Concatenation",
    "top_k_moe": "Top-k mixture",
    "skip": "Cox skip of MICE alone",
    "experts_consensual": "MICE, consensual experts only",
    "experts_specialised": "MICE, specialised experts only",
    "experts_overlapping": "MICE, overlapping experts only",
}
ENDPOINTS = {
    "os": "overall survival",
    "dss": "disease-specific survival",
    "dfi": "disease-free interval",
    "pfi": "progression-free interval",
}
NOT_DEFINED = "not defined"
MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"
SIGNIFICANT = 0.05


def label(name: str) -> str:
    """Return what a reader calls a model."""
    return MODEL_LABELS.get(name, name)


def score(value: float | None) -> str:
    """Return a C-index, an AUC, a Brier score or an error with three decimals."""
    return NOT_DEFINED if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    if value is None:
        return NOT_DEFINED
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    return f"{sign}{abs(value):.3f}"


def bootstrap_p(value: float | None, smallest: float) -> str:
    """Return a bootstrap's p-value, which says no more than that it is at most the smallest it can be."""
    if value is None:
        return f"p {NOT_DEFINED}"
    relation = "\N{LESS-THAN OR EQUAL TO}" if value <= smallest else "="
    return f"p{NO_BREAK}{relation}{NO_BREAK}{max(value, smallest):.2g}"


def plain_p(value: float | None) -> str:
    """Return the p-value of a test."""
    if value is None:
        return NOT_DEFINED
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def verdict(entry: Mapping[str, Any]) -> str:
    """Return in words how MICE does against a baseline; better and worse need p < 0.05 and an interval without zero."""
    if entry["low"] is None or entry["p_value"] is None:
        return NOT_DEFINED
    if entry["p_value"] >= SIGNIFICANT or entry["low"] <= 0 <= entry["high"]:
        return "unclear"
    return "better" if entry["low"] > 0 else "worse"


def is_best(entry: Mapping[str, Any], row: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether no model of the row has a higher C-index."""
    values = [other["c_index"] for other in row.values() if other["c_index"] is not None]
    return entry["c_index"] is not None and entry["c_index"] == max(values)


def headings(summary: Mapping[str, Any], weights: Sequence[float] = ()) -> dict[str, str]:
    """Return the headings that depend on the numbers; `weights`: each overlapping expert's mean weight."""
    types = [name for name in summary["c_index"] if name != MEAN]
    ours = [summary["c_index"][name] for name in types]
    highest = sum(is_best(row[MICE], row) for row in ours)
    verdicts = [verdict(entry) for name in types for entry in summary["paired"][name].values()]
    apart = sum(p is not None and p < SIGNIFICANT for p in summary["log_rank_p"].values())
    found = {
        "c_index": f"C-index by cancer type: MICE has the highest in {highest} of {len(types)}",
        "paired": "MICE minus each baseline, by cancer type: "
        + ", ".join(f"{verdicts.count(word)} {word}" for word in ("better", "worse", "unclear")),
        "risk_groups": f"Survival of the risk groups: log-rank p < {SIGNIFICANT} in {apart} of {_types(len(types))}",
        "routing": "Routing of cancer types to experts",
    }
    if summary["uno"]:
        found |= {"discrimination": _discrimination(summary["uno"][MEAN]), "calibration": _calibration(summary["brier"])}
    if len(weights):
        found["routing"] = (
            f"Routing: the most used expert has a mean weight of {max(weights):.2f}; even use: {1 / len(weights):.2f}"
        )
    return found


def _discrimination(means: Mapping[str, Any]) -> str:
    """Name the highest of the models that were measured in as many cancer types as MICE."""
    alike = {
        name: entry["c_index"]
        for name, entry in means.items()
        if entry["c_index"] is not None and entry["num_cancer_types"] == means[MICE]["num_cancer_types"]
    }
    if MICE not in alike:
        return "Discrimination: Uno's C is not defined"
    best = max(alike, key=alike.__getitem__)
    ours = "" if best == MICE else f"; MICE: {score(alike[MICE])}"
    return f"Discrimination: the highest mean Uno's C is {score(alike[best])}, of {label(best)}{ours}"


def _calibration(brier: Mapping[str, Mapping[str, float | None]]) -> str:
    pairs = [(row["mice"], row["kaplan_meier"]) for name, row in brier.items() if name != MEAN]
    known = [(mice, null) for mice, null in pairs if mice is not None and null is not None]
    if not known:
        return "Calibration: no Brier score is defined"
    lower = sum(mice < null for mice, null in known)
    return f"Calibration: MICE's Brier score is below Kaplan-Meier's in {lower} of {_types(len(known))}"


def _types(count: int) -> str:
    return f"{count} cancer type{'' if count == 1 else 's'}"
