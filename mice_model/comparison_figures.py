"""The figures of comparisons between evaluations: C-index by share of the training cases, and ablations, as inline SVG.

What belongs here: what is drawn. Style and export are in svg.py; whoever ran the evaluations hands over the numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mice_model.svg import BLUE, INK, colour_and_style, house_style, light_grid, new_figure, to_svg

MARKERS = "osD^vPX"  # with the colours: series are told apart without colour too
Estimate = tuple[float, float, float]  # a value with the ends of its interval


def data_efficiency_svg(shares: Sequence[float], scores: Mapping[str, Sequence[Estimate]], title: str = "") -> str:
    """Draw the C-index of every model (label: mean, low, high by share) over the share of the training cases, 0 to 1.

    A model is not drawn at shares where its mean is nan. Two of these figures on one page need two titles.
    """
    wrong = {model: len(values) for model, values in scores.items() if len(values) != len(shares)}
    if wrong or not scores or not shares:
        raise ValueError(f"data-efficiency figure: {wrong} values of {len(scores)} models, expected {len(shares)} of each")
    order = np.argsort(shares)
    percent = 100 * np.asarray(shares, dtype=np.float64)[order]
    with house_style():
        figure = new_figure(5.4, 3.4)
        axes = figure.subplots()
        for index, (model, values) in enumerate(scores.items()):
            colour, style = colour_and_style(index)
            mean, low, high = np.array(values, dtype=np.float64)[order].T
            (line,) = axes.plot(percent, mean, color=colour, linestyle=style, label=model)
            line.set(marker=MARKERS[index % len(MARKERS)], markersize=4)
            axes.fill_between(percent, low, high, color=colour, alpha=0.1, linewidth=0)
        axes.set(xlabel="share of the training cases (%)", ylabel="C-index (95% interval)", title=title, xticks=percent)
        light_grid(axes, "y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return to_svg(figure, f"C-index of every model by share of the training cases{_of(title)}")


def ablation_svg(rows: Sequence[tuple[str, float, float, float]], title: str = "") -> str:
    """Draw each variant's C-index minus that of the full model (label, difference, low, high), the largest loss at the top.

    A variant whose difference is nan is named at the end as not defined. Two of these figures on one page need two titles.
    """
    if not rows:
        raise ValueError("ablation figure: no variants, expected at least one. Leave the figure out.")
    found = sorted(rows, key=lambda row: (np.isnan(row[1]), row[1]))
    labels = [f"{label} (not defined)" if np.isnan(difference) else label for label, difference, _, _ in found]
    with house_style():
        figure = new_figure(5.4, 1.2 + 0.26 * len(found))
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        y = np.arange(len(found))
        difference, low, high = np.array([row[1:] for row in found], dtype=np.float64).T
        axes.hlines(y, low, high, color=BLUE)
        axes.plot(difference, y, "o", color=BLUE, markersize=4)
        axes.set_yticks(y, labels)
        axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="C-index minus the full model's (95% interval)", title=title)
        light_grid(axes, "x")
        return to_svg(figure, f"Change of the C-index by variant of the model{_of(title)}")


def _of(title: str) -> str:
    return f", {title}" if title else ""
