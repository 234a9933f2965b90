"""`mice embed`: patch embeddings of a contract's whole slides. Arguments and printing only."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing, home_of, print_table
from mice_cli.snapshots_command import HomeOption

if TYPE_CHECKING:
    from feature_store.contract import Contract
    from mice_model.slide_embedding.run import EmbeddingReport

_NOT_ALL = 1


def embed(
    contract: Annotated[str, typer.Argument(help="A contract's name, or its YAML file.")],
    landing: Annotated[Path | None, typer.Option(help="Folder of the cohort's files (default: as added, or MICE_DATA).")] = None,
    home: HomeOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Slides at a time (default: the GPUs, else the cores).")] = 0,
    decoders: Annotated[int, typer.Option(min=-1, help="Decoding processes for each (default: what cores allow).")] = -1,
    shard: Annotated[str, typer.Option(help="Of several machines: 1/4 takes every fourth slide, 2/4 the next ones.")] = "1/1",
    runner: Annotated[str, typer.Option(help="What shares slides out: processes, or ray (docs/slides.md).")] = "processes",
    *,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch a Hugging Face model that is not in <home>/encoders.")] = False,
) -> None:
    """Embed the whole slides of a contract that are not embedded yet; exit with 1, naming each, if any is refused."""
    from feature_store.landing import landing_folder
    from feature_store.progress import log_to_stderr
    from mice_model.slide_embedding.run import RunConfig, embed_contract, runner_named

    log_to_stderr()
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        typer.echo(f"error: --shard {shard!r}, expected i/n with i from 1 to n, such as 1/4.", err=True)
        raise typer.Exit(2)
    place = home_of(home)
    with failing():
        found = _contract(contract, home)
        data = os.environ.get("MICE_DATA")
        folder = landing.resolve() if landing else landing_folder(found, place, Path(data) if data else None)
        config = RunConfig(workers, decoders, (int(number) - 1, int(of)), hub, runner_named(runner))
        report = embed_contract(found, folder, place, config)
    _show(report)


def _contract(named: str, home: Path | None) -> "Contract":
    from dagster_project.resources import Platform
    from feature_store.contract import load_contract
    from feature_store.errors import ContractError

    if Path(named).suffix in {".yaml", ".yml"}:
        return load_contract(Path(named))
    known = {contract.name: contract for contract in Platform(home_folder=str(home or "")).contracts.values()}
    if named not in known:
        raise ContractError(f"contract {named}: not known, expected one of {sorted(known)} or a YAML file. Correct the name.")
    return known[named]


def _show(report: "EmbeddingReport") -> None:
    rows = [
        (
            each.name,
            str(each.manifest.num_patches),
            f"{each.manifest.mpp:g} ({each.manifest.mpp_origin})" if each.manifest.mpp else "",
            each.manifest.refused or ("embedded" if each.is_new else "was embedded"),
        )
        for each in report.outcomes
    ]
    print_table(("slide", "patches", "microns per pixel", "outcome"), rows)
    said = {
        "slides": len(report.outcomes),
        "embedded": len(report.embedded),
        "new": sum(each.is_new for each in report.embedded),
        "refused": len(report.refused),
        "patches": report.num_patches,
        "mpp_origins": report.mpp_origins,
        "encoders": {encoder.name: encoder.weight_sha256 for encoder in report.encoders},
    }
    typer.echo(json.dumps(said))
    if report.refused:
        raise typer.Exit(_NOT_ALL)
