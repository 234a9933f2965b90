"""The `mice` command: one function per subcommand, which imports the heavy libraries it needs itself."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.cohort_command import cohort
from mice_cli.doctor_command import doctor
from mice_cli.embed_command import embed
from mice_cli.embed_reports_command import embed_reports
from mice_cli.erase_command import erase
from mice_cli.experiment_command import experiment
from mice_cli.explain_command import explain
from mice_cli.gdc_command import gdc
from mice_cli.lineage_command import lineage
from mice_cli.maintain_command import maintain, pin, unpin
from mice_cli.snapshots_command import diff, snapshots
from mice_cli.sql_command import sql
from mice_cli.verify_command import verify

if TYPE_CHECKING:
    from dagster_project.resources import Platform

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
for command in (
    sql,
    snapshots,
    pin,
    unpin,
    diff,
    lineage,
    verify,
    doctor,
    maintain,
    erase,
    embed,
    embed_reports,
    explain,
    experiment,
):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(cohort, name="cohort")
app.add_typer(gdc, name="gdc")

HomeOption = Annotated[Path | None, typer.Option("--home", help="The installation's folder (default: MICE_HOME or .mice).")]


@app.command()
def run(
    study: Annotated[str, typer.Option(help="Name of a file in <home>/studies/ or studies/, without .yaml.")],
    data: Annotated[Path | None, typer.Option(help="Landing folder for cohorts from outside.")] = None,
    home: HomeOption = None,
    *,
    accept_drift: Annotated[bool, typer.Option("--accept-drift", help="Publish cohorts that lack what they had before.")] = False,
) -> None:
    """Materialize the whole graph for a study; the last line printed is one JSON object."""
    from dagster_project.resources import Platform
    from feature_store.errors import MiceError
    from feature_store.progress import log_to_stderr

    log_to_stderr()
    try:
        platform = Platform(home_folder=str(home or ""), data_folder=str(data or ""), study=study, accepts_drift=accept_drift)
        _run_study(platform)
    except MiceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _run_study(platform: "Platform") -> None:
    from dagster_project.launch import materialize_cohorts, open_instance, train
    from mice_cli.results import result_line, result_table

    wanted = platform.wanted_study.contracts
    names = [name for name, contract in platform.contracts.items() if contract.name in wanted]
    with open_instance(platform.home.dagster) as instance:
        materialize_cohorts(platform, instance, names)
        train(platform, instance)
    plan = platform.plan
    typer.echo(result_table(plan))
    typer.echo(json.dumps(result_line(plan)))


@app.command("prepare-dagster")
def prepare_dagster(home: HomeOption = None) -> None:
    """Make the Dagster home (instance settings, cohort partitions) and print its folder; `make dev` uses it."""
    from dagster_project.launch import open_instance, register_cohorts
    from dagster_project.resources import Platform

    platform = Platform(home_folder=str(home or ""))
    with open_instance(platform.home.dagster) as instance:
        register_cohorts(instance, list(platform.contracts))
    typer.echo(str(platform.home.dagster))


if __name__ == "__main__":
    app()
