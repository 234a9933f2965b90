"""Verifying a store: every object that a row or a model names is there and holds what it should. Reads only, deletes nothing.

What belongs here: putting the checks together. Checks of tables are verify_tables.py, of bags verify_bags.py, of every file's
bytes verify_objects.py. A finding is a line that names the object and what to do. A *problem* is wrong data or a missing object;
a *note* is something left over.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import polars as pl
from safetensors import SafetensorError, safe_open

from feature_store.errors import CatalogError, StoreMissingError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.leftovers import leftovers
from feature_store.verify_bags import check_bags
from feature_store.verify_finding import Finding, OnProgress
from feature_store.verify_objects import check_objects
from feature_store.verify_tables import check_tables


@dataclass
class Report:
    """What was checked, as counts by kind of object, and what was found."""

    is_quick: bool
    checked: dict[str, int] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """File a finding, once, as the problem or the note that it is."""
        filed = self.problems if finding.is_problem else self.notes
        if finding not in filed:
            filed.append(finding)

    @property
    def counts(self) -> dict[str, object]:
        """Return the summary that `mice verify` prints last."""
        kinds = sorted({finding.kind for finding in (*self.problems, *self.notes)})
        found = {kind: sum(finding.kind == kind for finding in (*self.problems, *self.notes)) for kind in kinds}
        numbers = {"problems": len(self.problems), "notes": len(self.notes)}
        return {"quick": self.is_quick, "checked": dict(self.checked), **numbers, "found": found}


def verify(home: Home, *, is_quick: bool = False, on_progress: OnProgress | None = None) -> Report:
    """Check the newest snapshot of a home, its bags and its models.

    `is_quick` looks at existence, sizes and bounds only; otherwise every byte of tables and bags is read, and tables are held
    against the hash they were published with. Raises StoreMissingError where there never was a store; a broken one is a finding.
    """
    report = Report(is_quick)
    progress = on_progress or (lambda _what, _done, _total: None)
    lake = Lake(home)
    for check in (check_tables, check_bags, check_objects):
        try:
            for finding in check(lake, report.checked, is_quick=is_quick, on_progress=progress):
                # of a file whose table or bag is named already, its bytes say nothing new
                if finding.kind != "object" or not any(Path(finding.which).name in known.which for known in report.problems):
                    report.add(finding)
        except StoreMissingError:
            if not has_data(home):
                raise
            report.add(_catalog(home, "no tables in it, though there are their files"))
            break
        except (duckdb.Error, pl.exceptions.PolarsError, CatalogError, OSError) as error:
            name = check.__name__.removeprefix("check_")
            report.add(_catalog(home, f"{name} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]})"))
    for finding in (*_models(home, report.checked, is_quick=is_quick), *_leftovers(home)):
        report.add(finding)
    return report


def has_data(home: Home) -> bool:
    """Say whether there are files of tables, so that a home without a catalog has lost it."""
    return next(home.tables.rglob("*.parquet"), None) is not None


def _catalog(home: Home, found: str) -> Finding:
    return Finding("catalog", str(home.catalog), found, "a catalog that opens", "Restore catalog.sqlite from a backup")


def _models(home: Home, checked: dict[str, int], *, is_quick: bool) -> Iterator[Finding]:
    """Yield the parts of models that lack one file of their pair, and files that cannot be read."""
    folders = [path for path in sorted(home.models.glob("*")) if path.is_dir()]
    checked["models"] = len(folders)
    remedy = "Run the study again: what is whole is kept"
    for folder in folders:
        plan = folder / "plan.json"
        if not plan.is_file():
            yield Finding("model", f"model {folder.name}", "no plan.json", "the plan it was trained by", remedy)
        elif not _is_json(plan):
            yield Finding("model", f"model {folder.name}", "plan.json that is not JSON", "the plan it was trained by", remedy)
        parts = sorted({path.with_suffix("") for path in folder.glob("fold-*/[!.]*") if path.suffix in {".safetensors", ".json"}})
        checked["model_parts"] = checked.get("model_parts", 0) + len(parts)
        for part in parts:
            which = f"model {folder.name}, {part.parent.name}/{part.name}"
            weights, about = (part.with_name(part.name + ending) for ending in (".safetensors", ".json"))
            missing = [path.suffix for path in (weights, about) if not path.is_file()]
            if missing:
                yield Finding("model", which, f"no {missing[0]}", "a .json beside each .safetensors", remedy)
            elif not _is_json(about) or not (is_quick or _is_whole(weights)):
                yield Finding(
                    "model", which, "a file that cannot be read", "whole weights and JSON", f"Delete the pair. {remedy}"
                )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _is_whole(weights: Path) -> bool:
    """Say whether a safetensors file is as long as its header says (its bytes carry no checksum)."""
    try:
        with safe_open(weights, framework="numpy") as file:
            return bool(file.keys() is not None)
    except (OSError, SafetensorError):
        return False


def _leftovers(home: Home) -> Iterator[Finding]:
    for path in leftovers(home):
        found = "left over by a write that did not end, or in use"
        remedy = "mice maintain removes it, once it is a day old"
        yield Finding("leftover", str(path.relative_to(home.root)), found, "none", remedy, is_problem=False)
