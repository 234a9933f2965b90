"""The dirt of the synthetic cohort: rows and slides spoiled on purpose, each noted with what a right ingest makes of it.

What belongs here: which defects there are and what is planted where. What does not: the clean cohort (synthetic.py).
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl


@dataclasses.dataclass
class Dirt:
    """The tables as they get spoiled, what was planted in them, and which slide files are to be spoiled on writing."""

    frames: dict[str, pl.DataFrame]
    victims: list[str]  # case ids in the order in which they are taken; no case is taken twice
    planted: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict)
    spoiled_slides: dict[str, str] = dataclasses.field(default_factory=dict)

    def take(self, file: str) -> str:
        """Return a case that has exactly one row in the file, or several in mutations.csv, and was not taken before."""
        rows = self.frames[file].group_by("case_id").len()
        fit = set(rows.filter((pl.col("len") == 1) | (file == "mutations.csv"))["case_id"])
        case_id = next((case_id for case_id in self.victims if case_id in fit), None)
        if case_id is None:
            raise ValueError(f"synthetic dirt: no case is left to spoil in {file}, expected one. Set has_dirt=False.")
        self.victims.remove(case_id)
        return case_id

    def note(self, name: str, expected: str, file: str, ids: list[str], case_ids: list[str]) -> None:
        """Record a plant: the ids as the file has them, the cases they belong to (none where the id is nobody's)."""
        about = {"file": file, "count": len(ids), "ids": ids, "case_ids": case_ids, "expected": expected}
        self.planted[name] = about

    def change(self, name: str, expected: str, file: str, column: str, value: Callable[[str], object]) -> None:
        """Replace one case's value in a column by `value(case_id)`."""
        case_id = self.take(file)
        spoiled = pl.when(pl.col("case_id") == case_id).then(pl.lit(value(case_id))).otherwise(pl.col(column))
        self.frames[file] = self.frames[file].with_columns(spoiled.alias(column))
        found = str(value(case_id)) if column == "case_id" else case_id
        self.note(name, expected, file, [found], [case_id])

    def add(self, name: str, expected: str, file: str, ids: list[str] | None = None, *changed: pl.Expr) -> None:
        """Append copies of a case's row, under the given ids (else the case's own), with columns changed."""
        case_id = self.take(file)
        row = self.frames[file].filter(pl.col("case_id") == case_id).with_columns(*changed)
        copies = [row.with_columns(case_id=pl.lit(new_id)) for new_id in ids or [case_id]]
        self.frames[file] = pl.concat([self.frames[file], *copies])
        self.note(name, expected, file, ids or [case_id], [] if ids else [case_id])


def plant(frames: dict[str, pl.DataFrame], rng: np.random.Generator) -> Dirt:
    """Spoil a few rows and slides; what a right ingest does with each stands beside it."""
    dirt = Dirt(dict(frames), rng.permutation(frames["clinical.csv"]["case_id"].to_numpy()).tolist())
    clinical = "clinical.csv"
    dirt.add("exact_duplicate_row", "deduplicated", clinical)
    flipped = pl.when(pl.col("OS") == "1").then(pl.lit("0")).otherwise(pl.lit("1")).alias("OS")
    dirt.add("conflicting_duplicate", "both rows quarantined", clinical, None, pl.col("OS.time") + 200, flipped)
    dirt.add("malformed_id", "quarantined", clinical, ["SYN-A-12X"])
    dirt.change("event_coded_dead", "quarantined", clinical, "OS", lambda _: "Dead")
    dirt.change("zero_time", "quarantined", clinical, "OS.time", lambda _: 0)
    dirt.change("negative_time", "quarantined", clinical, "OS.time", lambda _: -12)
    dirt.change("trailing_space", "normalised", clinical, "case_id", lambda c: f"{c} ")
    dirt.change("unicode_dash", "normalised", "copy_number.csv", "case_id", lambda c: c.replace("-", "\u2013"))
    dirt.change("lower_case", "normalised", "mutations.csv", "case_id", str.lower)
    dirt.change("sample_barcode", "normalised", "rna.csv.gz", "case_id", lambda c: f"{c}-01A")
    dirt.add("unknown_case_rna", "quarantined", "rna.csv.gz", ["SYN-ZZ-9001", "SYN-ZZ-9002"])
    dirt.change("short_report", "quarantined", "reports.csv", "text", lambda _: "See addendum.")
    report_id = pl.lit("SYN-ZZ-9003-R1").alias("report_id")
    dirt.add("unknown_case_report", "quarantined", "reports.csv", ["SYN-ZZ-9003"], report_id)
    for name in ("nan_features", "coords_count_differs", "slide_file_missing"):
        case_id = dirt.take("slides.csv")
        slide_id = dirt.frames["slides.csv"].filter(pl.col("case_id") == case_id)["slide_id"].item()
        dirt.spoiled_slides[slide_id] = name
        dirt.note(name, "slide refused", f"slides/{slide_id}.h5", [slide_id], [case_id])
    return dirt
