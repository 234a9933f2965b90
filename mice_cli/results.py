"""What a finished run prints: a table to read and the JSON object of its last line. Formatting only."""

import json
from typing import Any

from mice_model.service import Plan, count_training_cases


def result_table(plan: Plan) -> str:
    """Return the C-index table of the run, cancer types by models, with the report's path."""
    summary = _kept(plan, "summary")
    models = summary["models"]
    lines = [f"{'C-index, held out':<18}" + "".join(f"{name:>20}" for name in models)]
    for cancer_type, row in summary["c_index"].items():
        lines.append(f"{cancer_type:<18}" + "".join(f"{_cell(row.get(name)):>20}" for name in models))
    lines += [f"protocol: {plan.study.protocol}", f"report: {plan.report}"]
    return "\n".join(lines)


def result_line(plan: Plan) -> dict[str, Any]:
    """Return the run's figures: counts, snapshot, C-indices by cancer type, paired p, where the report is."""
    summary, counts = _kept(plan, "summary"), count_training_cases(plan)
    mean = {name: found["c_index"] for name, found in summary["c_index"]["mean"].items()}
    cohorts = {
        cancer_type: {name: _rounded(found["c_index"]) for name, found in row.items()}
        for cancer_type, row in summary["c_index"].items()
    }
    return {
        "study": plan.study.name,
        **counts,
        "snapshot": plan.snapshot_id,
        "training_set_id": plan.training_set_id,
        "model_version": plan.model_version,
        "c_index": _rounded(mean["mice"]),
        "cox_c_index": _rounded(mean.get("cox_clinical_rna", mean.get("cox_clinical"))),
        "rsf_c_index": _rounded(mean.get("rsf")),
        "cohorts": cohorts,
        "p": {name: found["p_value"] for name, found in summary["paired"]["mean"].items()},
        "folds": list(plan.study.folds),
        "seeds": list(plan.study.seeds),
        "width": plan.study.network.width,
        "epochs": {"pretrain": plan.study.pretrain.epochs, "finetune": plan.study.finetune.epochs},
        "seconds": {stage: round(seconds, 1) for stage, seconds in _kept(plan, "seconds").items()},
        "report": str(plan.report),
    }


def _kept(plan: Plan, name: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((plan.folder / f"{name}.json").read_text(encoding="utf-8"))
    return kept


def _cell(found: dict[str, Any] | None) -> str:
    if found is None or found["c_index"] is None:
        return "–"
    return f"{found['c_index']:.3f} ({found['low']:.3f}-{found['high']:.3f})"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
