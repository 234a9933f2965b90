"""Is this installation fit to work? One diagnosis per thing that has to be right, each with its remedy.

What belongs here: the environment and the store as a whole. Objects one by one are verify.py's business, and what needs torch is
asked by the command (mice_cli/doctor_command.py), which is above this package.
"""

import importlib.metadata
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb

from feature_store.diagnosis import Diagnosis, State, first_line, some
from feature_store.doctor_store import diagnose_dagster, diagnose_embeddings, diagnose_store
from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.lake import Lake

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"

_DISTRIBUTION = "mice-platform"
_PYTHON = ((3, 11), (3, 14))  # pyproject.toml: requires-python
# The demo takes 0.3 GB; TCGA's tables and the bags of a cohort some 10 GB.
_LEAST_FREE_BYTES, _SOME_FREE_BYTES = 1 << 30, 10 << 30
_INSTALL = "pip install -c constraints.txt -e ."


def diagnose(home: Home, data: Path | None, constraints: Path = CONSTRAINTS) -> Iterator[Diagnosis]:
    """Look at everything, cheapest first; `data` is the landing folder that MICE_DATA names, None where it names none."""
    yield _python()
    yield _packages(constraints)
    yield _extensions()
    yield _writable(home)
    yield _disk(home)
    yield _landing(data)
    yield from diagnose_dagster(home)
    yield from diagnose_store(home)
    yield from diagnose_embeddings(home)


def _python() -> Diagnosis:
    found = ".".join(map(str, sys.version_info[:3]))
    is_fit = _PYTHON[0] <= sys.version_info[:2] < _PYTHON[1]
    return Diagnosis(
        "python", "pass" if is_fit else "fail", found, "" if is_fit else "Make the environment with Python 3.11 to 3.13"
    )


def _packages(constraints: Path) -> Diagnosis:
    """Compare the installed packages with the pins; DuckDB's have to be at theirs, as an extension fits one version only."""
    if not constraints.is_file():
        return Diagnosis("packages", "warn", f"no {constraints}", "Run from the repository, which holds the pins")
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", constraints.read_text(encoding="utf-8"), re.MULTILINE))
    missing, others = [], []
    required = _required()
    for name, pin in pins.items():
        try:
            found = importlib.metadata.version(name).partition("+")[0]  # torch's builds add +cpu
        except importlib.metadata.PackageNotFoundError:
            missing += [name] if _canonical(name) in required else []
            continue
        others += [f"{name} {found} instead of {pin}"] if found != pin else []
    if missing:
        return Diagnosis("packages", "fail", f"not installed: {some(missing)}", _INSTALL)
    if others:
        is_fatal = any(_canonical(other).startswith("duckdb") for other in others)
        return Diagnosis("packages", "fail" if is_fatal else "warn", f"not at their pins: {some(others)}", _INSTALL)
    return Diagnosis("packages", "pass", f"installed ones of {len(pins)} pins at their pins")


def _required() -> set[str]:
    """Return what the platform needs without its extras, as canonical names."""
    try:
        lines = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {"duckdb", "polars", "pyarrow"}
    return {_canonical(match[0]) for line in lines if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _extensions() -> Diagnosis:
    """Load DuckDB's extensions as the store does, by making a store of no cohort in a temporary folder."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(Home(Path(folder)))
            with lake.transaction("doctor", "doctor"):
                pass
            with lake.reader():
                pass
    except (MiceError, duckdb.Error, OSError) as error:
        return Diagnosis("duckdb extensions", "fail", first_line(error), _INSTALL)
    return Diagnosis("duckdb extensions", "pass", f"ducklake and sqlite_scanner load into duckdb {duckdb.__version__}")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _writable(home: Home) -> Diagnosis:
    folder = _existing(home.root.resolve())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "Give the folder to the user that runs the platform, or set MICE_HOME to another"
        return Diagnosis("home", "fail", f"{folder} cannot be written ({error.strerror})", remedy)
    if folder != home.root.resolve():
        return Diagnosis("home", "warn", f"{home.root} is not there yet", "Run `make demo`, or set MICE_HOME to the right folder")
    return Diagnosis("home", "pass", f"{home.root} can be written")


def _disk(home: Home) -> Diagnosis:
    free = shutil.disk_usage(_existing(home.root.resolve())).free
    state: State = "fail" if free < _LEAST_FREE_BYTES else "warn" if free < _SOME_FREE_BYTES else "pass"
    remedy = "" if state == "pass" else "Free some: the demo takes under 1 GB, TCGA with slides of one cohort some 10 GB"
    return Diagnosis("disk", state, f"{free / 2**30:.1f} GiB free", remedy)


def _landing(data: Path | None) -> Diagnosis:
    if data is None:
        return Diagnosis("landing folder", "warn", "MICE_DATA is not set", "Set it for cohorts from outside; the demo needs none")
    if not data.is_dir():
        return Diagnosis("landing folder", "fail", f"{data} is not a folder", "Mount it, or set MICE_DATA to the right one")
    return Diagnosis("landing folder", "pass", str(data))
