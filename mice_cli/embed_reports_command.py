"""`mice embed-reports`: text embeddings of published cohorts' reports. Arguments and printing only."""

import json
from typing import Annotated, Literal

import typer

from mice_cli.show import failing, home_of, print_table
from mice_cli.snapshots_command import HomeOption


def embed_reports(
    cohorts: Annotated[list[str], typer.Argument(help="Published cohorts, or a contract's name for all of its cohorts.")],
    encoder: Annotated[str, typer.Option(help="A text model of Hugging Face, such as dmis-lab/biobert-base-cased-v1.2.")],
    pooling: Annotated[
        Literal["mean", "cls"], typer.Option(help="mean: over all tokens; cls: over the windows' class tokens.")
    ] = "mean",
    outcome_words: Annotated[
        Literal["mask", "flag"], typer.Option(help="mask: left out before encoding; flag: counted only.")
    ] = "mask",
    device: Annotated[str, typer.Option(help="Torch's name of a device (default: CUDA if there is any, else the CPU).")] = "",
    home: HomeOption = None,
    *,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch a model that is not in <home>/encoders.")] = False,
) -> None:
    """Embed the reports that have no embedding yet; the last line printed is one JSON object."""
    from dagster_project.resources import Platform
    from feature_store.progress import log_to_stderr
    from feature_store.report_encoding import ReportEncoding

    log_to_stderr()
    place = home_of(home)
    with failing():
        from mice_model.report_embedding.run import embed_reports as embed
        from mice_model.report_embedding.run import open_encoder

        contracts = Platform(home_folder=str(home or "")).contracts
        of_contract = {contract.name: list(contract.cohorts) for contract in contracts.values()}
        names = [name for given in cohorts for name in of_contract.get(given, [given])]
        encoding = ReportEncoding(encoder, pooling, outcome_words)
        opened = open_encoder(encoding, place.encoders, device, uses_hub=hub)
        done = [embed(place, name, encoding, opened) for name in dict.fromkeys(names)]
    rows = [(each.cohort, str(each.num_new), str(each.num_windows), str(each.outcome_words)) for each in done]
    print_table(("cohort", "new embeddings", "windows", "words about the outcome"), rows)
    said = {
        "cohorts": len(done),
        "new": sum(each.num_new for each in done),
        "windows": sum(each.num_windows for each in done),
        "width": opened.width,
        "encoder": encoder,
        "encoder_sha256": opened.sha256,
    }
    typer.echo(json.dumps(said))
