"""Rows of variants as sections of a page: the heading that says what was found, the table, the figure.

What belongs here: from figures to text. Which variants there are is run.py's and modality_patterns.py's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mice_model.comparison import Comparison
from mice_model.comparison_figures import ablation_svg
from mice_model.experiments.paired import NUM_BOOTSTRAP, Row
from mice_model.report_words import bootstrap_p, score, signed, verdict

_SMALLEST_P = 2 / (NUM_BOOTSTRAP + 1)
HOW = (
    f"C-index: mean over folds, then over cancer types, with the 95% interval of {NUM_BOOTSTRAP} patient resamples. Differences "
    "are paired on the same cases and resamples; p-values are not corrected for the number of comparisons. Intervals keep the "
    "fitted models: another seed may move a figure as much."
)


def heading(title: str, rows: Mapping[str, Row], reference: str) -> str:
    """Return the title with how many variants are better and worse than the reference."""
    words = [verdict(row.difference) for name, row in rows.items() if name != reference]
    found = ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "unclear") if word in words)
    return f"{title}: against {reference} ({score(rows[reference].c_index['c_index'])}), {found or 'nothing to compare'}"


def main_section(title: str, caption: str, rows: Mapping[str, Row], reference: str, svg: str = "") -> Comparison:
    """Return every variant with its C-index and its difference to the reference."""
    header = ("Variant", "C-index", f"Minus {reference}", "p", "Verdict")
    cells = [
        (name, interval(row.c_index, "c_index"), "reference", "", "")
        if name == reference
        else (
            name,
            interval(row.c_index, "c_index"),
            interval(row.difference, "difference"),
            bootstrap_p(row.difference["p_value"], _SMALLEST_P),
            verdict(row.difference),
        )
        for name, row in rows.items()
    ]
    return Comparison(heading(title, rows, reference), f"{caption} {HOW}", svg, header, tuple(cells))


def type_section(title: str, rows: Mapping[str, Row]) -> Comparison:
    """Return every variant's C-index by cancer type."""
    types = list(dict.fromkeys(cancer_type for row in rows.values() for cancer_type in row.by_type))
    cells = [(name, *(interval(row.by_type.get(each, {}), "c_index") for each in types)) for name, row in rows.items()]
    return Comparison(f"{title}, by cancer type", "C-index and its 95% interval.", "", ("Variant", *types), tuple(cells))


def difference_figure(rows: Mapping[str, Row], reference: str, title: str) -> str:
    """Draw every variant's difference to the reference; no figure without another variant."""
    drawn = [(name, *_numbers(row.difference, "difference")) for name, row in rows.items() if name != reference]
    return ablation_svg(drawn, title) if drawn else ""


def estimates(entries: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Return the mean C-index with the mean ends of its interval, nan where undefined."""
    means = zip(*(_numbers(entry, "c_index") for entry in entries), strict=True)
    value, low, high = (sum(each) / len(entries) for each in means)
    return value, low, high


def interval(entry: Mapping[str, Any], key: str) -> str:
    """Return a figure with its interval as text."""
    write = signed if key == "difference" else score
    value = entry.get(key)
    return write(value) if value is None else f"{write(value)} ({write(entry['low'])} to {write(entry['high'])})"


def _numbers(entry: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    value, low, high = (math.nan if entry[name] is None else float(entry[name]) for name in (key, "low", "high"))
    return value, low, high
