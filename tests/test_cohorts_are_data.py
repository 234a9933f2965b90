"""No cohort is known to the code: a name of a contract or a cohort stands in contracts, studies and documentation only."""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("feature_store", "mice_model", "dagster_project", "mice_cli", "kernels", "sql", "baselines")
CONTRACTS = [yaml.safe_load(path.read_text("utf-8")) for path in sorted((ROOT / "cohorts").rglob("*.yaml"))]
# file (or what its name begins with) -> what may stand in it, and why
EXCEPTIONS = {
    "feature_store/synthetic": ("synthetic", "makes the landing folder that no patient is in, for any contract with a generator"),
    "feature_store/landing.py": ("synthetic", "calls the generator"),
    "feature_store/columns.py": ("tcga", "examples in descriptions that people read"),
    "feature_store/sources.py": ("tcga", "a command to try, in an error"),
    "feature_store/doctor.py": ("tcga", "how much disk it takes, in a remedy"),
    "mice_cli/gdc_command.py": ("tcga", "examples in help texts"),
}


def names() -> set[str]:
    """Return the names of contracts and cohorts in small letters."""
    return {name.lower() for contract in CONTRACTS for name in (contract["name"], *contract["cohorts"])}


def code_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every identifier and every text of a module but its docstrings; comments are no code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(node.body[0].value) for node in bodies if node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        for field in ("id", "attr", "arg", "name", "module", "asname", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str):
                yield getattr(node, "lineno", 0), text


@lru_cache(maxsize=1)
def pattern() -> re.Pattern[str]:
    longest_first = sorted(names(), key=len, reverse=True)
    return re.compile(rf"(?<![a-z0-9-])(?:{'|'.join(map(re.escape, longest_first))})(?![a-z0-9])")


def mentioned(text: str) -> set[str]:
    """Return the names that stand in a text as words of their own; `_` parts words, as in an identifier."""
    return set(pattern().findall(text.lower().replace("_", " ")))


def test_the_search_finds_what_it_is_to_find() -> None:
    assert {"tcga", "hancock", "synthetic", "tcga-brca"} <= names()
    assert mentioned("is_tcga_case") == {"tcga"}
    assert mentioned("WHERE cohort = 'TCGA-BRCA'") >= {"tcga-brca"}
    assert mentioned("photosynthetic") == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_cohort_is_named_in_code(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        allowed = {name for start, (name, _) in EXCEPTIONS.items() if relative.startswith(start)}
        for line, text in code_of(path):
            if strange := {name for name in mentioned(text) if name.split("-")[0] not in allowed}:
                found.append(f"{relative}:{line}: {sorted(strange)} in {text[:60]!r}")
    assert found == []


def test_every_exception_is_still_needed() -> None:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for start, (name, _) in EXCEPTIONS.items():
        paths = [path for path in modules if path.relative_to(ROOT).as_posix().startswith(start)]
        assert any(found.split("-")[0] == name for path in paths for _, text in code_of(path) for found in mentioned(text)), start
