"""Worker processes of training end with the process that started them, however it ends."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Training with two workers that would take an hour, on nothing: what a worker does is not the question here, and the study that
# it is prepared for is opened by the first part of it that is run.
SCRIPT = """
import multiprocessing, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from feature_store.child_processes import ended_on_error
from mice_model.workers import _prepare

def work(seconds):
    sys.stdout.write("at work\\n"); sys.stdout.flush()
    time.sleep(seconds)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=_prepare, initargs=(20, None)) as pool, ended_on_error():
        list(pool.map(work, [3600, 3600]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "training.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
        os.kill(run.pid, how)
        is_gone = threading.Event()
        threading.Thread(target=lambda: (run.stdout.read(), is_gone.set()), daemon=True).start()  # once nobody can write any more
        try:
            assert is_gone.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode != 0
