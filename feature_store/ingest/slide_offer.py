"""What each way of listing slides hands over: rows of the table `slides`, and their bags one after the other.

What belongs here: the structures that the listings (slide_vectors.py, slide_files.py, slide_archives.py) and the step that stores
them (slides.py) share.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.contract.rules import Encoder
from feature_store.ingest.patch_attributes import PatchAttributes
from feature_store.sources import SourceFile

# The identifier that slides without a column for it have their case's under, in frames made here.
CASE_COLUMN = "case_id_of_name"


@dataclass(frozen=True, eq=False)
class Listing:
    """Slides of one source: `rows` have the columns of the table `slides`; `offered` yields (cohort, bag), and may be read once.

    `file` is what a rejection of one of its bags is filed under. `said`: what the slides' own files say of them, by slide_id,
    known as their bags are read. `made_by`: the encoder as it was found at work, where embedding is ours.
    """

    file: SourceFile
    encoder: Encoder
    rows: pl.DataFrame
    offered: Iterator[tuple[str, SlideBag]]
    said: dict[str, PatchAttributes] = field(default_factory=dict)
    made_by: EncoderInfo | None = None


def described(rows: pl.DataFrame, said: dict[str, PatchAttributes]) -> pl.DataFrame:
    """Return the rows with the slides' own word on magnification and resolution where no table had one."""
    found = pl.DataFrame(
        [(slide_id, about.level0_mpp, about.level0_magnification) for slide_id, about in said.items()],
        schema={"slide_id": pl.String, "_mpp": pl.Float64, "_magnification": pl.Float64},
        orient="row",
    )
    joined = rows.join(found, on="slide_id", how="left", maintain_order="left")
    filled = [pl.coalesce(name, f"_{name}").alias(name) for name in ("mpp", "magnification")]
    return joined.with_columns(filled).drop("_mpp", "_magnification")


def positive(text: pl.Expr) -> pl.Expr:
    """Return a text as a number, null where it is none or not above 0."""
    number = text.cast(pl.Float64, strict=False)
    return pl.when((number > 0) & number.is_finite()).then(number)
