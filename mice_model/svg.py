"""How every figure looks and leaves: palette, sizes, inline SVG and PNG bytes.

What belongs here: style and export of matplotlib Figure objects (never pyplot, whose figures are global state). What is
drawn is in plots.py.
"""

import hashlib
import html
import io
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color): told apart under every common colour blindness.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINE_STYLES = ("-", "--", ":", "-.")
INK, FAINT = "#222222", "#c9c9c9"
DAYS_PER_YEAR = 365.25

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: smaller, searchable, read aloud
}

# Path coordinates with two decimals (1/7200 inch) make a page half as large as matplotlib's six.
PATH_DATA, LONG_DECIMAL = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")


def house_style() -> AbstractContextManager[None]:
    """Return the context in which figures are made; matplotlib's own settings are as before after it."""
    return mpl.rc_context(STYLE)


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure with its own canvas; 5.4 inches is the full width of the report's column on a phone."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def colour_and_style(index: int) -> tuple[str, str]:
    """Return a colour and a line style, the pair unique for the first 28 indices."""
    return PALETTE[index % len(PALETTE)], LINE_STYLES[(index // len(PALETTE)) % len(LINE_STYLES)]


def light_grid(axes: Axes, axis: str) -> None:
    """Draw faint grid lines behind the data along `axis`: "x", "y" or "both"."""
    axes.grid(visible=True, axis=axis, color=FAINT, linewidth=0.6)  # type: ignore[arg-type]  # stub wants a Literal
    axes.set_axisbelow(True)


def to_svg(figure: Figure, description: str) -> str:
    """Return the figure as an inline <svg> that scales with the page and refers to nothing outside it.

    `description` is read aloud in place of the picture; ids are made unique by it, so two figures of one page need two
    descriptions.
    """
    salt = hashlib.sha256(description.encode()).hexdigest()[:12]
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt, "svg.id": f"fig-{salt}"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = PATH_DATA.sub(lambda path: LONG_DECIMAL.sub(r"\1", path[0]), svg)
    opening = re.search(r"<svg[^>]*>", svg)
    view_box = re.search(r'viewBox="([^"]*)"', svg)
    if opening is None or view_box is None:
        raise ValueError(f"figure {description!r}: matplotlib wrote no <svg> with a viewBox")
    label = html.escape(description, quote=True)
    return f'<svg viewBox="{view_box[1]}" role="img" aria-label="{label}">' + svg[opening.end() :]


def to_png(figure: Figure, dots_per_inch: int = 80) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()
