"""The survival of two risk groups as a figure: Kaplan-Meier curves, numbers at risk, log-rank p-value.

What belongs here: this one figure. Which case is high risk, and the p-value, are decided in metrics.py; style is in
svg.py.
"""

import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mice_model.svg import BLUE, DAYS_PER_YEAR, VERMILLION, house_style, light_grid, new_figure, to_svg

GROUPS = ((True, "high risk", VERMILLION, "-"), (False, "low risk", BLUE, "--"))
MIN_AT_RISK = 5


def kaplan_meier_svg(
    title: str,
    duration_days: NDArray[np.float64],
    event_observed: NDArray[np.bool_],
    is_high_risk: NDArray[np.bool_],
    log_rank: float | None,
) -> str:
    """Draw survival of the two risk groups over years, with 95% bands, the numbers at risk and the log-rank p-value.

    The time axis ends where fewer than five cases are left at risk: beyond, a curve shows single patients.
    """
    years = duration_days / DAYS_PER_YEAR
    last_year = float(np.sort(years)[-min(MIN_AT_RISK, len(years))])
    with house_style():
        figure = new_figure(4.2, 3.5)
        axes, table = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        for is_high, label, colour, style in GROUPS:
            rows = is_high_risk == is_high
            if rows.any():
                text = f"{label} (n = {rows.sum()})"
                _survival_curve(axes, years[rows], event_observed[rows], label=text, colour=colour, style=style)
        axes.set(ylim=(0, 1.02), xlim=(0, last_year), ylabel="survival probability")
        axes.set_title(f"{title}: log-rank {_p_value(log_rank)}", pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.99), ncols=2, borderaxespad=0, borderpad=0.2)
        light_grid(axes, "y")
        _at_risk_table(table, years, is_high_risk, _year_ticks(last_year))
        return to_svg(figure, f"Kaplan-Meier curves of the two risk groups, {title}")


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return "p not defined"
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"


def _survival_curve(
    axes: Axes, years: NDArray[np.float64], event: NDArray[np.bool_], *, label: str, colour: str, style: str
) -> None:
    fit = KaplanMeierFitter().fit(years, event)
    curve, band = fit.survival_function_, fit.confidence_interval_
    axes.step(curve.index, curve.iloc[:, 0], where="post", color=colour, linestyle=style, label=label)
    axes.fill_between(band.index, band.iloc[:, 0], band.iloc[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)


def _year_ticks(last_year: float) -> NDArray[np.float64]:
    """Return about six round times from 0 to the last year."""
    step = next((s for s in (0.25, 0.5, 1.0, 2.0, 5.0) if last_year / s <= 7), 10.0)
    return np.arange(0, last_year + 1e-9, step)


def _at_risk_table(axes: Axes, years: NDArray[np.float64], is_high_risk: NDArray[np.bool_], ticks: NDArray[np.float64]) -> None:
    axes.set(ylim=(-0.5, 1.5), yticks=[1, 0], yticklabels=["high", "low"], xticks=ticks, xlabel="years since time zero")
    axes.set_title("cases at risk", fontsize=8.5)
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="y", pad=14)  # the first count is centred on the axis
    axes.spines[:].set_visible(False)
    for row, (is_high, _, colour, _) in zip((1, 0), GROUPS, strict=True):
        for tick in ticks:
            count = int((years[is_high_risk == is_high] >= tick).sum())
            axes.text(tick, row, str(count), ha="center", va="center", color=colour, fontsize=8.5)
