"""What the replayed GDC has: files made from their ids at any size, hits in the documented shape, and queries over them.

What belongs here: the answers. Serving them, well or badly, is gdc_server.py's business.
"""

import csv
import gzip
import hashlib
import random
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

Hit = dict[str, Any]
_BLOCK_BYTES = 1 << 20
ID_FIELDS = {"cases": "case_id", "files": "file_id", "annotations": "annotation_id", "projects": "project_id"}
# Of a file with a thousand cases the catalogue names each: a line beyond csv's own limit.
csv.field_size_limit(1 << 24)


class Content:
    """A file's bytes: those given, or some made from the id, in which no two blocks are alike."""

    def __init__(self, file_id: str, num_bytes: int, given: bytes | None = None) -> None:
        self.num_bytes = num_bytes if given is None else len(given)
        self._file_id, self._given = file_id, given

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `start` on."""
        base = self._given or random.Random(self._file_id).randbytes(min(_BLOCK_BYTES, self.num_bytes))
        for number in range(start // _BLOCK_BYTES, -(-self.num_bytes // _BLOCK_BYTES)):
            first = number * _BLOCK_BYTES
            block = base[first : first + _BLOCK_BYTES] if self._given else number.to_bytes(16, "big") + base[16:]
            yield block[max(0, start - first) : self.num_bytes - first]

    @cached_property
    def md5(self) -> str:
        """The checksum of all bytes."""
        digest = hashlib.md5(usedforsecurity=False)
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


def made_id(text: str) -> str:
    """Return a UUID that is always the same for a text."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def file_hit(file_name: str, content: Content, case: Hit | None = None, **values: Any) -> Hit:
    """Return a hit of the files endpoint, of the id made from its name; `values` replace fields."""
    return {
        "file_id": made_id(file_name),
        "file_name": file_name,
        "md5sum": content.md5,
        "file_size": content.num_bytes,
        "state": "released",
        "access": "open",
        "cases": [case] if case else [],
        **values,
    }


def generated(num_files: int, num_bytes: int) -> tuple[list[Hit], dict[str, Content]]:
    """Return files of one size: their hits, and their bytes by id."""
    names = [f"{number:05}-of-{num_bytes}.dat" for number in range(num_files)]
    contents = {made_id(name): Content(made_id(name), num_bytes) for name in names}
    return [file_hit(name, contents[made_id(name)]) for name in names], contents


def replayed_project(num_cases: int, num_bytes: int = 2_000) -> dict[str, Any]:
    """Return what GdcServer takes for the project REPLAY-ONE, whose cases have a file of STAR counts each."""
    project = {"project_id": "REPLAY-ONE"}
    numbers = range(num_cases)
    cases = [{"case_id": made_id(f"case {i}"), "submitter_id": f"CASE-{i:04}", "project": project} for i in numbers]
    files, contents = [], {}
    for case in cases:
        name = f"{case['submitter_id']}.rna_seq.augmented_star_gene_counts.tsv"
        contents[made_id(name)] = Content(made_id(name), num_bytes)
        sample = {"submitter_id": f"{case['submitter_id']}-01A", "sample_type": "Primary Tumor", "tissue_type": "Tumor"}
        kinds = {"data_type": "Gene Expression Quantification", "analysis": {"workflow_type": "STAR - Counts"}}
        files.append(file_hit(name, contents[made_id(name)], {**case, "samples": [sample]}, **kinds))
    return {"files": files, "contents": contents, "cases": cases}


def catalogue(path: Path, max_file_bytes: int) -> tuple[list[Hit], dict[str, Content]]:
    """Return the files of one of the GDC's own lists of a release (a TSV with cases and workflows), cut to a size for replay."""
    hits, contents = [], {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            content = Content(row["id"], min(int(row["size"]), max_file_bytes))
            project = {"project_id": row["project_id"]}
            cases = [
                {"case_id": one, "submitter_id": f"CASE-{one[:8]}", "project": project} for one in row["case_ids"].split(",")
            ]
            kinds = {name: row[name] for name in ("data_category", "data_type", "experimental_strategy")}
            analysis = {"workflow_type": row["workflow_type"]}
            hits.append(file_hit(row["filename"], content, file_id=row["id"], cases=cases, analysis=analysis, **kinds))
            contents[row["id"]] = content
    return hits, contents


def answer(endpoint: str, hits: list[Hit], asked: dict[str, Any]) -> Hit:
    """Return the page of hits that a query asks for, as the documentation has it. Raises ValueError for a query it has not."""
    found = [hit for hit in hits if not asked.get("filters") or _holds(asked["filters"], hit, f"{endpoint}.")]
    field, _, direction = str(asked.get("sort") or ID_FIELDS[endpoint]).partition(":")
    found.sort(key=lambda hit: str(hit.get(field)), reverse=direction == "desc")
    first, size = int(asked.get("from", 0)), int(asked.get("size", 10))
    fields, groups = (list(filter(None, str(asked.get(name, "")).split(","))) for name in ("fields", "expand"))
    page = [_picked(hit, fields, groups) if fields or groups else hit for hit in found[first : first + size]]
    pagination = {"count": len(page), "total": len(found), "size": size, "from": first, "sort": asked.get("sort", "")}
    return {"data": {"hits": page, "pagination": pagination}, "warnings": {}}


def _holds(filters: Hit, hit: Hit, prefix: str) -> bool:
    content = filters["content"]
    if filters["op"] in {"and", "or"}:
        parts = [_holds(part, hit, prefix) for part in content]
        return all(parts) if filters["op"] == "and" else any(parts)
    wanted = content["value"] if isinstance(content["value"], list) else [content["value"]]
    is_any = any(value in wanted for value in _values(hit, content["field"].removeprefix(prefix).split(".")))
    if filters["op"] not in {"=", "in", "!=", "exclude"}:
        raise ValueError(f"filter {filters['op']!r} is not replayed")
    return is_any == (filters["op"] in {"=", "in"})


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _values(one, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _picked(value: Any, fields: list[str], groups: list[str]) -> Any:
    """Return the part of a hit that consists of `fields` and of the plain values of the `groups`; "" is the value itself."""
    if isinstance(value, list):
        return [_picked(one, fields, groups) for one in value]
    if not isinstance(value, dict):
        return value
    picked = {}
    for key, inner in value.items():
        below = [[path.partition(".")[2] for path in paths if path.partition(".")[0] == key] for paths in (fields, groups)]
        if below[0] or below[1] or ("" in groups and not isinstance(inner, dict | list)):
            picked[key] = _picked(inner, *below)
    return picked
