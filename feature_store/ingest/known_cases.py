"""The cases that an ingest knows, and the cohort of each."""

from collections.abc import Iterable, Iterator

import polars as pl


class KnownCases:
    """case_id -> cohort. Frames are asked by a join: a mapping would be made into a column anew for each of many small files."""

    def __init__(self) -> None:
        self._cohort_of: dict[str, str] = {}
        self._frame: pl.DataFrame | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the case identifiers."""
        return iter(self._cohort_of)

    def add(self, cohort_of: Iterable[tuple[str, str]]) -> None:
        """Take in cases."""
        self._cohort_of.update(cohort_of)
        self._frame = None

    def remove(self, case_ids: Iterable[str]) -> None:
        """Forget cases, known or not."""
        for case_id in case_ids:
            self._cohort_of.pop(case_id, None)
        self._frame = None

    def with_cohort(self, frame: pl.DataFrame, column: str = "_case_id") -> pl.DataFrame:
        """Return the rows in their order with their case's `cohort`, null where the case is not known."""
        if self._frame is None:
            schema = {"_case_id": pl.String, "cohort": pl.String}
            self._frame = pl.DataFrame(list(self._cohort_of.items()), schema=schema, orient="row")
        return frame.drop("cohort", strict=False).join(
            self._frame, left_on=column, right_on="_case_id", how="left", maintain_order="left"
        )
