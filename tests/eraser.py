"""An erasure in a process of its own, to be killed by test_erase.py when it comes to a named step."""

import os
import signal
from pathlib import Path

from feature_store.erase.execute import erase_case
from feature_store.home import Home


def run(root: Path, case_id: str, kill_at: str) -> None:
    """Erase a case; the first word of the step `kill_at` is the end of the process, as by SIGKILL from outside."""

    def on_progress(what: str, done: int, total: int) -> None:
        if f"{what} {done == total}" == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    erase_case(Home(root), case_id, on_progress=on_progress)
