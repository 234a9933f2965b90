"""What a report shows beside its own evaluation: an ablation, a data-efficiency curve, another protocol's figures.

What belongs here: the shape of such a part. Figures are drawn in comparison_figures.py, and the page is report.py's.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """One section of the page: a heading that says what is found, what a reader may conclude, a figure, a table.

    `svg` is put in as it is, so it must come from this package's figures (their descriptions differ on one page); "" for none.
    `rows` are cells as text, under `header`; the first column names the row. No text names a case.
    """

    title: str
    caption: str
    svg: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        widths = {len(row) for row in (self.header, *self.rows)}
        if len(widths) > 1:
            raise ValueError(f"comparison {self.title!r}: rows of {sorted(widths)} cells, expected all as wide as the header")
