"""Running a fault suite at the size of seconds, as `make faults` runs it at its real size."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run(suite: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run rows of a suite with `folder` for its temporary files."""
    return subprocess.run(
        [sys.executable, "-m", f"faults.{suite}", "--quick", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the last line of a suite all of whose rows held."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["holds"]
    return found
