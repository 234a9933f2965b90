"""The figures of a report, each a function from numbers to inline SVG (or, for Dagster metadata, to PNG bytes).

What belongs here: what is drawn. Style and export are in svg.py, the numbers come from summary.py and evaluation.py;
nothing is fitted or tested here beyond the Kaplan-Meier curve itself. No figure shows a case by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mice_model.evaluation import Coverage, TrainingCurve
from mice_model.svg import (
    BLUE,
    DAYS_PER_YEAR,
    FAINT,
    INK,
    VERMILLION,
    colour_and_style,
    house_style,
    light_grid,
    new_figure,
    to_png,
    to_svg,
)

FULL_WIDTH = 5.4  # inches
GROUPS = ((True, "high risk", VERMILLION, "-"), (False, "low risk", BLUE, "--"))
MAX_PNG_BYTES = 60_000  # Dagster keeps metadata inline in its event log


def kaplan_meier_svg(
    title: str,
    duration_days: NDArray[np.float64],
    event_observed: NDArray[np.bool_],
    is_high_risk: NDArray[np.bool_],
    log_rank: float | None,
) -> str:
    """Draw survival of the two risk groups over years, with 95% bands, the numbers at risk and the log-rank p-value."""
    years = duration_days / DAYS_PER_YEAR
    with house_style():
        figure = new_figure(4.2, 3.4)
        axes, table = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        for is_high, label, colour, style in GROUPS:
            rows = is_high_risk == is_high
            if rows.any():
                _survival_curve(
                    axes,
                    years[rows],
                    event_observed[rows],
                    label=f"{label} (n = {rows.sum()})",
                    colour=colour,
                    style=style,
                )
        ticks = _year_ticks(float(years.max()))
        axes.set(ylim=(0, 1.02), xlim=(0, float(years.max())), ylabel="survival probability", title=title)
        p_value = "undefined" if log_rank is None else f"p = {log_rank:.2g}"
        axes.text(0.98, 0.98, f"log-rank {p_value}", transform=axes.transAxes, ha="right", va="top")
        axes.legend(loc="lower left", borderaxespad=0.2)
        light_grid(axes, "y")
        _at_risk_table(table, years, is_high_risk, ticks)
        return to_svg(figure, f"Kaplan-Meier curves of the two risk groups, {title}")


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
    return np.arange(0, last_year, step)


def _at_risk_table(
    axes: Axes, years: NDArray[np.float64], is_high_risk: NDArray[np.bool_], ticks: NDArray[np.float64]
) -> None:
    axes.set(ylim=(-0.5, 1.5), yticks=[1, 0], yticklabels=["high", "low"], xticks=ticks, xlabel="years since time zero")
    axes.set_title("cases at risk", fontsize=8.5)
    axes.tick_params(axis="both", length=0)
    axes.spines[:].set_visible(False)
    for row, (is_high, _, colour, _) in zip((1, 0), GROUPS, strict=True):
        for tick in ticks:
            count = int((years[is_high_risk == is_high] >= tick).sum())
            axes.text(tick, row, str(count), ha="center", va="center", color=colour, fontsize=8.5)


def training_curves_svg(title: str, curves: Sequence[TrainingCurve]) -> str:
    """Draw loss and inner C-index by epoch, a line per fit, coloured by cancer type; dots mark the chosen epochs."""
    kinds = sorted({curve.cancer_type for curve in curves})
    with house_style():
        figure = new_figure(FULL_WIDTH, 2.8)
        loss_axes, c_axes = figure.subplots(1, 2)
        labelled: set[str] = set()
        for curve in curves:
            colour, style = colour_and_style(kinds.index(curve.cancer_type))
            label = None if curve.cancer_type in labelled else curve.cancer_type or "all cancer types"
            labelled.add(curve.cancer_type)
            for axes, values in ((loss_axes, curve.train_loss), (c_axes, curve.inner_c_index)):
                epochs = np.arange(1, len(values) + 1)
                axes.plot(epochs, values, color=colour, linestyle=style, alpha=0.65, linewidth=1, label=label)
                chosen = [curve.chosen_epoch] if 1 <= curve.chosen_epoch <= len(values) else []
                axes.plot(chosen, [values[epoch - 1] for epoch in chosen], "o", color=colour, markersize=3)
        loss_axes.set(xlabel="epoch", ylabel="training loss", title=title)
        c_axes.set(xlabel="epoch", ylabel="C-index, inner validation")
        if not any(np.isfinite(curve.inner_c_index).any() for curve in curves if curve.inner_c_index):
            c_axes.text(0.5, 0.5, "not measured", transform=c_axes.transAxes, ha="center")
        for axes in (loss_axes, c_axes):
            light_grid(axes, "y")
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(*loss_axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
        return to_svg(figure, f"Training loss and inner C-index by epoch, {title}")


def _coverage_figure(coverage: Sequence[Coverage]) -> Figure:
    modalities = list(dict.fromkeys(name for cohort in coverage for name in cohort.num_by_modality))
    rows = np.arange(len(coverage))
    figure = new_figure(FULL_WIDTH, 0.9 + 0.22 * len(coverage))
    panels = figure.subplots(1, max(1, len(modalities)), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, modalities, strict=False):
        counts = [cohort.num_by_modality.get(name, 0) for cohort in coverage]
        shares = [100 * n / max(1, cohort.num_cases) for n, cohort in zip(counts, coverage, strict=True)]
        axes.barh(rows, [100.0] * len(rows), color="#eeeeee")
        axes.barh(rows, shares, color=BLUE)
        for row, count, share in zip(rows, counts, shares, strict=True):
            on_bar = share > 55
            position, colour = (share - 4, "white") if on_bar else (share + 4, INK)
            axes.text(
                position, row, str(count), ha="right" if on_bar else "left", va="center", color=colour, fontsize=7.5
            )
        axes.set(title=name, xlim=(0, 100), xticks=[0, 50, 100])
    panels[0].set_yticks(rows, [f"{cohort.cohort} ({cohort.num_cases})" for cohort in coverage])
    panels[0].invert_yaxis()
    figure.supxlabel("share of the cohort's cases (%); the figure is the number of cases", fontsize=9)
    return figure


def coverage_svg(coverage: Sequence[Coverage]) -> str:
    """Draw, per modality, the share and number of each cohort's cases that have it."""
    with house_style():
        return to_svg(_coverage_figure(coverage), "Cases with each modality, by cohort")


def coverage_png(coverage: Sequence[Coverage]) -> bytes:
    """Return the coverage figure as PNG of at most 60 kB, at the finest of a few resolutions that fits."""
    with house_style():
        figure = _coverage_figure(coverage)
        images = (to_png(figure, dots_per_inch) for dots_per_inch in (110, 80, 60, 45, 30))
        fitting = next((image for image in images if len(image) <= MAX_PNG_BYTES), None)
    if fitting is None:
        raise ValueError(
            f"coverage figure: over {MAX_PNG_BYTES} bytes with {len(coverage)} cohorts. Show fewer of them."
        )
    return fitting


def forest_svg(c_index: Mapping[str, Mapping[str, Mapping[str, Any]]], models: Sequence[str]) -> str:
    """Draw the C-index of every model per cancer type (and `mean`), with 95% intervals; the line at 0.5 is chance."""
    height = len(models) + 1.2
    with house_style():
        figure = new_figure(FULL_WIDTH, 0.9 + 0.13 * height * len(c_index))
        axes = figure.subplots()
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        for m, name in enumerate(models):
            colour, _ = colour_and_style(m)
            rows = [(g * height + m, row[name]) for g, row in enumerate(c_index.values()) if name in row]
            rows = [(y, entry) for y, entry in rows if entry["c_index"] is not None and entry["low"] is not None]
            axes.hlines([y for y, _ in rows], [e["low"] for _, e in rows], [e["high"] for _, e in rows], color=colour)
            axes.plot(
                [e["c_index"] for _, e in rows],
                [y for y, _ in rows],
                "osD^vPX"[m % 7],
                color=colour,
                label=name,
                markersize=4,
            )
        for g in range(1, len(c_index)):
            axes.axhline(g * height - 1.1, color=FAINT, linewidth=0.6)
        axes.set_yticks([g * height + (len(models) - 1) / 2 for g in range(len(c_index))], list(c_index))
        axes.set(xlabel="C-index (95% bootstrap interval)")
        axes.invert_yaxis()
        light_grid(axes, "x")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
        return to_svg(figure, "C-index of every model by cancer type")


def routing_svg(cancer_types: Sequence[str], weight_CE: NDArray[np.float64]) -> str:
    """Draw the mean routing weight of each cancer type's cases (C, E) on each overlapping expert."""
    with house_style():
        figure = new_figure(FULL_WIDTH, 1.2 + 0.24 * len(cancer_types))
        axes = figure.subplots()
        image = axes.pcolormesh(weight_CE, cmap="cividis", vmin=0, edgecolors="white", linewidth=0.5)
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(cancer_types)) + 0.5, list(cancer_types))
        axes.set_xticks(
            np.arange(weight_CE.shape[1]) + 0.5, [str(e + 1) for e in range(weight_CE.shape[1])], fontsize=8
        )
        axes.tick_params(length=0)
        axes.set(xlabel="overlapping expert")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="mean weight")
        return to_svg(figure, "Mean routing weight of each overlapping expert by cancer type")
