"""Files that an unfinished write has left behind. Finding them only: verify.py reports, maintenance.py removes old ones."""

from collections.abc import Iterator
from pathlib import Path

from feature_store.home import Home

# Of bag_file.py, ingest/stage.py, the model package's artefacts, mice sql --output.
_PATTERNS = {
    "store/bags": ".*.parquet.tmp",
    "staging": ".partial-*",
    "models": ".*.partial",
    "reports": ".*.partial",
    "cache": ".*.partial",
    "embeddings": ".*.partial",
}


def leftovers(home: Home) -> Iterator[Path]:
    """Yield temporary files and folders, whether their writer is gone or still at work."""
    for folder, pattern in _PATTERNS.items():
        yield from sorted((home.root / folder).rglob(pattern))
