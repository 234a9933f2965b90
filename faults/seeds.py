"""What the fuzzing of row 32 feeds: for each parser of the ingest, how it reads a file, and sound files to change."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import polars as pl
from safetensors.numpy import save_file

from faults.cohorts import small_contract
from feature_store.contract import load_contract
from feature_store.contract.formats import TableFormat
from feature_store.contract.rules import Identifier
from feature_store.gdc.manifest import read_manifest
from feature_store.ingest.context import Ingest
from feature_store.ingest.documents import Documents, UnreadableDocumentError
from feature_store.ingest.patch_file import read_patches
from feature_store.sources import SourceFile, fingerprint, read_nested, read_table, require_columns

ROOT = Path(__file__).parents[1]
DIM = 8
GDC_MANIFEST = "id\tfilename\tmd5\tsize\tstate\n" + "".join(
    f"0000000{n}-48ca-4865-b17a-f2e1f6209b81\tsample-{n}.tsv\t{n:032x}\t{1000 + n}\treleased\n" for n in range(4)
)
IDS = ("SYN-DA-0001", "SYN-DA-0002 ", "syn-da-0003", "SYN\u2010DA\u20100004", "001", "1.0", "")


@dataclass(frozen=True)
class Parser:
    """A parser by name, with the sound files that its inputs are made of."""

    name: str
    read: Callable[[Path], object]
    seeds: tuple[Path, ...]


def parsers(folder: Path) -> Iterator[Parser]:
    """Yield every parser; its seeds are written below `folder`."""
    folder.mkdir(parents=True)
    frame = pl.DataFrame({"case_id": IDS, "age": ["61", "", "x", "-1", "1e5", "70.5", "0"], "text": ['a "b", c'] * len(IDS)})
    yield Parser("tables", _table, tuple(_tables(folder, frame)))
    yield Parser("nested JSON", _nested, (_written(folder / "cases.json", json.dumps(_cases()).encode()),))
    yield Parser(
        "contracts", load_contract, tuple(_written(folder / p.name, p.read_bytes()) for p in sorted(ROOT.glob("cohorts/*.yaml")))
    )
    yield Parser("manifests", read_manifest, (_written(folder / "manifest.tsv", GDC_MANIFEST.encode()),))
    yield Parser("patch files", _patches, tuple(_patch_files(folder)))
    yield Parser("identifiers", _identifiers, (_written(folder / "ids.csv", frame.write_csv().encode()),))
    yield Parser("documents", _document, tuple(_documents(folder)))


def _source(path: Path) -> SourceFile:
    return fingerprint(path.parent, path)


def _table(path: Path) -> pl.DataFrame:
    return read_table(_source(path))


def _nested(path: Path) -> object:
    return read_nested(_source(path), TableFormat(), ["diagnoses", "follow_ups"])


def _patches(path: Path) -> object:
    return read_patches(path, "slide", DIM)


def _identifiers(path: Path) -> pl.DataFrame:
    """Read a table and take its identifiers as the cases step does."""
    ingest, file = Ingest(small_contract(), path.parent), _source(path)
    frame = read_table(file)
    require_columns(frame, ["case_id"], file)
    return ingest.identify(frame, Identifier(column="case_id"), "cases", file)


def _document(path: Path) -> None:
    with Documents("utf-8", has_ocr=False) as documents, suppress(UnreadableDocumentError):
        documents.text(path)


def _tables(folder: Path, frame: pl.DataFrame) -> Iterator[Path]:
    yield _written(folder / "table.csv", frame.write_csv().encode())
    yield _written(folder / "table.tsv", frame.write_csv(separator="\t").encode())
    yield _written(folder / "table.json", frame.write_json().encode())
    yield _written(folder / "table.jsonl", frame.write_ndjson().encode())
    for name, write in {"table.parquet": frame.write_parquet, "table.xlsx": frame.write_excel}.items():
        data = io.BytesIO()
        with suppress(ModuleNotFoundError):  # XLSX is only ever read
            write(data)
            yield _written(folder / name, data.getvalue())


def _cases() -> list[dict[str, object]]:
    return [
        {
            "submitter_id": case_id,
            "demographic": {"vital_status": "Dead", "days_to_death": 100 + number},
            "diagnoses": [{"age_at_diagnosis": 20_000, "treatments": [{"type": "x"}, {}]}, {"age_at_diagnosis": None}],
            "follow_ups": [{"days_to_follow_up": day} for day in range(number)],
        }
        for number, case_id in enumerate(IDS)
    ]


def _patch_files(folder: Path) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    arrays = {"features": rng.normal(size=(20, DIM)).astype(np.float32), "coords": rng.integers(0, 9_999, (20, 2))}
    for name, options in {"rows.h5": {"chunks": True}, "packed.h5": {"compression": "gzip"}, "plain.h5": {}}.items():
        with h5py.File(folder / name, "w") as file:
            for key, values in arrays.items():
                file.create_dataset(key, data=values, **options)
            file["coords"].attrs["patch_size"] = 256
        yield folder / name
    np.savez(folder / "arrays.npz", **arrays)
    yield folder / "arrays.npz"
    save_file(arrays, folder / "arrays.safetensors")
    yield folder / "arrays.safetensors"


def _documents(folder: Path) -> Iterator[Path]:
    yield _written(folder / "report.txt", b"Diagnosis: adenocarcinoma, 2.1 cm.\nMargins free.")
    yield _written(folder / "report.pdf", small_pdf("Diagnosis: adenocarcinoma, 2.1 cm."))


def small_pdf(text: str) -> bytes:
    """Return a PDF of one page with a line of text, as ISO 32000 has it."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    bodies = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    data, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(bodies, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(bodies) + 1, table)
    return bytes(data + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, start))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
