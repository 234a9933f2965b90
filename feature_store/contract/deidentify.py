"""What a contract asks to be done to identifiers, ages, years and texts before anything is stored. Doing it is deidentify/."""

from typing import Annotated, Literal

from pydantic import Field

from feature_store.contract.fields import Count, LandingPath
from feature_store.contract.rules import Strict


class Deidentify(Strict):
    """Identifiers become keyed pseudonyms and texts are scrubbed, always; the rest is as declared here.

    `years`: what becomes of calendar years: dropped, kept, moved by the case's own offset, or rounded down to `year_step`; unless
    they are kept, the time to the end of follow-up (administrative censoring) is dropped.
    `report_dates`: dates in texts are removed, or moved by the same offset (`day_first`: 05/12 is 5 December). The offset is
    keyed, never 0, and at most `most_shift_days` to either side. Ages over `oldest_age_years` become that age.
    `names`: a text file below the landing folder, a name to a line, of people whom the texts may name (patients, staff).
    """

    oldest_age_years: Annotated[int, Field(ge=1, le=90)] = 90  # 45 CFR 164.514(b)(2)(i)(C): ages over 89 are one category
    years: Literal["drop", "keep", "shift", "generalise"] = "drop"
    year_step: Count = 5
    report_dates: Literal["remove", "shift"] = "remove"
    day_first: bool = False
    most_shift_days: Annotated[int, Field(ge=30, le=3650)] = 365
    names: LandingPath | None = None
