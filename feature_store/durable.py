"""Making files and renames survive a power cut. Nothing else."""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Write a file's contents through to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write a folder's entries through: what was made, renamed or removed in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
