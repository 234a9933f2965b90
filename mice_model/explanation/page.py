"""The page that explains one case: words and number formats; the layout is templates/explanation.html.j2.

The page shows a patient's data, and its name is the case's. It refers to nothing outside of it, runs no script, and whatever came
from the cohort's files is escaped.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_store.durable import sync_file, sync_folder
from feature_store.explanation_pages import unfinished
from mice_model.explanation.attribution import Attribution
from mice_model.explanation.figures import standing_svg, survival_svg
from mice_model.explanation.pictures import gradient_css
from mice_model.explanation.slides import SeenSlide, TopPatch
from mice_model.explanation.standing import Standing
from mice_model.explanation.trained import Networks
from mice_model.html_pages import templates

NUM_TERMS = 15
# A score that the evaluation has and this run does not give again: other code, or another kind of machine.
_SAME_SCORE = 1e-3


@dataclass(frozen=True)
class Subject:
    """Whom a page is about, and by whose word: what its head and foot say."""

    case_id: str
    cohort: str
    cancer_type: str
    study: str
    model_version: str
    is_current: bool
    snapshot_id: int
    endpoint: str
    encoders: dict[str, str]
    protocol: str
    seeds: tuple[int, ...]
    modalities: tuple[str, ...]
    expert_ranks: tuple[int, ...]
    code_version: str
    created_at: str


@dataclass(frozen=True)
class Findings:
    """All that a page shows of its subject."""

    networks: Networks
    attribution: Attribution
    standing: Standing | None
    slides: Sequence[SeenSlide]
    top: Sequence[TopPatch]
    top_notes: Sequence[str]

    @property
    def num_patches(self) -> int:
        """The patches that the networks saw."""
        return sum(len(slide.weight) for slide in self.slides)

    @property
    def highest(self) -> float:
        """The most attention that a patch has: the heat maps of all slides share its colour."""
        return max((float(slide.weight.max()) for slide in self.slides), default=1.0)

    @property
    def effective_patches(self) -> float:
        """How many patches, looked at evenly, would make an attention as spread out: the exponential of its entropy."""
        weight = np.concatenate([slide.weight for slide in self.slides]) if self.slides else np.ones(1)
        weight = weight[weight > 0]
        return float(np.exp(-(weight * np.log(weight)).sum()))

    @property
    def top_share(self) -> float:
        """The attention of the top patches together."""
        return sum(patch.weight for patch in self.top)


def write_page(html: str, path: Path) -> None:
    """Put a page in its place, whole or not at all, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = unfinished(path)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(html)
        sync_file(new)
        new.replace(path)
        sync_folder(path.parent)
    finally:
        new.unlink(missing_ok=True)


def render(subject: Subject, found: Findings) -> str:
    """Return the page as HTML."""
    environment = templates("mice_model.explanation")
    environment.filters |= {"signed": _signed, "percent": _percent}
    report, parts = found.attribution.report, []
    if report is not None and report.contributions is not None:
        parts = sorted(report.contributions, key=lambda part: part.value)
    raising = [part for part in reversed(parts) if part.value > 0][:NUM_TERMS]
    lowering = [part for part in parts if part.value < 0][:NUM_TERMS]
    return environment.get_template("explanation.html.j2").render(
        s=subject,
        f=found,
        a=found.attribution,
        missing=[name for name in subject.modalities if not found.attribution.is_present.get(name)],
        stored=_stored(found),
        num_parts=len(parts),
        terms=[("Raise the risk", raising), ("Lower the risk", lowering)],
        largest=max((abs(part.value) for part in (*raising, *lowering)), default=1.0),
        pictures=[slide.picture(found.highest) for slide in found.slides],
        gradient=gradient_css(),
        survival=survival_svg(found.attribution.curves),
        standing_figure=standing_svg(found.standing, found.attribution.risk_score) if found.standing else "",
    )


def _stored(found: Findings) -> float | None:
    """Return the evaluation's score of the case where it is another than this run's."""
    stored, score = found.standing.stored if found.standing else None, found.attribution.risk_score
    is_other = stored is not None and abs(stored - score) > _SAME_SCORE * max(1.0, abs(score))
    return stored if is_other else None


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
