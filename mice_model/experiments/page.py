"""A finished experiment as a page and as JSON in the home's reports, and back again for a study's own report.

What belongs here: how a result is kept and shown. It names no case. Figures and words come with the result.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_store.home import Home
from mice_model.artifacts import write_json
from mice_model.code_version import code_version
from mice_model.comparison import Comparison
from mice_model.html_pages import templates, write_page
from mice_model.report_words import ENDPOINTS

if TYPE_CHECKING:
    from mice_model.service import Plan  # which shows kept comparisons itself

_PREFIX = "experiment-"


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    `facts`: protocol, encoders, seeds, snapshot and the like, as printed. `figures`: plain JSON; `short`: the few of them that a
    command prints. `comparisons`: sections of the page, what answers the experiment's question first. `model_versions`: of all
    networks that were looked at.
    """

    name: str
    study: str
    title: str
    caption: str
    facts: Mapping[str, str]
    figures: Mapping[str, Any]
    short: Mapping[str, Any]
    comparisons: tuple[Comparison, ...]
    model_versions: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    is_quick: bool = False

    @property
    def stem(self) -> str:
        """The name of its files, less the ending: a study's results do not replace another's, nor quick ones the whole."""
        return f"{_PREFIX}{self.name}-{self.study}{'-quick' if self.is_quick else ''}"

    def page(self, home: Home) -> Path:
        """Return where the page lies."""
        return home.reports / f"{self.stem}.html"


def facts_of(plan: "Plan", encoders: str) -> dict[str, str]:
    """Return what a reader needs to judge or repeat what is said of a model version."""
    study = plan.study
    return {
        "Study": f"{study.name}: {study.description}",
        "Protocol": study.protocol,
        "Endpoint": ENDPOINTS[study.endpoint],
        "Encoders": encoders or "none",
        "Cancer types": ", ".join(study.evaluate),
        "Folds": ", ".join(map(str, study.folds)),
        "Seeds": ", ".join(map(str, study.seeds)),
        "Snapshot": str(plan.snapshot_id),
        "Training set": plan.training_set_id,
        "Model version": plan.model_version,
        "Code version": code_version(),
        "Made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_result(result: Result, home: Home) -> Path:
    """Write page and JSON, each whole or as it was before; return the page."""
    page = result.page(home)
    html = templates("mice_model.experiments").get_template("experiment.html.j2").render(r=result)
    write_page(page, html)
    write_json(page.with_suffix(".json"), asdict(result))
    return page


def kept_comparisons(home: Home, model_version: str) -> tuple[Comparison, ...]:
    """Return the first section of every whole experiment that this model version took part in, for its own report."""
    found = []
    for path in sorted(home.reports.glob(f"{_PREFIX}*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if model_version in kept["model_versions"] and not kept["is_quick"]:
            found.append(_comparison(kept["comparisons"][0]))
    return tuple(found)


def _comparison(plain: Mapping[str, Any]) -> Comparison:
    rows = tuple(tuple(row) for row in plain["rows"])
    return Comparison(plain["title"], plain["caption"], plain["svg"], tuple(plain["header"]), rows)
