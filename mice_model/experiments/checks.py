"""The checks that look into trained networks, as results: drift of stand-ins, failure signs.

What belongs here: tables and headings. Figures are observed.py's, and what warns is watch.py's.
"""

from collections.abc import Mapping
from dataclasses import asdict

from mice_model.alarms import AlarmLimits
from mice_model.comparison import Comparison
from mice_model.data import open_study
from mice_model.experiments.names import CHECKS, FAILURE_SIGNS, STAND_IN_DRIFT
from mice_model.experiments.observed import Signs
from mice_model.experiments.page import Result, facts_of
from mice_model.experiments.run import encoders_of
from mice_model.experiments.watch import STAGE_WORDS, STAGES, Stage, failure_signs, sentences
from mice_model.protocol import Run
from mice_model.service import Plan

_LIMITS = AlarmLimits()
_DRIFT = (
    "Features of held-out cases that have a modality, beside the stand-ins that the network would synthesise if they lacked it; "
    "mean over folds and seeds. Cosine distance: 0 is the same direction, 1 a right angle. Frechet distance, as a share of the "
    "features' mean square: 1 is no better than zeros. A stand-in follows from the cancer type alone, so it never shows how the "
    "cases of a type differ."
)
_SIGNS = (
    "On held-out cases, outcomes not looked at; mean over folds and seeds. Entropies as a share of the most there can be: near "
    "0, a case (or the whole type) uses one expert. Spread: the standard deviation of the risks of one type, in time bins."
)


def stand_in_check(plan: Plan, study: str, *, is_quick: bool = False) -> Result:
    """Return how far stand-ins of the fine-tuned networks are from real features, by modality and cancer type."""
    found = _signs(plan, ("finetune",))
    signs = found["finetune"]
    pairs = [(name, modality) for name, each in signs.items() for modality in each.drift]
    beyond = sum(
        not (each.cosine <= _LIMITS.most_cosine and each.frechet <= _LIMITS.most_frechet)
        for one in signs.values()
        for each in one.drift.values()
    )
    section = Comparison(
        f"Stand-ins: {beyond} of {len(pairs)} pairs of cancer type and modality are beyond a limit",
        f"{_DRIFT} Limits: {_LIMITS.most_cosine:g} and {_LIMITS.most_frechet:g}.",
        "",
        ("Cancer type", "Modality", "Cases", "Cosine distance", "Frechet distance"),
        tuple(_drift_row(name, modality, signs[name]) for name, modality in pairs),
    )
    return _result(STAND_IN_DRIFT, "Stand-ins for missing modalities", plan, study, found, section, is_quick=is_quick)


def failure_check(plan: Plan, study: str, *, is_quick: bool = False) -> Result:
    """Return router entropy, spread of the risks and drift of all networks of a model version, with the alarms."""
    found = _signs(plan, STAGES)
    num_alarms = sum(len(sentences(signs, stage)) for stage, signs in found.items())
    rows = [_signs_row(name, stage, each) for stage, signs in found.items() for name, each in signs.items()]
    section = Comparison(
        f"Failure signs: {num_alarms} alarm{'' if num_alarms == 1 else 's'}",
        _SIGNS,
        "",
        ("Cancer type", "Networks", "Entropy of a case", "Entropy of the mean", "Spread", "Largest drift, cosine"),
        tuple(rows),
    )
    return _result(FAILURE_SIGNS, "Failure signs", plan, study, found, section, is_quick=is_quick)


def _signs(plan: Plan, stages: tuple[Stage, ...]) -> dict[Stage, dict[str, Signs]]:
    with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        run = Run(data, plan.folder)
        return {stage: failure_signs(run, stage) for stage in stages}


def _result(
    name: str,
    title: str,
    plan: Plan,
    study: str,
    found: Mapping[Stage, Mapping[str, Signs]],
    section: Comparison,
    *,
    is_quick: bool,
) -> Result:
    warnings = [sentence for stage, signs in found.items() for sentence in sentences(signs, stage)]
    return Result(
        name,
        study,
        title,
        CHECKS[name],
        facts_of(plan, encoders_of(plan)),
        {
            "signs": {stage: {type_: asdict(each) for type_, each in signs.items()} for stage, signs in found.items()},
            "alarms": warnings,
        },
        {"found": section.title, "alarms": len(warnings)},
        (section,),
        (plan.model_version,),
        tuple(warnings) or ("No figure is beyond its limit (mice_model/alarms.py).",),
        is_quick,
    )


def _drift_row(name: str, modality: str, signs: Signs) -> tuple[str, ...]:
    drift = signs.drift[modality]
    return name, modality, str(signs.num_real[modality]), f"{drift.cosine:.3f}", f"{drift.frechet:.3f}"


def _signs_row(name: str, stage: Stage, signs: Signs) -> tuple[str, ...]:
    entropies = ("none",) * 2 if signs.entropy is None else (f"{signs.entropy.of_case:.2f}", f"{signs.entropy.of_mean:.2f}")
    spread = "not defined" if signs.spread is None else f"{signs.spread:.3f}"
    worst = max(signs.drift, key=lambda modality: signs.drift[modality].cosine, default="")
    drift = f"{signs.drift[worst].cosine:.2f} ({worst})" if worst else "none"
    return name, STAGE_WORDS[stage], *entropies, spread, drift
