"""Ways to make the operating system itself refuse a write: limits, full file systems, missing permissions. Used by disks.py."""

import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.cohorts import visible
from faults.report import say
from feature_store.home import Home

NOBODY = 65534


def plainly(_: object) -> None:
    """Change nothing: the file system itself is full."""


def limited(limit: object) -> None:
    """Let no file grow beyond `limit` bytes: every write at that size fails (Python ignores the signal that goes with it)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(str(limit)), resource.RLIM_INFINITY))


def as_nobody(another: object) -> None:
    """Become a user who owns nothing, who may not even read Python's modules: reading `another` home loads what is needed."""
    visible(Home(Path(str(another))))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def make_writable_but(home: Home, name: str) -> None:
    """Give everything of a home to nobody, except one folder, which only root may write."""
    home.staging.mkdir(exist_ok=True)
    home.bags.mkdir(exist_ok=True)
    for path in (home.root, *home.root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    closed = home.root / name
    for path in (closed, *closed.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in home.root.parents:
        if parent.is_relative_to(tempfile.gettempdir()) and parent != Path(tempfile.gettempdir()):
            parent.chmod(0o755)


def nobody_can_come_here() -> bool:
    """Say whether this process may become nobody, and nobody may enter the folder for temporary files."""
    temporary = Path(tempfile.gettempdir()).resolve()
    return os.geteuid() == 0 and all(folder.stat().st_mode & 0o001 for folder in (temporary, *temporary.parents))


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path | None]:
    """Yield a file system of 8 MiB in memory, mounted at a folder that is made, or None where mounting is not allowed."""
    folder.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False)
    if mounting.returncode:
        say(f"row 6: no tmpfs ({mounting.stderr.decode().strip()})")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(folder: Path, num_free_bytes: int) -> Iterator[None]:
    """Fill a file system but for so many bytes (in whole pages)."""
    filler = folder / "filler"
    stat = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(
            file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - num_free_bytes // stat.f_frsize * stat.f_frsize)
        )
    try:
        yield
    finally:
        filler.unlink()
