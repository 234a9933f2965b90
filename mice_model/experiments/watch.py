"""Failure signs of trained networks on held-out cases, by cancer type, and the sentences that warn of them.

What belongs here: which networks are looked at, and how it is told. Figures are observed.py's, limits and sentences alarms.py's.
No outcome is looked at, so nothing here can choose by the held-out fold. Nothing that trains may import this.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from feature_store.progress import tracked
from mice_model.alarms import alarms
from mice_model.experiments.observed import Signs, mean_signs, observe
from mice_model.protocol import Run

Stage = Literal["pretrain", "finetune"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STAGE_WORDS: Mapping[Stage, str] = {"pretrain": "pre-trained", "finetune": "fine-tuned"}


def watch(run: Run, stage: Stage = "finetune") -> tuple[str, ...]:
    """Return a sentence for every sign of failure of a model version's networks, to be set beside its evaluation."""
    return sentences(failure_signs(run, stage), stage)


def failure_signs(run: Run, stage: Stage = "finetune") -> dict[str, Signs]:
    """Return each evaluated cancer type's figures on its held-out cases, mean over folds and seeds."""
    study = run.data.study
    found: dict[str, list[list[Signs]]] = {name: [] for name in study.evaluate}
    for fold in tracked(study.folds, f"watching {STAGE_WORDS[stage]} networks", len(study.folds)):
        fold_data = run.prepare(fold)
        for name, of_folds in found.items():
            _, rows = run.data.cohort_rows(name, fold)
            models = (run.trained(fold_data, "" if stage == "pretrain" else name, seed) for seed in study.seeds)
            of_folds.append([observe(model, fold_data, rows) for model in models])
    return {name: mean_signs(of_folds) for name, of_folds in found.items()}


def sentences(found: Mapping[str, Signs], stage: Stage) -> tuple[str, ...]:
    """Return the alarms of every cancer type, each saying of which networks it is."""
    return tuple(
        f"{name}, {STAGE_WORDS[stage]}: {sentence}"
        for name, signs in found.items()
        for sentence in alarms(
            entropy=signs.entropy, spread={} if signs.spread is None else {name: signs.spread}, drift=signs.drift
        )
    )
