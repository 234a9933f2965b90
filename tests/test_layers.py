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


# What of the store any module of the model may know: names of places, errors, plain data.
HARMLESS = {
    "feature_store.contract.Contract",
    "feature_store.home.Home",
    "feature_store.publish.Published",
    "feature_store.slides.embeddings.picture_of",
    "feature_store.report_encoding.ReportEncoding",
    "feature_store.training_set.Mutations",
    "feature_store.training_set.TrainingSet",
    "feature_store.training_set.Vectors",
}


# Modules that know nothing of the store.
KNOWN_TO_ALL = ("feature_store.child_processes.", "feature_store.errors.", "feature_store.progress.", "feature_store.read_ahead.")


def imported(path: Path) -> set[str]:
    """Return what a module imports, as package.module or package.module.name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, expected absolute ones"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_flow_down(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            if top in ALLOWED and top != package:
                assert top in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}: {package} is below {top}"
            assert top not in FORBIDDEN.get(package, set()), f"{path.relative_to(ROOT)} imports {name}"


def test_one_module_of_the_model_reads_the_store_and_one_publishes():
    knows = {}
    for path in (ROOT / "mice_model").glob("*.py"):
        names = {name for name in imported(path) if name.startswith("feature_store.")} - HARMLESS
        knows[path.name] = {name for name in names if not name.startswith(KNOWN_TO_ALL)}
        assert "SELECT " not in path.read_text(encoding="utf-8"), f"{path.name} queries the store itself"
    assert {name for name, known in knows.items() if known} == {"data.py", "predictions.py"}
    modules = {name.rpartition(".")[0] for name in knows["predictions.py"]}
    assert modules == {"feature_store.lake", "feature_store.publish", "feature_store.tables"}
    assert ".reader(" not in (ROOT / "mice_model" / "predictions.py").read_text(encoding="utf-8")
    assert not any(name.startswith("feature_store.publish") for name in knows["data.py"])


def test_slide_embedding_knows_slides_and_not_the_store():
    for path in (ROOT / "mice_model" / "slide_embedding").glob("*.py"):
        modules = {".".join(name.split(".")[:2]) for name in imported(path) if name.startswith("feature_store.")}
        allowed = {"bag_record", "child_processes", "contract", "errors", "home", "ingest", "progress", "slides"}
        assert modules <= {f"feature_store.{name}" for name in allowed}, path.name


def test_what_is_fitted_before_the_network_knows_neither_network_nor_protocol():
    fitted = {"stratified_cox", "cox_skip", "scaling", "feature_parts", "preprocessing", "array_trees", "text", "design_matrix"}
    known = fitted | {"study", "positions"}
    for name in fitted:
        names = imported(ROOT / "mice_model" / f"{name}.py")
        assert not {each for each in names if each.split(".")[0] in {"torch", "kernels"}}, name
        assert {each.split(".")[1] for each in names if each.startswith("mice_model.")} <= known, name


def test_experiments_know_places_and_the_model_and_nothing_that_trains_knows_them():
    for path in (ROOT / "mice_model" / "experiments").glob("*.py"):
        modules = {".".join(name.split(".")[:2]) for name in imported(path) if name.startswith("feature_store.")}
        assert modules <= {f"feature_store.{name}" for name in ("contract", "errors", "home", "progress")}, path.name
    others = {path.name: imported(path) for path in (ROOT / "mice_model").glob("*.py")}
    knowing = {name for name, names in others.items() if any(each.startswith("mice_model.experiments") for each in names)}
    assert knowing <= {"service.py"}


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
