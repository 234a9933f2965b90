"""`mice explain`: the page that shows why a case got its risk score. Arguments and printing only."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing
from mice_cli.snapshots_command import HomeOption

if TYPE_CHECKING:
    from mice_model.explanation.explain import Explained


def explain(
    case: Annotated[str, typer.Argument(help="Case identifier, as in the table cases.")],
    study: Annotated[str, typer.Option(help="A study that was trained: a file in <home>/studies/ or studies/, without .yaml.")],
    home: HomeOption = None,
    landing: Annotated[Path | None, typer.Option(help="Folder of the cohort's slides (default: as added, or MICE_DATA).")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write the page, outside of the home; an erasure does not find it there.")
    ] = None,
) -> None:
    """Write a page on why a study's networks gave a case its risk score; the last line printed is one JSON object."""
    from dagster_project.resources import Platform
    from feature_store.progress import log_to_stderr
    from mice_model.explanation.explain import explain_case

    log_to_stderr()
    data = os.environ.get("MICE_DATA")
    with failing():
        platform = Platform(home_folder=str(home or ""), study=study)
        done = explain_case(
            platform.wanted_study,
            platform.home,
            platform.contracts,
            case,
            landing=landing.resolve() if landing else None,
            data=Path(data) if data else None,
            output=output,
        )
    typer.echo(json.dumps(_figures(done)))


def _figures(done: "Explained") -> dict[str, object]:
    found, subject = done.found, done.subject
    standing, risk_score = found.standing, found.attribution.risk_score
    return {
        "path": str(done.path),
        "model_version": subject.model_version,
        "snapshot": subject.snapshot_id,
        "risk_score": round(risk_score, 6),
        "held_out": found.networks.is_held_out,
        "folds": list(found.networks.folds),
        "lower_risks": standing.num_lower(risk_score) if standing else None,
        "peers": len(standing.peers) if standing else None,
        "present": [name for name, there in found.attribution.is_present.items() if there],
        "slides": len(found.slides),
        "patches": found.num_patches,
        "top_patches": len(found.top),
        "top_patches_shown": sum(bool(patch.picture) for patch in found.top),
        "top_attention": round(found.top_share, 6),
        "report_parts": len(found.attribution.report.contributions or ()) if found.attribution.report else 0,
    }
