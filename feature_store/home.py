"""Where everything of one installation lies: `MICE_HOME` (default `.mice` below the working folder) and `MICE_CATALOG`.

What belongs here: names of places. Opening the catalog is catalog.py's and lake.py's.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_HOME = ".mice"


@dataclass(frozen=True)
class Home:
    """The folders of one installation. Nothing is created by naming it.

    `catalog_url` (postgresql://user@host:port/database) puts the lake's catalog into PostgreSQL, for several machines that share
    the folders; without it the catalog is a SQLite file below `root`.
    """

    root: Path
    catalog_url: str = field(default="", repr=False)  # it may hold a password
    embeddings_folder: Path | None = None  # of another home, for a dry run

    @classmethod
    def from_environment(cls, folder: Path | None = None) -> "Home":
        """Return the home at `folder`, or that `MICE_HOME` names, or the default below the working folder; see `MICE_CATALOG`."""
        root = folder or Path(os.environ.get("MICE_HOME", DEFAULT_HOME))
        return cls(root.resolve(), os.environ.get("MICE_CATALOG", ""))

    @property
    def catalog(self) -> Path:
        """DuckLake's SQLite catalog file, where no `catalog_url` is given."""
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
    def locks(self) -> Path:
        """Lock files of writers and readers (catalog.py)."""
        return self.root / "store" / "locks"

    @property
    def cache(self) -> Path:
        """What can be made again from the store at any time."""
        return self.root / "cache"

    @property
    def embeddings(self) -> Path:
        """What patch encoders made of slides (slides/embeddings.py): made again from the slides, but at some cost."""
        return self.embeddings_folder or self.root / "embeddings"

    @property
    def encoders(self) -> Path:
        """Weights of patch encoders, a folder each by its name; put there by people."""
        return self.root / "encoders"

    @property
    def models(self) -> Path:
        """Trained models, one folder per model version."""
        return self.root / "models"

    @property
    def reports(self) -> Path:
        """HTML reports, one per model version."""
        return self.root / "reports"

    @property
    def explanations(self) -> Path:
        """Pages about single cases, in a folder per model version (explanation_pages.py)."""
        return self.reports / "explanations"

    @property
    def cohorts(self) -> Path:
        """Contracts that this installation has beside the shipped ones (added_cohorts.py)."""
        return self.root / "cohorts"

    @property
    def studies(self) -> Path:
        """Studies that this installation has beside the shipped ones."""
        return self.root / "studies"

    @property
    def landing(self) -> Path:
        """Landing folders the platform makes itself (the synthetic cohort)."""
        return self.root / "landing"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME: runs, events and partitions."""
        return self.root / "dagster"
