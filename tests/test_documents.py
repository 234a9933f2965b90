"""Reports that are files: PDFs read in a process with limits, texts in their encodings, the case told by the path."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Corrupt, read_table
from gdc_landing import REPORT_TEXT, pdf
from ingesting import rejected
from pypdf import PdfReader, PdfWriter

from feature_store.contract import Contract
from feature_store.contract.feature_sources import DocumentsSource
from feature_store.erase.tombstones import Tombstones, mark
from feature_store.errors import ContractError
from feature_store.ingest import documents
from feature_store.ingest.cases import read_cases
from feature_store.ingest.context import WAS_ERASED, Ingest
from feature_store.ingest.documents import Documents, UnreadableDocumentError
from feature_store.ingest.reports import read_reports
from feature_store.ingest.stage import Staged


def encrypted(user_password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(REPORT_TEXT))))
    writer.encrypt(user_password, owner_password="owner", algorithm="RC4-128")
    return written(writer)


def written(writer: PdfWriter) -> bytes:
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


def many_pages(count: int) -> bytes:
    writer = PdfWriter()
    for _ in range(count):
        writer.add_blank_page(72, 72)
    return written(writer)


def refusal(folder: Path, data: bytes, **options: Any) -> str:
    path = folder / "a.pdf"
    path.write_bytes(data)
    with Documents("utf-8", has_ocr=False, **options) as reader, pytest.raises(UnreadableDocumentError) as raised:
        reader.text(path)
    return str(raised.value)


def test_one_process_reads_many_pdfs_and_a_broken_one_does_not_stop_it(tmp_path: Path) -> None:
    for name, data in {"a": pdf(REPORT_TEXT), "b": b"%PDF-1.4 broken", "c": pdf("Another report")}.items():
        (tmp_path / f"{name}.pdf").write_bytes(data)
    with Documents("utf-8", has_ocr=False) as reader:
        assert reader.text(tmp_path / "a.pdf") == REPORT_TEXT
        with pytest.raises(UnreadableDocumentError, match="PDF: unreadable"):
            reader.text(tmp_path / "b.pdf")
        assert reader.text(tmp_path / "c.pdf") == "Another report"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert refusal(tmp_path, encrypted("secret")) == "PDF: encrypted; save it without a password"
    assert "without a text layer" in refusal(tmp_path, pdf(""))
    assert refusal(tmp_path, many_pages(501)) == "PDF: 501 pages, over 500"
    assert "unreadable" in refusal(tmp_path, b"")
    assert "unreadable" in refusal(tmp_path, b"<html>not found</html>")


def test_a_pdf_that_anyone_may_open_is_read_though_it_is_encrypted(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(encrypted(""))
    with Documents("utf-8", has_ocr=False) as reader:
        assert reader.text(tmp_path / "a.pdf") == REPORT_TEXT


def test_damaged_pdfs_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    whole, path, outcomes = pdf(REPORT_TEXT), tmp_path / "a.pdf", []
    with Documents("utf-8", has_ocr=False) as reader:
        for at in range(0, len(whole), 23):
            for data in (whole[:at], whole[:at] + b"\xff\x00<<" + whole[at + 4 :]):
                path.write_bytes(data)
                try:
                    outcomes.append(reader.text(path))
                except UnreadableDocumentError as error:
                    outcomes.append(str(error))
    assert {outcome.split(":")[0].split(" without")[0] for outcome in outcomes} >= {"PDF", REPORT_TEXT}


def test_a_pdf_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    assert refusal(tmp_path, pdf(REPORT_TEXT), timeout_s=1e-6) == "PDF: not read within 1e-06 s"


def test_a_pdf_that_ends_its_process_is_refused_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(REPORT_TEXT))

    def fails(_: Documents) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "input()"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with Documents("utf-8", has_ocr=False) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(Documents, "_started", fails)
            with pytest.raises(UnreadableDocumentError, match="reading it ended the process"):
                reader.text(tmp_path / "a.pdf")
        assert reader.text(tmp_path / "a.pdf") == REPORT_TEXT


def test_memory_has_a_limit_in_the_process_that_reads() -> None:
    command = [
        sys.executable,
        "-c",
        "import resource; from feature_store.ingest.pdf_worker import main; main(); bytearray(3 << 30)",
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr


def test_ocr_that_is_declared_but_not_installed_stops_the_ingest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "find_spec", lambda _: None)
    with pytest.raises(ContractError, match=r"ocr: true without pypdfium2 and pytesseract.*mice-platform\[ocr\]"):
        Documents("utf-8", has_ocr=True)


# --- as a source


def of_files(**fields: Any) -> DocumentsSource:
    case_id = {"column": "path", "extract": r"(SYN-[A-Z0-9]{2}-[0-9]{4})[^/]*$"}
    return DocumentsSource.model_validate({"layout": "documents", "path": "texts/*", "case_id": case_id} | fields)


def test_the_path_tells_the_case_and_files_of_several_kinds_are_read(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt()
    first, second, third, fourth, fifth = read_table(landing / "clinical.csv")["case_id"].sort()[:5]
    folder = landing / "texts"
    folder.mkdir()
    texts = {
        f"{first}.txt": f"  {REPORT_TEXT}\n".encode(),
        f"{second} b.PDF": pdf(REPORT_TEXT),
        f"{third}.txt": "Ein Befund über die Größe des Tumors und über seine Ränder.".encode("cp1252"),
        f"{fourth}.txt": b"short",
        "SYN-ZZ-9999.txt": REPORT_TEXT.encode(),
        "readme.txt": REPORT_TEXT.encode(),
        f"{fifth}.txt": b"\x81" * 60,
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    staged = bare(landing, reports=(of_files(file={"encoding": "cp1252"}),))
    reports = staged.table("reports").sort("case_id")
    assert reports.select("report_id", "case_id").rows() == [
        (f"texts/{first}.txt", first), (f"texts/{second} b.PDF", second), (f"texts/{third}.txt", third),
    ]  # fmt: skip
    assert reports["text"].to_list() == [REPORT_TEXT, REPORT_TEXT, texts[f"{third}.txt"].decode("cp1252")]
    assert len(set(reports["source_sha256"])) == 3
    assert set(reports["source_sha256"]) <= set(staged.table("sources")["source_sha256"])
    found = {row["path"]: row["reason"] for row in rejected(staged, "reports").iter_rows(named=True)}
    assert found == {
        f"texts/{fourth}.txt": "text under 50 characters",
        "texts/SYN-ZZ-9999.txt": "case is not in the cases table",
        "texts/readme.txt": "identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}",
        f"texts/{fifth}.txt": "no text in cp1252; declare its encoding under file",
    }


def test_documents_fill_the_gaps_of_a_table(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, tmp_path: Path
) -> None:
    landing = corrupt()
    (landing / "texts").mkdir()
    have = set(read_table(landing / "reports.csv")["case_id"])
    cases = read_table(landing / "clinical.csv")["case_id"].to_list()
    without = next(case_id for case_id in cases if case_id not in have)
    for case_id in (without, min(have)):
        (landing / "texts" / f"{case_id}.txt").write_text(REPORT_TEXT, encoding="utf-8")
    staged = bare(landing, reports=(*synthetic_contract.reports, of_files(fills_gaps=True)))
    assert staged.table("reports")["report_id"].str.starts_with("texts/").sum() == 1
    assert rejected(staged, "reports").is_empty()


def test_nothing_of_an_erased_case_stays_where_its_path_names_it(corrupt: Corrupt, synthetic_contract: Contract) -> None:
    landing = corrupt()
    gone, stays = read_table(landing / "clinical.csv")["case_id"].sort()[:2]
    (landing / "texts").mkdir()
    for case_id in (gone, stays):
        (landing / "texts" / f"{case_id}.txt").write_text(REPORT_TEXT, encoding="utf-8")
    key = bytes(32)
    contract = synthetic_contract.model_copy(update={"reports": (of_files(),)})
    ingest = Ingest(contract, landing, Tombstones(frozenset([mark(key, gone)]), key))
    read_cases(ingest)
    assert read_reports(ingest)["case_id"].to_list() == [stays]
    quarantine = ingest.tombstones.redacted(ingest.quarantine.table())
    assert quarantine.filter(table_name="reports").select("reason", "case_id_found").rows() == [(WAS_ERASED, None)]
    assert gone not in str(quarantine.rows())
    assert gone not in str(ingest.files)
