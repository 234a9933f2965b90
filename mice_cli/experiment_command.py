"""`mice experiment`: variants of a study side by side, and checks of its trained networks. Arguments and printing only."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing, print_table
from mice_cli.snapshots_command import HomeOption

if TYPE_CHECKING:
    from dagster_project.resources import Platform
    from mice_model.experiments.page import Result


def experiment(
    name: Annotated[str, typer.Argument(help="A file in experiments/, without .yaml, or a check; see --list.")] = "",
    study: Annotated[str, typer.Option(help="The study to vary or check (default: the one that the experiment names).")] = "",
    data: Annotated[Path | None, typer.Option(help="Landing folder: publish the study's cohorts from it first.")] = None,
    home: HomeOption = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="The first seed and two folds only: to see it run, not to conclude.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List what can be run, and stop.")] = False,
) -> None:
    """Run an experiment or a check by name and write its page; the last line printed is one JSON object."""
    from dagster_project.experiment_assets import EXPERIMENTS
    from dagster_project.resources import Platform
    from feature_store.progress import log_to_stderr

    with failing():
        if list_ or not name:
            _list(EXPERIMENTS)
            return
        log_to_stderr()
        base = study or _base_of(EXPERIMENTS, name)
        platform = Platform(home_folder=str(home or ""), data_folder=str(data or ""), study=base)
        _run(platform, name, EXPERIMENTS, is_quick=quick)


def _base_of(folder: Path, name: str) -> str:
    from mice_model.experiments.experiment import ExperimentError, load_experiment
    from mice_model.experiments.names import CHECKS

    if name in CHECKS:
        raise ExperimentError(f"check {name}: no study, expected one. Name it: mice experiment {name} --study <study>.")
    return load_experiment(folder / f"{name}.yaml").base


def _list(folder: Path) -> None:
    from mice_model.experiments.experiment import load_experiment
    from mice_model.experiments.names import CHECKS

    files = {path.stem: load_experiment(path) for path in sorted(folder.glob("*.yaml"))}
    rows = [(name, str(len(found.all_variants)), found.base, found.title) for name, found in files.items()]
    print_table(("name", "networks", "study", "what"), [*rows, *((name, "", "", what) for name, what in CHECKS.items())])
    typer.echo(json.dumps({"experiments": list(files), "checks": list(CHECKS)}))


def _run(platform: "Platform", name: str, folder: Path, *, is_quick: bool) -> None:
    from feature_store.lake import Lake
    from mice_model.experiments.catalogue import run_named

    if platform.data is not None or not Lake(platform.home).exists:
        _publish_cohorts(platform)
    result = run_named(
        name,
        folder,
        platform.wanted_study,
        platform.home,
        platform.contracts,
        num_workers=platform.num_workers,
        is_quick=is_quick,
    )
    for section in result.comparisons[:1]:
        typer.echo(section.title)
        print_table(section.header, section.rows)
    for line in (*result.notes, f"protocol: {result.facts['Protocol']}"):
        typer.echo(line)
    typer.echo(json.dumps(_line(result, result.page(platform.home))))


def _publish_cohorts(platform: "Platform") -> None:
    from dagster_project.launch import materialize_cohorts, open_instance

    wanted = platform.wanted_study.contracts
    names = [cohort for cohort, contract in platform.contracts.items() if contract.name in wanted]
    with open_instance(platform.home.dagster) as instance:
        materialize_cohorts(platform, instance, names)


def _line(result: "Result", page: Path) -> dict[str, object]:
    """Return the result's figures of all cancer types together; those of each are in the JSON beside the page."""
    return {
        "experiment": result.name,
        "study": result.study,
        "quick": result.is_quick,
        "snapshot": result.facts["Snapshot"],
        "model_versions": list(result.model_versions),
        **result.short,
        "report": str(page),
        "figures": str(page.with_suffix(".json")),
    }
