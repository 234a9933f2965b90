"""A lower layer never imports an upper one, and no runtime package imports what its licence keeps out."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# package -> the project's packages it may import (architecture: what follows from what)
ALLOWED = {
    "sql": set(),
    "kernels": set(),
    "feature_store": {"sql"},
    "mice_model": {"feature_store", "kernels"},
    "dagster_project": {"mice_model", "feature_store"},
    "baselines": set(),
    "mice_cli": {"dagster_project", "mice_model", "feature_store", "sql"},
}
FORBIDDEN = {
    "sql": {"torch", "polars", "dagster"},
    "kernels": {"polars", "duckdb", "dagster", "transformers"},
    "feature_store": {"torch", "dagster", "transformers", "sksurv"},
    "mice_model": {"dagster", "duckdb", "sksurv"},
    "dagster_project": {"polars", "duckdb", "torch", "sksurv"},
    "mice_cli": {"sksurv"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, expected absolute ones"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_flow_down(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            if top in ALLOWED and top != package:
                assert top in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}: {package} is below {top}"
            assert top not in FORBIDDEN.get(package, set()), f"{path.relative_to(ROOT)} imports {name}"


def test_one_module_of_the_model_reads_bags_and_training_sets():
    readers = {"feature_store.bag_reader", "feature_store.lake"}
    knowing = {path.name for path in (ROOT / "mice_model").glob("*.py") if imported(path) & readers}
    assert knowing <= {"data.py", "service.py"}, "data.py reads the store, service.py publishes into it; nothing else"


def test_orchestration_has_no_queries():
    for path in (ROOT / "dagster_project").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "SELECT " not in text
        assert "pl." not in text


def test_modules_are_short():
    lengths = sorted(
        len(path.read_text(encoding="utf-8").splitlines()) for package in ALLOWED for path in (ROOT / package).rglob("*.py")
    )
    assert lengths[len(lengths) // 2] <= 200
    assert lengths[-1] <= 400
