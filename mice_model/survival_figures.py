"""The figures of metrics over time: calibration at chosen years, and AUC(t) of several models, as inline SVG.

What belongs here: what is drawn of numbers that calibration.py and survival_metrics.py computed. Style and export are in svg.py.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mice_model.calibration import Calibration
from mice_model.svg import DAYS_PER_YEAR, INK, colour_and_style, house_style, light_grid, new_figure, to_svg

MARKERS = "osD^vPX"  # with the colours: series are told apart without colour too


def calibration_svg(title: str, calibrations_by_years: Mapping[float, Calibration]) -> str:
    """Draw the observed against the predicted probability of an event, groups of one time joined by a line.

    Groups without an observed probability are left out, and counted in the legend, which also has the mean absolute error.
    """
    if not calibrations_by_years:
        raise ValueError(f"calibration figure {title!r}: no times, expected at least one. Leave the figure out.")
    with house_style():
        figure = new_figure(4.2, 4.4)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="predicted = observed")
        for index, (years, found) in enumerate(sorted(calibrations_by_years.items())):
            colour, style = colour_and_style(index)
            predicted, observed, low, high = map(np.array, (found.predicted, found.observed, found.low, found.high))
            is_drawn, has_interval = ~np.isnan(observed), ~np.isnan(low)
            marker = MARKERS[index % len(MARKERS)]
            label = _calibration_label(years, found, int(is_drawn.sum()))
            axes.vlines(predicted[has_interval], low[has_interval], high[has_interval], color=colour, linewidth=1, alpha=0.6)
            axes.plot(
                predicted[is_drawn], observed[is_drawn], color=colour, linestyle=style, marker=marker, markersize=4, label=label
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="predicted probability of an event", ylabel="observed (1 - Kaplan-Meier, 95% interval)", title=title)
        light_grid(axes, "both")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=8)
        return to_svg(figure, f"Calibration: observed against predicted probability of an event, {title}")


def _years(years: float) -> str:
    return f"{years:g} year" if years == 1 else f"{years:g} years"


def _calibration_label(years: float, found: Calibration, num_drawn: int) -> str:
    if num_drawn == 0:
        return f"{_years(years)}: no group is followed that long"
    missing = "" if num_drawn == len(found.observed) else f", {num_drawn} of {len(found.observed)} groups"
    return f"{_years(years)}: mean absolute error {found.mean_absolute_error:.3f}{missing}"


def auc_svg(title: str, times_days: ArrayLike, auc_by_model: Mapping[str, NDArray[np.float64]]) -> str:
    """Draw AUC(t) (T,) of every model (label: values) over years; 0.5 is chance, a gap is a time where it is nan."""
    years = np.asarray(times_days, dtype=np.float64) / DAYS_PER_YEAR
    wrong = {model: np.shape(values) for model, values in auc_by_model.items() if np.shape(values) != years.shape}
    if wrong or not auc_by_model:
        raise ValueError(f"AUC figure {title!r}: shapes {wrong} of {len(auc_by_model)} models, expected some, all {years.shape}")
    with house_style():
        figure = new_figure(5.4, 3.2)
        axes = figure.subplots()
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
        for index, (model, auc) in enumerate(auc_by_model.items()):
            colour, style = colour_and_style(index)
            (line,) = axes.plot(years, auc, color=colour, linestyle=style, label=model)
            line.set(marker=MARKERS[index % len(MARKERS)], markersize=4, markevery=max(1, len(years) // 8))
        axes.set(xlabel="years since time zero", ylabel="AUC(t); 0.5 is chance", title=title)
        light_grid(axes, "y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return to_svg(figure, f"Time-dependent AUC of every model over years, {title}")
