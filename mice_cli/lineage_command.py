"""`mice lineage`: where everything about one case came from, as a tree or JSON. Arguments and printing only."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing, home_of, one_line

if TYPE_CHECKING:
    from feature_store.lineage import Lineage, Record

# A line of the tree: how deep, and its text.
Line = tuple[int, str]
_HASH = 12  # characters of a hash in the tree; JSON gives all


class Form(StrEnum):
    """How the result is printed."""

    tree = "tree"
    json = "json"


def lineage(
    case: Annotated[str, typer.Argument(help="Case identifier, as in the table cases.")],
    home: Annotated[Path | None, typer.Option("--home", help="The installation's folder (default: MICE_HOME or .mice).")] = None,
    snapshot: Annotated[int | None, typer.Option(help="Snapshot id to read (default: the newest).")] = None,
    form: Annotated[Form, typer.Option("--format", help="A tree for people, or JSON.")] = Form.tree,
) -> None:
    """Show a case's rows, source files, bags, states, rejections, folds, predictions and the networks that saw it."""
    from feature_store.lineage import case_lineage

    with failing():
        found = case_lineage(home_of(home), case, snapshot)
    if form is Form.json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    lines = [(depth, one_line(text)) for depth, text in _lines(found)]
    if not sys.stdout.isatty():
        for depth, text in lines:
            typer.echo(f"{'  ' * depth}{text}")
        return
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(lines[0][1], style="bold"))
    branches = [root]
    for depth, text in lines[1:]:
        del branches[depth:]
        branches.append(branches[-1].add(Text(text, style="bold" if depth == 1 else "")))
    Console().print(root)


def _lines(found: "Lineage") -> Iterator[Line]:
    yield 0, f"case {found.case_id} in snapshot {found.snapshot_id}{'' if found.cases else ': in no cohort'}"
    for case in found.cases:
        yield 1, f"{case['cohort']}: project {case['project_id']}, cancer type {case['cancer_type']}, site {case['site']}"
    yield from _part("ingest", [_ingest(record) for record in found.ingests])
    yield 1, "rows"
    for record in found.rows:
        yield 2, f"{record['table']}: {record['num_rows']}{_of(record, found)}"
        for source in record["sources"]:  # type: ignore[attr-defined] # a list, see Lineage
            size = f"{source['num_bytes']:,} bytes"
            yield 3, f"{source['path']} ({size}, sha256 {_short(source['source_sha256'])}, contract {source['contract']})"
        for digest in record["sources_unknown"]:  # type: ignore[attr-defined] # a list, see Lineage
            yield 3, f"sha256 {digest}: no such file in the table sources"
    yield 1, "bags"
    for bag in found.bags:
        yield 2, f"slide {bag['slide_id']}: {bag['num_patches']} x {bag['dim']}, sha256 {_short(bag['bag_sha256'])}"
        yield 3, f"encoder {bag['encoder']} (sha256 {_short(bag['encoder_sha256'])})"
        yield 3, f"shard {bag['shard']}, byte {bag['offset_bytes']}"
    states = [
        f"{r['modality']}: {r['state']}{_of(r, found)}" + (f" ({r['reason']})" if r["reason"] else "") for r in found.modalities
    ]
    yield from _part("modalities", states)
    rejected = [f"{r['table_name']}: {r['reason']} ({r['case_id_found']!r} in {r['path']})" for r in found.quarantined]
    yield from _part("quarantined rows", rejected)
    yield from _part("folds", [f"{r['split']}: held out in fold {r['fold']}{_of(r, found)}" for r in found.folds])
    predictions = [
        f"{r['model_version']} ({r['study']}, {r['endpoint']}, fold {r['fold']}): risk score {r['risk_score']:.4g}"
        for r in found.predictions
    ]
    yield from _part("predictions", predictions)
    yield 1, "models" if found.trained else "models: none"
    for model in found.trained:
        place = "in no fold of the split" if model.fold is None else f"held out in fold {model.fold}"
        yield 2, f"{model.model_version} ({model.study}, snapshot {model.snapshot_id}, code {model.code}): {model.note or place}"
        for what, names in (("saw the case", model.saw), ("did not", model.did_not_see)):
            if names:
                yield 3, f"{what}: {', '.join(names)}"


def _part(title: str, texts: list[str]) -> Iterator[Line]:
    yield 1, title if texts else f"{title}: none"
    yield from ((2, text) for text in texts)


def _ingest(record: "Record") -> str:
    contracts = ", ".join(record["contracts"])  # type: ignore[arg-type] # a list, see Lineage
    key = record["ingest_key"] or "unknown (no staging folder holds just these rows)"
    version = record["code_version"] or "not recorded"
    return f"contract {contracts}, written {record['written_at']} by ingest code {version}, key of content and ingest code {key}"


def _of(record: "Record", found: "Lineage") -> str:
    return f" in {record['cohort']}" if len(found.cases) > 1 else ""


def _short(digest: object) -> str:
    return str(digest)[:_HASH] or "not recorded"
