"""Which code made a model: hashes of the sources, and the commit of the checkout.

A model version follows from `code_hash`, so a change of any module in it trains every model anew.
"""

import hashlib
import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Modules that decide no weight and no risk score, but what is said of them. A test holds that training imports none.
PRESENTATION = (
    "alarms", "calibration", "comparison", "comparison_figures", "discrimination", "held_out_slides", "html_pages",
    "kaplan_meier", "plots", "predicted_survival", "predictions", "report", "report_words", "scored_folds", "service",
    "summary", "survival_figures", "survival_metrics", "svg",
)  # fmt: skip


@lru_cache
def code_hash(root: Path = ROOT) -> str:
    """Return the hash of the modules that decide weights and risk scores: the model's, less PRESENTATION, and the kernels'."""
    return _hash([path for path in _sources(root) if path.stem not in PRESENTATION])


@lru_cache
def evaluation_hash(root: Path = ROOT) -> str:
    """Return the hash of all that decides an evaluation and its report."""
    model = root / "mice_model"
    return _hash([*_sources(root), *sorted((model / "experiments").glob("*.py")), *sorted((model / "templates").iterdir())])


def code_version() -> str:
    """Return the checkout's commit and dirtiness, where there is git, and the code's hash."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return f"code {code_hash()}"
    return f"{done.stdout.strip()}, code {code_hash()}"


def _sources(root: Path) -> list[Path]:
    return sorted(path for package in ("mice_model", "kernels") for path in (root / package).glob("*.py"))


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
