"""Diagnoses of a home's store and its Dagster folder, as a whole. Objects one by one are verify.py's business."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from feature_store.diagnosis import Diagnosis, first_line, some
from feature_store.erase.slide_marks import unmarked
from feature_store.errors import CatalogError, ErasureError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.verify import has_data, verify


def diagnose_dagster(home: Home) -> Iterator[Diagnosis]:
    """Look at the Dagster home: whether it is this installation's, and its settings."""
    named = os.environ.get("DAGSTER_HOME")
    folder = Path(named) if named else home.dagster
    if folder.resolve() != home.dagster.resolve():
        found = f"DAGSTER_HOME is {folder}, not this home's {home.dagster}"
        yield Diagnosis("dagster", "warn", found, "Unset it, or runs are kept apart from their store")
    config = folder / "dagster.yaml"
    if not config.is_file():
        yield Diagnosis("dagster", "warn", f"no {config}", "mice prepare-dagster")
        return
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        is_off = settings.get("telemetry", {}).get("enabled") is False
    except (OSError, yaml.YAMLError, AttributeError) as error:
        yield Diagnosis("dagster", "fail", f"{config} cannot be read ({first_line(error)})", "Delete it and mice prepare-dagster")
        return
    if is_off:
        yield Diagnosis("dagster", "pass", f"{config}, telemetry off")
    else:
        yield Diagnosis("dagster", "warn", f"{config}: telemetry on", "Write `telemetry: {enabled: false}` there")


def diagnose_embeddings(home: Home) -> Iterator[Diagnosis]:
    """Look whether erasure could find the embeddings of every case; a home without embeddings has nothing to say."""
    try:
        num_unmarked, num = unmarked(home)
    except ErasureError as error:
        yield Diagnosis("embeddings", "fail", first_line(error), "Restore the key from a backup")
        return
    if num_unmarked:
        found = f"nobody can tell whose {num_unmarked} of {num} embedded slides are: erasure finds published ones only"
        remedy = f"Embed their contracts again, which marks what is embedded; if some are left, delete {home.embeddings}"
        yield Diagnosis("embeddings", "warn", found, remedy)
    elif num:
        yield Diagnosis("embeddings", "pass", f"{num} slides, all marked for erasure")


def diagnose_store(home: Home) -> Iterator[Diagnosis]:
    """Look at the catalog, its lock, every object (quickly) and what is left over."""
    try:
        has_store = Lake(home).exists
    except CatalogError as error:
        yield Diagnosis("catalog", "fail", first_line(error), "Restore the catalog from a backup")
        return
    if not has_store and not has_data(home):
        yield Diagnosis("catalog", "warn", f"no store at {home.root}", "Run `make demo`, or set MICE_HOME to the right folder")
        return
    if not home.catalog_url:
        yield _lock(home)
    report = verify(home, is_quick=True)
    catalog = [finding for finding in report.problems if finding.kind == "catalog"]
    yield Diagnosis("catalog", "fail", str(catalog[0]), "mice verify") if catalog else Diagnosis("catalog", "pass", "opens")
    objects = [finding.which for finding in report.problems if finding.kind != "catalog"]
    numbers = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in report.checked.items() if count)
    if objects:
        yield Diagnosis("objects", "fail", f"{len(objects)} problems: {some(objects)}", "mice verify says what to do about each")
    else:
        yield Diagnosis("objects", "pass", f"all there: {numbers}")
    kinds: dict[str, Callable[[int], str]] = {
        "leftover": lambda count: f"{count} unfinished files",
        "orphan_shard": lambda count: f"{count} shards that the newest snapshot does not name",
    }
    for kind, text in kinds.items():
        names = [finding.which for finding in report.notes if finding.kind == kind]
        if names:
            yield Diagnosis("left over", "warn", f"{text(len(names))}: {some(names)}", "mice verify says which can be deleted")
    if not report.notes:
        yield Diagnosis("left over", "pass", "nothing")


def _lock(home: Home) -> Diagnosis:
    path = home.catalog.with_suffix(".lock")
    if path.is_file():  # asking would make it
        try:
            with FileLock(path, timeout=0):
                pass
        except (Timeout, OSError) as error:
            found = "held by a writer" if isinstance(error, Timeout) else first_line(error)
            return Diagnosis("catalog lock", "warn", found, f"Wait for the other run, or see who holds it: fuser {path}")
    return Diagnosis("catalog lock", "pass", "free")
