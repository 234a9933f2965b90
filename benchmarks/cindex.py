"""Held-out C-index of MICE and of what it is compared with, on TCGA: 12 cancer types, PORPOISE's five folds, three seeds.

Honest protocol, preset `default`, everything in one run on the same cases. Needs the landing folder of docs/cohorts.md; what is
done is kept in the home and found again, so an interrupted run goes on. Run: python -m benchmarks.cindex --data <folder>, or
make bench NAME=cindex DATA=<folder> [ARGS=--quick]: one seed, two folds.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from dagster_project.launch import materialize_cohorts, open_instance
from dagster_project.resources import REPOSITORY, Platform
from feature_store.progress import log_to_stderr
from mice_model.service import Plan, count_training_cases, evaluate_study, finetune_study, plan_training, pretrain_study
from mice_model.study import load_study

logger = logging.getLogger("mice_model.benchmark")

STUDY = "tcga-full"
FIVE = ("blca", "brca", "gbmlgg", "luad", "ucec")  # those that published multimodal models report on the same folds
LARGE = 80  # events from which on a cohort must not be behind its best baseline
MOST_BEHIND = 0.02
BAR = {"mean_of_12": 0.735, "mean_of_5": 0.775}  # the issue's


def run(data: Path, home: Path, *, is_quick: bool, study_name: str) -> dict[str, Any]:
    """Ingest, train and evaluate what is missing, print the table and return the figures."""
    started = time.monotonic()
    platform = Platform(home_folder=str(home), data_folder=str(data), study=study_name)
    study = load_study(REPOSITORY / "studies" / f"{study_name}.yaml")
    if is_quick:
        study = study.model_copy(update={"seeds": study.seeds[:1], "folds": study.folds[:2]})
    names = [name for name, contract in platform.contracts.items() if contract.name in study.contracts]
    with open_instance(platform.home.dagster) as instance:
        materialize_cohorts(platform, instance, names)
    plan = plan_training(study, platform.home, platform.contracts)
    logger.info("model version %s in %s", plan.model_version, plan.folder)
    count_training_cases(plan)
    pretrain_study(plan)
    finetune_study(plan)
    summary = evaluate_study(plan)
    print(table(summary))
    return {**figures(summary, plan), "wall_s_of_this_call": round(time.monotonic() - started, 1)}


def table(summary: dict[str, Any]) -> str:
    """Return the C-indices, models by cancer types."""
    rows = {**summary["c_index"]}
    width = max(len(name) for name in summary["models"]) + 2
    lines = ["".ljust(width) + "".join(name.rjust(10) for name in rows)]
    for model in summary["models"]:
        cells = [row[model]["c_index"] if model in row else None for row in rows.values()]
        lines.append(model.ljust(width) + "".join(("–" if cell is None else f"{cell:.3f}").rjust(10) for cell in cells))
    return "\n".join(lines)


def figures(summary: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return the C-indices by cancer type and under `mean`, paired p by baseline, and how the bar is met."""
    by_cohort = {
        name: {model: round(found["c_index"], 4) for model, found in row.items() if found["c_index"] is not None}
        for name, row in summary["c_index"].items()
    }
    five = [by_cohort[name] for name in FIVE if name in by_cohort]
    everywhere = [model for model in summary["models"] if all(model in row for row in five)]
    mean_of_5 = {model: round(sum(row[model] for row in five) / len(five), 4) for model in everywhere} if five else {}
    behind = {}
    for name, cohort in summary["cohorts"].items():
        row = by_cohort[name]
        others = {model: value for model, value in row.items() if not is_mice(model)}
        best = max(others, key=lambda model: others[model])
        if cohort["num_events"] >= LARGE and others[best] - row["mice"] > MOST_BEHIND:
            behind[name] = {"best": best, "behind": round(others[best] - row["mice"], 4)}
    return {
        **by_cohort,
        "mean_of_5": mean_of_5,
        "p": {model: found["p_value"] for model, found in summary["paired"]["mean"].items()},
        "num_cohorts": len(summary["cohorts"]),
        "cohorts": summary["cohorts"],
        "bar": BAR,
        "large_cohorts_behind": behind,
        "protocol": plan.study.protocol,
        "folds": list(plan.study.folds),
        "seeds": list(plan.study.seeds),
        "snapshot": plan.snapshot_id,
        "model_version": plan.model_version,
        "seconds": json.loads((plan.folder / "seconds.json").read_text(encoding="utf-8")),
        "report": str(plan.report),
    }


def is_mice(model: str) -> bool:
    """Return whether a row is MICE itself or a part of it, rather than a baseline."""
    return model in {"mice", "skip"} or model.startswith("experts_")


def main() -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MICE_DATA"), help="landing folder (default: MICE_DATA)")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("MICE_HOME", ".mice")), help="where results are kept")
    parser.add_argument("--study", default=STUDY, help="another study of the same form")
    parser.add_argument("--quick", action="store_true", help="one seed, two folds")
    options = parser.parse_args()
    log_to_stderr()
    if options.data is None or not Path(options.data).is_dir():
        print(f"cindex: no landing folder {options.data}, expected the real data's. Name it with --data or MICE_DATA.")
        print(json.dumps({"skipped": "no landing folder"}))
        return 0
    found = run(Path(options.data), options.home, is_quick=options.quick, study_name=options.study)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
