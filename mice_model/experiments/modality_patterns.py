"""What a trained model is worth with fewer modalities: held-out cases scored under every subset, and under random losses.

What belongs here: the patterns, their scores and the sections that show them. Hiding is hidden.py's. Networks stay as trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from feature_store.progress import tracked
from mice_model.comparison import Comparison
from mice_model.data import FoldData, StudyData, open_study
from mice_model.evaluation import HeldOut
from mice_model.experiments.hidden import BoolArray, IntArray, hide
from mice_model.experiments.names import MODALITY_PATTERNS
from mice_model.experiments.page import Result, facts_of
from mice_model.experiments.paired import compare, concordances
from mice_model.experiments.run import encoders_of
from mice_model.experiments.words import difference_figure, main_section, type_section
from mice_model.metrics import fold_mean_concordance
from mice_model.protocol import Run
from mice_model.report_words import score
from mice_model.resampling import mean_of_defined
from mice_model.service import Plan
from mice_model.training import predict

SHARES = (0.25, 0.5, 0.75)  # of the cases, that lose a modality at random
_AVAILABLE = (
    "The networks as they were trained; of each held-out case they see no more than the modalities named, and stand-ins for the "
    "rest. All held-out cases are scored under every pattern, those that lack the modalities anyway too."
)
_SHIFTED = (
    "The networks as they were trained; each modality is hidden from a share of the held-out cases, drawn at random: what a "
    "hospital would see that has less of it than the training cases had. Draws of a larger share contain those of a smaller one."
)
_OWN = (
    "How many held-out cases really have all modalities of a pattern, and the C-index over those alone: under the pattern, and "
    "with all that they have. Mean over folds and then over the cancer types in which it is defined."
)


@dataclass(frozen=True)
class Pattern:
    """`hidden` modalities are hidden: from a share of the cases drawn at random, or from all."""

    name: str
    hidden: tuple[str, ...]
    share: float = 1.0


@dataclass(frozen=True)
class Scored:
    """Held-out cases (n,) of a cancer type under patterns, which are the models of `held_out`; `has`: modality -> (n,)."""

    held_out: HeldOut
    has: Mapping[str, BoolArray]


@dataclass(frozen=True)
class OwnCases:
    """The held-out cases that have all modalities of a pattern: how many, their C-index under it, and with all they have."""

    num_with_all: int
    c_index_with_all: float | None
    c_index_with_all_unhidden: float | None


def subsets(modalities: Sequence[str]) -> list[Pattern]:
    """Return a pattern per subset that is not empty, named by what is left; the one that hides nothing first."""
    left = [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]
    return [Pattern(" + ".join(chosen), tuple(name for name in modalities if name not in chosen)) for chosen in left]


def shifts(modalities: Sequence[str]) -> list[Pattern]:
    """Return patterns in which a share of the cases loses one modality."""
    return [Pattern(f"{name} hidden from {share:.0%}", (name,), share) for name in modalities for share in SHARES]


def modality_patterns(plan: Plan, study: str, *, is_quick: bool = False) -> Result:
    """Return the C-index of a trained model version under every pattern, beside that under none."""
    modalities = plan.study.features.modalities
    available, shifted = subsets(modalities), shifts(modalities)
    with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        scored = score_patterns(Run(data, plan.folder), [*available, *shifted])
    found, whole = concordances([each.held_out for each in scored]), available[0].name
    rows = compare(found, [pattern.name for pattern in available], whole)
    lost = compare(found, [whole, *(pattern.name for pattern in shifted)], whole)
    own = {pattern.name: _of_those_with_all(scored, pattern, whole) for pattern in available}
    return Result(
        MODALITY_PATTERNS,
        study,
        "Modality patterns",
        "What the model is worth where modalities are missing. It is trained once; only what it sees of held-out cases changes.",
        facts_of(plan, encoders_of(plan)),
        {
            "reference": whole,
            "available": {name: asdict(row) | asdict(own[name]) for name, row in rows.items()},
            "shifted": {name: asdict(row) for name, row in lost.items() if name != whole},
        },
        {"reference": whole, "patterns": {name: row.short for name, row in (rows | lost).items()}},
        (
            main_section("Modalities available", _AVAILABLE, rows, whole, difference_figure(rows, whole, "by pattern")),
            _own_section(own),
            main_section("Modalities lost at random", _SHIFTED, lost, whole, difference_figure(lost, whole, "by share lost")),
            type_section("Modalities available", rows),
        ),
        (plan.model_version,),
        is_quick=is_quick,
    )


@dataclass(frozen=True)
class _Part:
    """One fold of a cancer type: its held-out rows, their risks by pattern, and which have what."""

    fold: int
    rows: IntArray
    risks: Mapping[str, NDArray[np.float64]]
    has: Mapping[str, BoolArray]


def score_patterns(run: Run, patterns: Sequence[Pattern]) -> list[Scored]:
    """Score every held-out case under every pattern by the networks of its fold, mean over seeds, as the evaluation does."""
    study = run.data.study
    parts: dict[str, list[_Part]] = {name: [] for name in study.evaluate}
    for fold in tracked(study.folds, "scoring modality patterns", len(study.folds)):
        fold_data = run.prepare(fold)
        for name, of_type in parts.items():
            of_type.append(_score(run, fold_data, name, patterns))
    return [_joined(run.data, name, of_type) for name, of_type in parts.items()]


def _score(run: Run, fold_data: FoldData, cancer_type: str, patterns: Sequence[Pattern]) -> _Part:
    _, rows = run.data.cohort_rows(cancer_type, fold_data.fold)
    models = [run.trained(fold_data, cancer_type, seed) for seed in run.data.study.seeds]
    risks = {}
    for pattern in patterns:
        left = hide(fold_data, rows, _drawn(pattern, fold_data, rows))
        risks[pattern.name] = np.mean([predict(model, left, rows).risk for model in models], axis=0)
    return _Part(fold_data.fold, rows, risks, {name: there[rows] for name, there in fold_data.encoded.is_present.items()})


def _drawn(pattern: Pattern, fold_data: FoldData, rows: IntArray) -> dict[str, BoolArray]:
    """Return modality -> which of the rows lose it; draws depend on the fold and the modality, not on the share."""
    names: Sequence[str] = fold_data.data.study.features.modalities
    seeds = {name: (fold_data.fold, names.index(name)) for name in pattern.hidden}
    return {
        name: np.random.default_rng(seed).random(len(fold_data.time_bin))[rows] < pattern.share for name, seed in seeds.items()
    }


def _joined(data: StudyData, cancer_type: str, parts: Sequence[_Part]) -> Scored:
    rows, known = np.concatenate([part.rows for part in parts]), data.training_set
    held_out = HeldOut(
        cancer_type=cancer_type,
        case_id=tuple(known.cases["case_id"][rows]),
        fold=np.concatenate([np.full(len(part.rows), part.fold, np.int64) for part in parts]),
        duration_days=known.duration_days[rows],
        event_observed=known.event_observed[rows],
        risk_score={name: np.concatenate([part.risks[name] for part in parts]) for name in parts[0].risks},
        survival_bins=np.empty((len(rows), 0)),
        bin_edges_days={},
        routing=np.empty((len(rows), 0)),
    )
    nowhere = {part.fold: np.zeros(len(part.rows), bool) for part in parts}  # a modality that a fold's training cases lack
    modalities: Sequence[str] = data.study.features.modalities
    has = {name: np.concatenate([part.has.get(name, nowhere[part.fold]) for part in parts]) for name in modalities}
    return Scored(held_out, has)


def _of_those_with_all(scored: Sequence[Scored], pattern: Pattern, whole: str) -> OwnCases:
    num_cases, found = 0, []
    for each in scored:
        ours = np.all([there for name, there in each.has.items() if name not in pattern.hidden], axis=0)
        num_cases += int(ours.sum())
        if ours.any():
            found.append([_c_index(each.held_out, ours, name) for name in (pattern.name, whole)])
    means = mean_of_defined(np.array(found), axis=0) if found else np.full(2, np.nan)
    return OwnCases(num_cases, *(None if np.isnan(mean) else float(mean) for mean in means))


def _c_index(held: HeldOut, ours: BoolArray, name: str) -> float:
    columns = (held.duration_days, held.event_observed, held.risk_score[name], held.fold)
    return fold_mean_concordance(*(column[ours] for column in columns)).mean


def _own_section(own: Mapping[str, OwnCases]) -> Comparison:
    header = ("Pattern", "Cases that have all", "C-index under the pattern", "C-index with all they have")
    return Comparison("Cases that have all modalities of a pattern", _OWN, "", header, tuple(_own_rows(own)))


def _own_rows(own: Mapping[str, OwnCases]) -> Iterator[tuple[str, ...]]:
    for name, each in own.items():
        yield name, str(each.num_with_all), score(each.c_index_with_all), score(each.c_index_with_all_unhidden)
