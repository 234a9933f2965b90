"""An experiment run: every variant trained, scored and compared on the same held-out cases. It goes on where it was interrupted.

What belongs here: the order of the service's steps and which figures are compared. A variant is a study like any other, with a
model version of its own; what is trained already, for whichever experiment, is not trained again.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from feature_store.contract import Contract
from feature_store.home import Home
from feature_store.progress import tracked
from mice_model.comparison import Comparison
from mice_model.comparison_figures import data_efficiency_svg
from mice_model.data import StudyData, open_study
from mice_model.evaluation import HeldOut
from mice_model.experiments.experiment import BASE, Experiment, ExperimentError, changes_of, variant_studies
from mice_model.experiments.page import Result, facts_of
from mice_model.experiments.paired import Row, compare, concordances, together
from mice_model.experiments.words import difference_figure, estimates, main_section, type_section
from mice_model.report_words import label
from mice_model.service import Plan, evaluate_study, finetune_study, plan_training, pretrain_study
from mice_model.study import Study
from mice_model.summary import MEAN, MICE

logger = logging.getLogger(__name__)

_MOST_MODELS = 5  # in the figure over shares, MICE among them: more cannot be told apart
_COMPARABLE = ("contracts", "endpoint", "split", "evaluate", "folds")


@dataclass(frozen=True)
class Variant:
    """A variant that is trained and evaluated: its plan, its evaluation's summary, and what it changes in words."""

    plan: Plan
    summary: Mapping[str, Any]
    changes: Mapping[str, str]


def run_experiment(
    name: str,
    experiment: Experiment,
    base: Study,
    home: Home,
    contracts: Mapping[str, Contract],
    *,
    num_workers: int = 0,
    is_quick: bool = False,
) -> Result:
    """Train, score and compare every variant of `base`; `contracts` maps cohort -> contract.

    Raises ExperimentError, before anything is trained, where a variant is no study or is not scored on the reference's cases.
    """
    studies = variant_studies(experiment, base, is_quick=is_quick)
    _refuse_others(studies, experiment.reference)
    variants = {}
    for variant, study in tracked(studies.items(), f"experiment {name}", len(studies)):
        logger.info("experiment %s: variant %s (%s)", name, variant, study.name)
        plan = plan_training(study, home, contracts, num_workers)
        variants[variant] = Variant(plan, train_and_evaluate(plan), changes_of(base, study))
    return _result(name, experiment, base, variants, is_quick=is_quick)


def train_and_evaluate(plan: Plan) -> dict[str, Any]:
    """Return the summary of a model version's evaluation, making what is not there."""
    pretrain_study(plan)
    finetune_study(plan)
    return evaluate_study(plan)


def _refuse_others(studies: Mapping[str, Study], reference: str) -> None:
    """Raise ExperimentError if a variant would be scored on other cases or outcomes than the reference."""
    for name, study in studies.items():
        other = [key for key in _COMPARABLE if getattr(study, key) != getattr(studies[reference], key)]
        if other:
            found = f"variant {name!r}: another {', '.join(other)} than {reference!r}"
            raise ExperimentError(f"{found}, expected the same held-out cases and outcomes. Take the change out.")


def held_out_of(variants: Mapping[str, Variant], reference: str) -> list[HeldOut]:
    """Return the held-out cases by cancer type, with MICE's risks under every variant as `risk_score`.

    Raises ExperimentError where a variant scored other cases than the reference, or in other folds.
    """
    plan = variants[reference].plan
    with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        outcomes = _outcomes(data)
    # in the evaluation's order, on which the resamples depend: the reference's interval is that of its own report
    scored = _predictions(plan).rename({"risk_score": reference})
    scored = scored.join(outcomes, on="case_id", maintain_order="left")
    for name, variant in variants.items():
        if name != reference:
            risks = _predictions(variant.plan).drop("cancer_type").rename({"risk_score": name})
            both = scored.join(risks, on=["case_id", "fold"], maintain_order="left")
            if not len(both) == len(scored) == len(risks):
                found = f"variant {name!r}: {len(risks)} held-out cases, {len(both)} of them {reference!r}'s in the same fold"
                raise ExperimentError(f"{found}, expected the same {len(scored)}. Run the experiment on one snapshot.")
            scored = both
    return [
        HeldOut(
            cancer_type=cancer_type,
            case_id=tuple(rows["case_id"]),
            fold=rows["fold"].to_numpy().astype(np.int64),
            duration_days=rows["duration_days"].to_numpy(),
            event_observed=rows["event_observed"].to_numpy(),
            risk_score={name: rows[name].to_numpy() for name in variants},
            survival_bins=np.empty((len(rows), 0)),
            bin_edges_days={},
            routing=np.empty((len(rows), 0)),
        )
        for cancer_type in plan.study.evaluate
        for rows in (scored.filter(pl.col("cancer_type") == cancer_type),)
    ]


def encoders_of(plan: Plan) -> str:
    """Return what made the inputs of an evaluated model version, as its predictions say."""
    return str(pl.read_parquet(plan.folder / "predictions.parquet", columns=["encoders"])["encoders"][0])


def _outcomes(data: StudyData) -> pl.DataFrame:
    known = data.training_set
    return known.cases.select("case_id").with_columns(
        duration_days=pl.Series(known.duration_days, dtype=pl.Float64),
        event_observed=pl.Series(known.event_observed, dtype=pl.Boolean),
    )


def _predictions(plan: Plan) -> pl.DataFrame:
    return pl.read_parquet(plan.folder / "predictions.parquet", columns=["case_id", "cancer_type", "fold", "risk_score"])


def _result(name: str, experiment: Experiment, base: Study, variants: Mapping[str, Variant], *, is_quick: bool) -> Result:
    found = concordances(held_out_of(variants, experiment.reference))
    rows = compare(found, list(variants), experiment.reference)
    title, caption = experiment.title, experiment.caption
    if experiment.figure == "data_efficiency":
        groups = _by_share(variants)
        reference = next(share for share, members in groups.items() if experiment.reference in members)
        grouped = compare(together(found, groups), list(groups), reference)
        svg = _efficiency_figure(variants, groups, grouped, title)
        sections: tuple[Comparison, ...] = (
            main_section(title, caption, grouped, reference, svg),
            main_section("Every draw", "The draws of a share before they are averaged.", rows, experiment.reference),
            type_section(title, grouped),
        )
        shares, shown = {share: asdict(row) for share, row in grouped.items()}, grouped
    else:
        svg = difference_figure(rows, experiment.reference, title)
        sections = (main_section(title, caption, rows, experiment.reference, svg), type_section(title, rows))
        shares, shown = {}, rows
    plan = variants[experiment.reference].plan
    return Result(
        name,
        base.name,
        title,
        caption,
        facts_of(plan, encoders_of(plan)),
        {
            "reference": experiment.reference,
            "variants": {variant: _figures(rows[variant], made) for variant, made in variants.items()},
            **({"shares": shares} if shares else {}),
        },
        {"reference": experiment.reference, "variants": {variant: row.short for variant, row in shown.items()}},
        (*sections, _versions(variants)),
        tuple(dict.fromkeys(made.plan.model_version for made in variants.values())),
        tuple(_notes(variants, experiment.reference)),
        is_quick,
    )


def _figures(row: Row, made: Variant) -> dict[str, Any]:
    return {
        **asdict(row),
        "changes": dict(made.changes),
        "model_version": made.plan.model_version,
        "protocol": made.plan.study.selection,
        "training_share": made.plan.study.training_share,
        "seeds": list(made.plan.study.seeds),
        "report": made.plan.report.name,
    }


def _by_share(variants: Mapping[str, Variant]) -> dict[str, list[str]]:
    """Return share of the training cases, in words and ascending -> the variants that draw it."""
    groups: dict[float, list[str]] = {}
    for name, made in variants.items():
        groups.setdefault(made.plan.study.training_share, []).append(name)
    return {f"{share:.0%} of the cases": groups[share] for share in sorted(groups)}


def _efficiency_figure(
    variants: Mapping[str, Variant], groups: Mapping[str, list[str]], rows: Mapping[str, Row], title: str
) -> str:
    """Draw MICE and the strongest baselines over the share; a baseline's figures are means of the draws' own."""
    shares = [variants[members[0]].plan.study.training_share for members in groups.values()]
    means = {name: made.summary["c_index"][MEAN] for name, made in variants.items()}
    whole = means[list(groups.values())[-1][0]]
    others = [name for name in whole if name != MICE and all(name in row for row in means.values())]
    strongest = sorted(others, key=lambda name: -(whole[name]["c_index"] or 0.0))[: _MOST_MODELS - 1]
    lines = {label(MICE): [estimates([row.c_index]) for row in rows.values()]}
    lines |= {label(name): [estimates([means[v][name] for v in members]) for members in groups.values()] for name in strongest}
    return data_efficiency_svg(shares, lines, title)


def _versions(variants: Mapping[str, Variant]) -> Comparison:
    cells = [
        (name, "; ".join(f"{key} {value}" for key, value in made.changes.items()) or "nothing", made.plan.model_version)
        for name, made in variants.items()
    ]
    header = ("Variant", "What it changes in the study", "Model version")
    return Comparison("The variants", "Each is a study of its own, with its own report.", "", header, tuple(cells))


def _notes(variants: Mapping[str, Variant], reference: str) -> list[str]:
    """Return what a reader must know before comparing."""
    own = variants[reference].plan.model_version
    same = [name for name, made in variants.items() if name != reference and made.plan.model_version == own]
    notes = [f"{name}: what {reference} is already, so its difference is zero by construction." for name in same]
    author = [name for name, made in variants.items() if made.plan.study.selection == "author"]
    if author:
        notes.append(
            f"{', '.join(author)}: epochs chosen by the held-out C-index (author protocol), so too good by construction; what it"
            f" is above {reference} is inflation."
        )
    if reference == BASE and not variants[BASE].changes:
        notes.append(f"{BASE}: the study {variants[BASE].plan.study.name} as it is.")
    return notes
