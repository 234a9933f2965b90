"""Which parts of a case's reports moved its risk score, and by how much.

The seam for report encoders: an encoder that can say which parts of a text its vector is made of gives their contributions, and
`report_contributions` asks the one that the pipeline has. A contribution is the gradient of the risk with respect to the report's
input, times the part's share in that input, which is zero for the average training report: so a part raises or lowers the risk
compared with that, to first order. All parts together give the gradient times the input, but for what the scaler cut off.

Shape legend: k width of the report's input, T terms of the case's reports that the encoder knows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mice_model.data import FoldData
from mice_model.explanation.report_windows import Window
from mice_model.scaling import Scaler
from mice_model.text import TermCounts, TextEncoder


class Contribution(NamedTuple):
    """A part of a report, as a reader knows it (a term, a window of text), and what it adds to the risk score."""

    label: str
    value: float


def report_contributions(
    fold_data: FoldData, row: int, gradient_k: NDArray[np.float64], windows: Sequence[Window] | None
) -> list[Contribution] | None:
    """Return what each part of the reports of a row adds to the risk: terms, or the windows of a text model.

    None where nobody can say: the text model's weights are not at hand.
    """
    part = fold_data.pipeline.report
    if part is None or (part.text is None and windows is None):
        return None
    group, _ = fold_data.data.rows.groups(fold_data.pipeline.is_within)
    text, scaler = part.text, part.scaler.of(int(group[row]))
    uncut_k = np.where(np.abs(fold_data.encoded.vectors["report"][row]) >= scaler.clip, 0, gradient_k)
    if text is None:
        return window_contributions(windows or (), scaler, uncut_k)
    return term_contributions(text, scaler, fold_data.data.counted, row, uncut_k)


def window_contributions(windows: Sequence[Window], scaler: Scaler, gradient_k: NDArray[np.float64]) -> list[Contribution]:
    """Return the contribution of every window: its share less its part of the average report's vector, scaled."""
    average_k = scaler.mean / max(len(windows), 1)
    return [Contribution(window.label, float((window.share - average_k) @ (gradient_k / scaler.std))) for window in windows]


def term_contributions(
    text: TextEncoder, scaler: Scaler, counted: TermCounts, row: int, gradient_k: NDArray[np.float64]
) -> list[Contribution]:
    """Return the contribution of every known term of a report: its share of the projected, scaled vector, times the gradient.

    A term's share is its weight, projected, less the average report's projection in proportion to that weight, both scaled.
    """
    report = TermCounts(counted.counts[[row]], counted.terms, counted.is_present[[row]])
    there = set(counted.terms[report.counts.indices].tolist())
    known = [index for index, term in enumerate(text.terms) if term in there]
    if not known:
        return []
    terms = tuple(text.terms[index] for index in known)
    # a report's weights do not depend on terms that it lacks, so an encoder of its own terms that projects on each gives them
    weight_T = TextEncoder(terms, text.idf[known], np.eye(len(known), dtype=np.float32)).encode(report)[0]
    average_k = scaler.mean / weight_T.sum()
    value_T = weight_T * ((text.components[known] - average_k) @ (gradient_k / scaler.std))
    return [Contribution(term, float(value)) for term, value in zip(terms, value_T, strict=True)]
