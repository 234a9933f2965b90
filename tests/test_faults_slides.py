"""The rows of the embedding run's fault suite at the size of seconds. `make faults NAME=slides` is the real size."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_row_holds() -> None:
    command = [sys.executable, "-m", "faults.slides", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["holds"]
    assert (summary["kills"], summary["differing"], summary["partial_seen"], summary["orphans"]) == (4, 0, 0, 0)
    assert summary["rows"]["2"]["refused"] >= 1
