"""Named snapshots: a pin keeps a snapshot, and every file it needs, from maintenance for as long as the pin is there.

What belongs here: making and removing pins. Models pin the snapshots that they were trained on by themselves (snapshots.py).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from feature_store.errors import PinError, SnapshotMissingError
from feature_store.lake import Lake
from feature_store.publish import Write, publish
from feature_store.tables import PINS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Pin:
    """A name for a snapshot, and why it is kept."""

    name: str
    snapshot_id: int
    reason: str
    pinned_at: str


def list_pins(lake: Lake) -> list[Pin]:
    """Return all pins, by name."""
    with lake.reader() as connection:
        known = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = $name", {"name": PINS.name}).fetchone()
        query = "SELECT name, snapshot_id, reason, pinned_at FROM pins ORDER BY name"
        return [Pin(*row) for row in connection.execute(query).fetchall()] if known else []


def pin(lake: Lake, name: str, snapshot_id: int | None = None, reason: str = "") -> Pin:
    """Name a snapshot, by default the newest, and keep it. The name is of small letters, digits, dots, dashes, underscores.

    Raises PinError for another name or one that is taken, SnapshotMissingError for a snapshot that is not there.
    """
    if not _NAME.fullmatch(name):
        raise PinError(f"pin {name!r}: not a name, expected small letters, digits, `.`, `-`, `_`, at most 64. Choose another.")
    taken = [found for found in list_pins(lake) if found.name == name]
    if taken:
        raise PinError(f"pin {name}: is of snapshot {taken[0].snapshot_id}, expected a free name. Choose another or unpin it.")
    chosen = lake.catalog.newest() if snapshot_id is None else snapshot_id
    _check(lake, chosen)
    made = Pin(name, chosen, reason, datetime.now(UTC).isoformat(timespec="seconds"))
    publish(lake, [Write(PINS, name, pl.DataFrame([vars(made)], schema=PINS.schema))], f"pin {name}")
    try:
        _check(lake, chosen)  # maintenance may have expired it before it saw the pin
    except SnapshotMissingError:
        unpin(lake, name)
        raise
    return made


def _check(lake: Lake, snapshot_id: int) -> None:
    with lake.reader(snapshot_id):
        pass


def unpin(lake: Lake, name: str) -> None:
    """Let go of a snapshot by its name. Raises PinError if there is no such pin."""
    names = [found.name for found in list_pins(lake)]
    if name not in names:
        raise PinError(f"pin {name}: not there, expected one of {names[:5]}. See `mice pins`.")
    publish(lake, [Write(PINS, name, PINS.empty())], f"unpin {name}")
