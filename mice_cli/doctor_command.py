"""`mice doctor`: is this installation fit to work? Arguments, printing, and the one question that needs torch."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing, home_of, one_line

if TYPE_CHECKING:
    from feature_store.diagnosis import Diagnosis

_COLOURS = {"pass": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    home: Annotated[Path | None, typer.Option("--home", help="The installation's folder (default: MICE_HOME or .mice).")] = None,
) -> None:
    """Check the installation, a line each with the remedy; exit with 1 if anything fails."""
    from feature_store.doctor import diagnose

    data = os.environ.get("MICE_DATA")
    has_failed = False
    with failing():
        for diagnosis in diagnose(home_of(home), Path(data) if data else None):
            _print(diagnosis)
            has_failed |= diagnosis.state == "fail"
        _print(accelerator())
    if has_failed:
        raise typer.Exit(1)


def accelerator() -> "Diagnosis":
    """Say what torch would train on; torch is imported here and only where it is installed."""
    from feature_store.diagnosis import Diagnosis

    if importlib.util.find_spec("torch") is None:
        return Diagnosis("torch", "fail", "not installed", "pip install -c constraints.txt -e .")
    import torch

    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    if torch.cuda.is_available():
        return Diagnosis("torch", "pass", f"{threads}, {torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return Diagnosis("torch", "pass", f"{threads}, no CUDA device: trains on the CPU")


def _print(diagnosis: "Diagnosis") -> None:
    remedy = f" -> {diagnosis.remedy}" if diagnosis.remedy else ""
    state = typer.style(diagnosis.state, fg=_COLOURS[diagnosis.state])
    typer.echo(f"{state}  {one_line(f'{diagnosis.name}: {diagnosis.found}{remedy}')}")
