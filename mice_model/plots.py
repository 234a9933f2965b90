"""The figures of a report, each a function from numbers to inline SVG (or, for Dagster metadata, to PNG bytes).

What belongs here: what is drawn. Style and export are in svg.py, the numbers come from summary.py and evaluation.py;
nothing is fitted or tested here beyond the Kaplan-Meier curve itself. No figure shows a case by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mice_model.evaluation import Coverage, TrainingCurve
from mice_model.svg import (
    BLUE,
    FAINT,
    INK,
    colour_and_style,
    house_style,
    light_grid,
    new_figure,
    to_png,
    to_svg,
)

FULL_WIDTH = 5.4  # inches
MAX_PNG_BYTES = 60_000  # Dagster keeps metadata inline in its event log


def training_curves_svg(title: str, curves: Sequence[TrainingCurve]) -> str:
    """Draw loss and inner C-index by epoch, a line per fit, coloured by cancer type; dots mark the chosen epochs.

    The C-index starts at epoch 0, the state that the fit started from, where that was measured; it may be the chosen one.
    """
    kinds = sorted({curve.cancer_type for curve in curves})
    faint: dict[str, Any] = {"alpha": 0.65, "linewidth": 1}
    with house_style():
        figure = new_figure(FULL_WIDTH, 2.8)
        loss_axes, c_axes = figure.subplots(1, 2)
        labelled: set[str] = set()
        for curve in curves:
            colour, style = colour_and_style(kinds.index(curve.cancer_type))
            label = None if curve.cancer_type in labelled else curve.cancer_type or "all cancer types"
            labelled.add(curve.cancer_type)
            for axes, start, measured in (
                (loss_axes, np.nan, curve.train_loss),
                (c_axes, curve.start_c_index, curve.inner_c_index),
            ):
                first = 0 if np.isfinite(start) else 1
                values = [start, *measured][first:]
                axes.plot(range(first, first + len(values)), values, color=colour, linestyle=style, **faint, label=label)
                chosen = [curve.chosen_epoch] if 0 <= curve.chosen_epoch - first < len(values) else []
                axes.plot(chosen, [values[epoch - first] for epoch in chosen], "o", color=colour, markersize=3)
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
            axes.text(position, row, str(count), ha="right" if on_bar else "left", va="center", color=colour, fontsize=7.5)
        axes.set_title(name.replace("_", "\n"), fontsize=9)
        axes.set(xlim=(0, 100), xticks=[0, 50, 100])
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
        raise ValueError(f"coverage figure: over {MAX_PNG_BYTES} bytes with {len(coverage)} cohorts. Show fewer of them.")
    return fitting


def forest_svg(c_index: Mapping[str, Mapping[str, Mapping[str, Any]]], models: Mapping[str, str]) -> str:
    """Draw the C-index of every model (name: label) per cancer type and `mean`, with 95% intervals; 0.5 is chance."""
    height = len(models) + 1.2
    with house_style():
        figure = new_figure(FULL_WIDTH, 0.9 + 0.13 * height * len(c_index))
        axes = figure.subplots()
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        for m, (name, model_label) in enumerate(models.items()):
            colour, _ = colour_and_style(m)
            rows = [(g * height + m, row[name]) for g, row in enumerate(c_index.values()) if name in row]
            rows = [(y, entry) for y, entry in rows if entry["c_index"] is not None and entry["low"] is not None]
            axes.hlines([y for y, _ in rows], [e["low"] for _, e in rows], [e["high"] for _, e in rows], color=colour)
            axes.plot(
                [e["c_index"] for _, e in rows],
                [y for y, _ in rows],
                "osD^vPX"[m % 7],
                color=colour,
                label=model_label,
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
        axes.set_xticks(np.arange(weight_CE.shape[1]) + 0.5, [str(e + 1) for e in range(weight_CE.shape[1])], fontsize=8)
        axes.tick_params(length=0)
        axes.set(xlabel="overlapping expert")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="mean weight")
        return to_svg(figure, "Mean routing weight of each overlapping expert by cancer type")
