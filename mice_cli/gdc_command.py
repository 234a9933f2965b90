"""`mice gdc`: the Genomic Data Commons' files and cases into a landing folder. Arguments and printing only."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing, one_line, print_table

if TYPE_CHECKING:
    from feature_store.gdc.api import Gdc
    from feature_store.gdc.download import Downloaded
    from feature_store.gdc.fetch import Found
    from feature_store.gdc.landing import Row

gdc = typer.Typer(
    no_args_is_help=True, help="Download from the Genomic Data Commons, and follow its withdrawals. See docs/gdc.md."
)

_INTERRUPTED = 130

ApiOption = Annotated[str | None, typer.Option("--api", help="The API's address (default: the GDC's).")]
TokenOption = Annotated[Path | None, typer.Option("--token-file", help="Your GDC token, for controlled access (mode 600).")]
ConnectionsOption = Annotated[int, typer.Option(min=1, max=16, help="Files fetched at the same time.")]
LandingOption = Annotated[Path, typer.Option("--landing", help="The landing folder; the GDC's part is its folder gdc.")]
ProjectOption = Annotated[list[str], typer.Option("--project", help="A project's id, such as TCGA-BRCA; repeatable.")]
TypeOption = Annotated[list[str] | None, typer.Option("--data-type", help="Only this kind of file (docs/gdc.md); repeatable.")]


@gdc.command()
def status(api: ApiOption = None) -> None:
    """Print what the API says of itself, as JSON."""
    with failing():
        typer.echo(json.dumps(_client(api).status()))


@gdc.command()
def manifest(output: Path, project: ProjectOption, data_type: TypeOption = None, api: ApiOption = None) -> None:
    """Write the manifest of some projects' files, which `mice gdc download` and the GDC's own client read."""
    from feature_store.gdc.data_types import data_types
    from feature_store.gdc.filters import all_of, any_of, one_of
    from feature_store.gdc.manifest import write_manifest

    with failing():
        kinds = any_of(*(kind.filter for kind in data_types(data_type or [])))
        files = _client(api).manifest(all_of(one_of("cases.project.project_id", project), kinds))
        write_manifest(output, files)
    typer.echo(json.dumps({"files": len(files), "bytes": sum(file.num_bytes for file in files)}))


@gdc.command()
def download(
    manifest: Annotated[Path, typer.Argument(help="A manifest of the GDC's.")],
    folder: Annotated[Path, typer.Argument(help="Where to; each file in a folder of its id.")],
    token_file: TokenOption = None,
    connections: ConnectionsOption = 4,
    api: ApiOption = None,
) -> None:
    """Make every file of a manifest lie whole and verified in a folder; exit with 1, naming each, if any is missing."""
    from feature_store.gdc.download import download as downloaded
    from feature_store.gdc.manifest import read_manifest

    with failing(), _resumable():
        files = read_manifest(manifest)
        done = downloaded(_client(api, token_file, connections).http, files, folder)
    _report(done)


@gdc.command()
def fetch(
    project: ProjectOption,
    landing: LandingOption,
    data_type: TypeOption = None,
    connections: ConnectionsOption = 4,
    api: ApiOption = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is, and how many GB.")] = False,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="List what is there even if files are missing.")
    ] = False,
) -> None:
    """Fetch projects' open files and their cases' clinical data into a landing folder; run it again to go on or to renew."""
    from feature_store.gdc.data_types import data_types
    from feature_store.gdc.fetch import Found
    from feature_store.gdc.fetch import fetch as fetched
    from feature_store.gdc.landing import Landing

    with failing(), _resumable():
        client, kinds = _client(api, None, connections), data_types(data_type or [])
        found = Found.ask(client, project, kinds)
        _print_found(found)
        if dry_run:
            return
        done = fetched(client, Landing(landing), found, kinds, accepts_missing=accept_missing)
    _report(done, is_listed=not done.failed or accept_missing)


@gdc.command()
def sync(
    landing: LandingOption,
    api: ApiOption = None,
    *,
    accept_many: Annotated[bool, typer.Option("--accept-many", help="Even if more than a tenth is gone at once.")] = False,
) -> None:
    """Flag the cases of a landing folder that the GDC has withdrawn since, and take withdrawn files off its list."""
    from feature_store.gdc.landing import Landing
    from feature_store.gdc.sync import sync as synced

    with failing():
        done = synced(_client(api), Landing(landing), accepts_many=accept_many)
    for flag in done.flagged:
        typer.echo(one_line(f"withdrawn: {flag.case_id}: {flag.reason}"))
    for flag in done.lifted:
        typer.echo(one_line(f"released again: {flag.case_id} (`mice gdc fetch` lists its files again)"))
    for row in done.withdrawn:
        typer.echo(one_line(f"withdrawn file: {row.path}"))
    if done.superseded:
        typer.echo(f"{len(done.superseded)} files have newer versions: `mice gdc fetch` gets them")
    typer.echo(json.dumps({name: len(rows) for name, rows in vars(done).items()}))


@gdc.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="A tar, tar.gz or zip, such as the GDC portal's cart downloads.")],
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
) -> None:
    """Unpack an archive that need not be trusted: plain files below the folder, or nothing at all."""
    from feature_store.archives import unpack as unpacked

    with failing():
        typer.echo(json.dumps({"files": unpacked(archive, folder)}))


def _client(api: str | None, token_file: Path | None = None, num_connections: int = 4) -> "Gdc":
    from feature_store.gdc.api import Gdc
    from feature_store.gdc.http import ADDRESS, Http
    from feature_store.gdc.token import read_token
    from feature_store.progress import log_to_stderr

    log_to_stderr()
    return Gdc(Http(api or ADDRESS, read_token(token_file) if token_file else None, num_connections=num_connections))


@contextmanager
def _resumable() -> Iterator[None]:
    """End a command that was interrupted as a shell expects it, saying how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: what has arrived stays; run the same command again to go on", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _print_found(found: "Found") -> None:
    kinds: dict[tuple[str, str], list[Row]] = {}
    for row in found.rows:
        kinds.setdefault((row.data_type, row.workflow_type), []).append(row)
    table = [(*kind, *_sums(rows)) for kind, rows in sorted(kinds.items())]
    print_table(("data type", "workflow", "files", "cases", "GB"), [*table, ("all", "", *_sums(found.rows))])


def _sums(rows: Sequence["Row"]) -> tuple[str, str, str]:
    num_cases = len({row.case_id for row in rows} - {""})
    return str(len(rows)), str(num_cases), f"{sum(row.num_bytes for row in rows) / 1e9:.3f}"


def _report(done: "Downloaded", *, is_listed: bool = True) -> None:
    for failure in done.failed:
        typer.echo(one_line(f"missing: {failure.file.path}: {failure.reason}"))
    if not is_listed:
        typer.echo("files.tsv and cases.json are as before: run it again, or accept what is missing with --accept-missing")
    counts = {"fetched": len(done.fetched), "kept": len(done.kept), "failed": len(done.failed)}
    typer.echo(json.dumps({**counts, "fetched_bytes": sum(file.num_bytes for file in done.fetched)}))
    if done.failed:
        raise typer.Exit(1)
