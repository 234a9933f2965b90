"""Where everything of one installation lies: `MICE_HOME` (default `.mice` below the working folder). Paths only."""

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = ".mice"


@dataclass(frozen=True)
class Home:
    """The folders of one installation. Nothing is created by naming it."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Return the home that `MICE_HOME` names, or the default below the working folder."""
        return cls(Path(os.environ.get("MICE_HOME", DEFAULT_HOME)).resolve())

    @property
    def catalog(self) -> Path:
        """DuckLake's SQLite catalog file."""
        return self.root / "store" / "catalog.sqlite"

    @property
    def tables(self) -> Path:
        """DuckLake's Parquet data; only DuckLake writes or deletes here."""
        return self.root / "store" / "tables"

    @property
    def bags(self) -> Path:
        """Content-addressed bag shards (docs/bags.md); referenced by the table patch_bags."""
        return self.root / "store" / "bags"

    @property
    def staging(self) -> Path:
        """Read, mapped and not yet published cohorts."""
        return self.root / "staging"

    @property
    def models(self) -> Path:
        """Trained models, one folder per model version."""
        return self.root / "models"

    @property
    def reports(self) -> Path:
        """HTML reports, one per model version."""
        return self.root / "reports"

    @property
    def landing(self) -> Path:
        """Landing folders the platform makes itself (the synthetic cohort)."""
        return self.root / "landing"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME: runs, events and partitions."""
        return self.root / "dagster"
