"""What a model version follows from: every module that decides a weight, none that only shows results."""

import shutil
import subprocess
import sys

import pytest

from mice_model.code_version import PRESENTATION, ROOT, code_hash, evaluation_hash


@pytest.fixture
def copy(tmp_path):
    for package in ("mice_model", "kernels"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def changed(copy, path):
    """Return whether a change of a file changes the hash of the code, and that of the evaluation."""
    before = code_hash.__wrapped__(copy), evaluation_hash.__wrapped__(copy)
    with (copy / path).open("a", encoding="utf-8") as file:
        file.write("\n")
    after = code_hash.__wrapped__(copy), evaluation_hash.__wrapped__(copy)
    return before[0] != after[0], before[1] != after[1]


def test_what_trains_is_hashed_and_what_shows_is_not(copy):
    code = "import sys, mice_model.workers; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    training = [name.replace(".", "/") + ".py" for name in loaded if name.startswith(("mice_model.", "kernels."))]
    decides = {"training", "losses", "preprocessing", "feature_parts", "scaling", "cox_skip", "stratified_cox", "array_trees"}
    assert {*(f"mice_model/{name}.py" for name in decides), "kernels/selective_scan.py"} <= set(training)
    scores = {f"mice_model/{name}.py" for name in ("scoring", "baselines", "cox", "forest", "design_matrix")}
    for path in sorted({*training, *scores}):
        assert changed(copy, path) == (True, True), path
    for name in PRESENTATION:
        assert changed(copy, f"mice_model/{name}.py") == (False, True), name
    assert changed(copy, "mice_model/templates/report.html.j2") == (False, True)


def test_the_hash_does_not_depend_on_where_the_code_lies(copy):
    assert code_hash(copy) == code_hash()
    assert evaluation_hash(copy) == evaluation_hash()
