"""Variants beside a reference on the same held-out cases: C-indices with intervals, and differences on the same resamples.

What belongs here: figures only. Where risks come from is run.py's and modality_patterns.py's, words and pages are page.py's.
Undefined figures are None, as in an evaluation's summary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mice_model.discrimination import MEAN, Concordance, c_index_rows, defined_in, harrell
from mice_model.evaluation import HeldOut
from mice_model.metrics import paired_difference

NUM_BOOTSTRAP = 1000
Entry = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One variant. `c_index`: {c_index, low, high, num_cancer_types}, the mean over cancer types; `by_type` the same for each.

    `difference`: {difference, low, high, p_value, num_cancer_types}, this one minus the reference.
    """

    c_index: Entry
    difference: Entry
    by_type: dict[str, Entry]

    @property
    def short(self) -> Entry:
        """The C-index, the difference and its p-value, rounded."""
        values = {
            "c_index": self.c_index["c_index"],
            "difference": self.difference["difference"],
            "p": self.difference["p_value"],
        }
        return {key: None if value is None else round(value, 4) for key, value in values.items()}


def concordances(held_out: Sequence[HeldOut], num_bootstrap: int = NUM_BOOTSTRAP) -> dict[str, Concordance]:
    """Return the C-index of every variant (the names of `risk_score`) by cancer type, all on the same resamples."""
    return {held.cancer_type: harrell(held, num_bootstrap, seed=0) for held in held_out}


def together(found: Mapping[str, Concordance], groups: Mapping[str, Sequence[str]]) -> dict[str, Concordance]:
    """Return the mean C-index of each group of variants (name -> variants), in point and in every resample."""
    return {
        cancer_type: Concordance(
            {name: float(np.mean([each.point[variant] for variant in group])) for name, group in groups.items()},
            {name: np.mean([each.samples[variant] for variant in group], axis=0) for name, group in groups.items()},
            each.num_undefined,
        )
        for cancer_type, each in found.items()
    }


def compare(found: Mapping[str, Concordance], names: Sequence[str], reference: str) -> dict[str, Row]:
    """Return a row per variant, in order."""
    scores = c_index_rows(names, found)
    return {
        name: Row(
            _defined(scores[MEAN][name]),
            _difference(name, reference, found),
            {cancer_type: _defined(row[name]) for cancer_type, row in scores.items() if cancer_type != MEAN and name in row},
        )
        for name in names
    }


def _difference(name: str, reference: str, found: Mapping[str, Concordance]) -> Entry:
    """Return a variant minus the reference, averaged over the cancer types in which both are defined."""
    ours = defined_in(name, found)
    both = [cancer_type for cancer_type in defined_in(reference, found) if cancer_type in ours]
    if not both:
        return {"difference": None, "low": None, "high": None, "p_value": None, "num_cancer_types": 0}
    point = float(np.mean([found[c].point[name] - found[c].point[reference] for c in both]))
    samples = np.mean([found[c].samples[name] - found[c].samples[reference] for c in both], axis=0)
    return {**_defined(asdict(paired_difference(point, samples))), "num_cancer_types": len(both)}


def _defined(entry: Mapping[str, Any]) -> Entry:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in entry.items()}
