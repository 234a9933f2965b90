"""`mice cohort new`, `validate`, `add`: a contract from a template, a dry run of it, and publishing what it describes.

Arguments, printing and the order of library calls. What a report says is feature_store/ingest_report.py's.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import home_of, one_line
from mice_cli.snapshots_command import HomeOption

if TYPE_CHECKING:
    from feature_store.contract import Contract
    from feature_store.home import Home
    from feature_store.ingest_findings import IngestReport

cohort = typer.Typer(no_args_is_help=True, help="Bring a cohort in: write its contract, try it, add it.")

ContractFile = Annotated[Path, typer.Argument(help="The cohort's contract, a YAML file.")]
LandingOption = Annotated[
    Path | None,
    typer.Option("--landing", help="Folder of the cohort's source files (default: that it was added with, or MICE_DATA)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object alone.")]


@cohort.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the contract: small letters, digits, `_`, `-`.")],
    landing: Annotated[
        Path | None, typer.Option(help="Folder to look into; its tables and columns are listed, no value is.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write (default: <name>.yaml here).")] = None,
) -> None:
    """Write a commented contract to fill in."""
    from feature_store.landing_survey import survey

    target = output or Path(f"{name}.yaml")
    with _refusing():
        found = survey(landing) if landing else []
    if target.exists():
        typer.echo(f"error: {target}: is there already, expected a new file. Name another with --output.", err=True)
        raise typer.Exit(1)
    text = (resources.files("mice_cli") / "templates" / "cohort.yaml").read_text(encoding="utf-8")
    seen = [
        line
        for one in found
        for line in (f"{one.path}{f': {one.num_files} files' if one.num_files > 1 else ''}", *(f"    {a}" for a in one.about))
    ]
    listed = [f"Found in {landing}:", *(f"  {line}" for line in seen)] if landing else []
    target.write_text("".join(f"# {one_line(line)}\n" for line in listed) + text.replace("NAME", name), encoding="utf-8")
    try:
        with _refusing():
            _checked(target)
    except typer.Exit:  # not a name that a contract may have
        target.unlink()
        raise
    typer.echo(str(target))


@cohort.command()
def validate(file: ContractFile, landing: LandingOption = None, home: HomeOption = None, *, as_json: JsonOption = False) -> None:
    """Read everything as the contract says, print what came of it, leave nothing behind; exit with 1 if it would be refused."""
    from feature_store.home import Home

    with _refusing(as_json=as_json), TemporaryDirectory(prefix="mice-validate-") as folder, _without_key():
        contract = _checked(file)
        dry = Home(Path(folder), embeddings_folder=home_of(home).embeddings)  # slides are looked at, and embedded only by `add`
        report = _tried(contract, _landing(contract, landing, home_of(home)), dry)
    _show(report, as_json=as_json)
    if not report.is_publishable:
        raise typer.Exit(1)


@cohort.command()
def add(
    file: ContractFile,
    landing: LandingOption = None,
    home: HomeOption = None,
    *,
    accept_drift: Annotated[bool, typer.Option("--accept-drift", help="Publish cohorts that lack what they had before.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Validate a contract, keep it in the home with its landing folder, and publish its cohorts through the graph."""
    from dagster_project.launch import materialize_cohorts, open_instance
    from dagster_project.resources import Platform
    from feature_store.added_cohorts import added, refuse_taken

    place = home_of(home)
    with _refusing(as_json=as_json):
        platform = Platform(home_folder=str(place.root), accepts_drift=accept_drift)
        shipped = Path(platform.contracts_folder)
        contract = refuse_taken(place, shipped, file)
        folder = _landing(contract, landing, place)
        report = _tried(contract, folder, place)  # staged in the home: the graph finds it, and reads nothing again
        _show(report, as_json=as_json)
        if not report.is_publishable:
            shutil.rmtree(place.staging / contract.name)
            raise typer.Exit(1)
        with added(place, shipped, file, folder), open_instance(place.dagster) as instance:
            materialize_cohorts(platform, instance, list(contract.cohorts))
    if not as_json:
        typer.echo(
            f"published: {', '.join(contract.cohorts)}. Name contract {contract.name} in a study to train on it: docs/studies.md"
        )


def _checked(file: Path) -> "Contract":
    from feature_store.contract import load_contract

    return load_contract(file)


def _landing(contract: "Contract", landing: Path | None, home: "Home") -> Path:
    from feature_store.landing import landing_folder

    if landing is not None:
        return landing.resolve()
    data = os.environ.get("MICE_DATA")
    return landing_folder(contract, home, Path(data) if data else None)


def _tried(contract: "Contract", landing: Path, home: "Home") -> "IngestReport":
    from feature_store.ingest.stage import landing_files, stage
    from feature_store.ingest.whole_slides import sources_of_slides
    from feature_store.ingest_report import ingest_report
    from feature_store.progress import log_to_stderr

    log_to_stderr()
    logging.getLogger("feature_store.ingest.quarantine").setLevel(logging.ERROR)  # the report says what was set aside
    files = landing_files(contract, landing)
    if sources_of_slides(contract) and home.embeddings_folder is None:
        from mice_model.slide_embedding.run import embed_contract

        embed_contract(contract, landing, home)
    return ingest_report(stage(contract, landing, home), landing, files)


def _show(report: "IngestReport", *, as_json: bool) -> None:
    from feature_store.ingest_report_text import report_text

    if as_json:
        typer.echo(json.dumps({**asdict(report), "is_publishable": report.is_publishable}))
        return
    for line in report_text(report).splitlines():
        typer.echo(one_line(line))


@contextmanager
def _without_key() -> Iterator[None]:
    """Let a dry run make its pseudonyms with a key of its own: the installation's may not be there yet, and stays so."""
    from feature_store.deidentify.key import ENVIRONMENT

    named = os.environ.pop(ENVIRONMENT, None)
    try:
        yield
    finally:
        if named is not None:
            os.environ[ENVIRONMENT] = named


@contextmanager
def _refusing(*, as_json: bool = False) -> Iterator[None]:
    """Print a named failure, and exit with 1: such a cohort would not be published."""
    from feature_store.errors import MiceError

    try:
        yield
    except MiceError as error:
        typer.echo(f"error: {error}", err=True)
        if as_json:
            typer.echo(json.dumps({"is_publishable": False, "error": type(error).__name__, "message": str(error)}))
        raise typer.Exit(1) from None
