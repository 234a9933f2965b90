"""What a contract says of survival endpoints: times, events, where follow-up ends, and which endpoints suit which cancer."""

import datetime as dt
from typing import Literal

from pydantic import Field, model_validator

from feature_store.contract.fields import DateFormat
from feature_store.contract.formats import Texts
from feature_store.contract.rules import EndpointName, Strict, Unit

Suitability = Literal["recommended", "usable", "caution", "not_recommended", "not_available"]


class Duration(Strict):
    """A time, from columns that hold it, or from a date to a date (`from`, `to`, `format`).

    Of several columns the first counts that is not missing, or with `take: latest` the largest.
    """

    columns: Texts = ()
    from_column: str | None = Field(default=None, alias="from")
    to: Texts = ()
    format: DateFormat | None = None
    take: Literal["first", "latest"] = "first"

    @model_validator(mode="before")
    @classmethod
    def _one_column_is_written_short(cls, value: object) -> object:
        return {"columns": [value]} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_of_columns_or_of_dates(self) -> "Duration":
        of_dates = (self.from_column is not None, bool(self.to), self.format is not None)
        if bool(self.columns) == any(of_dates) or any(of_dates) != all(of_dates):
            raise ValueError("give either columns, or all of from, to and format")
        return self


class EndpointRule(Strict):
    """Durations and event column of an endpoint; `events` maps every code to whether the event happened.

    `event_duration`: where the time to the event lies, if not where that to censoring does.
    """

    duration: Duration
    event_duration: Duration | None = None
    unit: Unit | None = None
    event: str
    events: dict[str, bool] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_a_unit_unless_dates(self) -> "EndpointRule":
        durations = [self.duration, *([] if self.event_duration is None else [self.event_duration])]
        if any(duration.columns for duration in durations) != (self.unit is not None):
            raise ValueError("unit is needed with columns, and with columns only: dates are days apart")
        return self


class FollowUpEnd(Strict):
    """Administrative censoring: nothing after it counts. A time since time zero (`column`, `unit`), or a date.

    The date is one for all (`date`) or each case's own (`column`); `from` is the column of the date of time zero.
    """

    date: dt.date | None = None
    column: str | None = None
    unit: Unit | None = None
    from_column: str | None = Field(default=None, alias="from")
    format: DateFormat | None = None

    @model_validator(mode="after")
    def _is_a_time_or_a_date(self) -> "FollowUpEnd":
        if (self.date is None) == (self.column is None):
            raise ValueError("give either date or column")
        has_dates = (self.from_column is not None, self.format is not None)
        if any(has_dates) != all(has_dates) or (self.unit is None) != all(has_dates) or (self.date and self.unit):
            raise ValueError("give column and unit, or from and format with date or column")
        return self


class EndpointNote(Strict):
    """How well endpoints suit, for all projects or for some; what names projects goes before what does not."""

    endpoints: tuple[EndpointName, ...] = Field(min_length=1)
    projects: tuple[str, ...] = ()
    suitability: Suitability
    note: str


class EndpointNotes(Strict):
    """Published advice on which endpoint to use for which project, with where it was published."""

    citation: str
    notes: tuple[EndpointNote, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _says_one_thing_of_each(self) -> "EndpointNotes":
        said = [(project, endpoint) for n in self.notes for project in n.projects or ("all",) for endpoint in n.endpoints]
        if repeated := sorted({pair for pair in said if said.count(pair) > 1}):
            raise ValueError(f"{repeated[:3]} have several notes, expected one each")
        return self
