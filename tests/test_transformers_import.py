"""transformers probes a distribution named `kernels`, and ours has that name: both must import, in either order."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_bert_model_imports_beside_our_kernels():
    code = "import kernels; from transformers import BertModel; print(BertModel.__name__, kernels.__file__)"
    name, path = _run(code).split(" ", 1)
    assert name == "BertModel"
    assert Path(path) == ROOT / "kernels" / "__init__.py"


@pytest.mark.parametrize("package", ["kernels", "mice_model.model"])
def test_import_loads_neither_triton_nor_transformers(package):
    modules = "kernels.selective_scan, kernels.causal_conv1d, kernels.expert_dispatch"
    code = f"import sys, {package}, {modules}; print([m for m in ('triton', 'transformers') if m in sys.modules])"
    assert _run(code) == "[]"


def test_kernels_defines_no_version():
    assert _run("import kernels; print(hasattr(kernels, '__version__'))") == "False"
