"""A case's figures as inline SVG: its survival curve, and its risk score among others'. Style and export are svg.py's."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from mice_model.explanation.attribution import Curve
from mice_model.explanation.standing import Standing
from mice_model.svg import BLUE, DAYS_PER_YEAR, FAINT, INK, VERMILLION, house_style, light_grid, new_figure, to_svg

_WIDTH_INCHES = 5.4


def survival_svg(curves: Sequence[Curve]) -> str:
    """Draw predicted survival over time, a step at the end of each time bin, a line per fold; the last bin has no end."""
    with house_style():
        figure = new_figure(_WIDTH_INCHES, 2.6)
        axes = figure.subplots()
        for index, curve in enumerate(curves):
            years = np.array([0.0, *curve.edges_days]) / DAYS_PER_YEAR
            survival = np.array([1.0, *curve.survival[: len(curve.edges_days)]])
            axes.step(years, survival, where="post", color=BLUE, linewidth=1.6 if len(curves) == 1 else 0.9, alpha=0.9)
            axes.plot(years[1:], survival[1:], "o", color=BLUE, markersize=4, label=None if index else "end of a time bin")
        axes.set(xlabel="years", ylabel="predicted survival", ylim=(0, 1.03), xlim=(0, None))
        light_grid(axes, "both")
        axes.legend(loc="lower left", fontsize=8)
        return to_svg(figure, "Predicted survival over time")


def standing_svg(standing: Standing, risk_score: float) -> str:
    """Draw how many held-out cases have which risk score, all and those of the same networks, with the case's as a line."""
    edges = np.histogram_bin_edges(np.append(standing.everyone, risk_score), bins=24)
    with house_style():
        figure = new_figure(_WIDTH_INCHES, 2.2)
        axes = figure.subplots()
        axes.hist(standing.everyone, edges.tolist(), color=FAINT, label="all folds")
        axes.hist(standing.peers, edges.tolist(), color=BLUE, label="the same networks")
        axes.axvline(risk_score, color=VERMILLION, linewidth=1.8, label="this case")
        axes.set(xlabel="risk score (higher is worse)", ylabel="held-out cases")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(colors=INK)
        light_grid(axes, "y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
        return to_svg(figure, "Risk scores of held-out cases of the same cancer type, and this case's")
