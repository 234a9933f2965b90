"""Scrubbing of texts: what is found, what must stay, dates that move. How much of what is planted is found: row 30."""

import random
import time

import polars as pl
import pytest

from faults.planted_reports import FORMS, planted_report
from feature_store.deidentify.dates import moved_dates
from feature_store.deidentify.texts import scrubbed

FOUND = {
    "date": [
        "5/12/2003", "05-12-03", "2003-05-12", "12.05.2003", "20030512", "May 12, 2003", "12 May 2003", "12-MAY-03",
        "Oct. 4th, 1999", "June 2012", "6 / 2012", "March 3", "3rd of March", "l2/O5/2OO3", "O5-l2-2OO3", "lO Mar 2OO1",
    ],
    "phone": ["(312) 555-0123", "312-555-0123", "312.555.0123", "312 555 0123", "+1 312 555 0123", "555-0123", "+49 30 1234 567"],
    "record": ["123-45-6789", "1234567", "E123456789", "123-45-678", "12345678-1234-1234-1234-123456789abc"],
    "accession": ["S03-12345", "SP-03-1234", "03-123456", "HS03:12345", "S-O3-l2345", "2003-S-1234"],
    "email": ["a.okafor@lab.example.org"],
    "url": ["https://portal.example.org/p/17", "www.example.org/x"],
    "address": ["123 North Elm Avenue, Apt 4", "P.O. Box 17", "Springfield, IL 62704"],
    "age": ["93-year-old", "97 y/o", "aged 91", "ninety-three year old", "102 years"],
}  # fmt: skip
STAYS = [
    "Tumor 3.5 x 2.0 x 1.5 cm, 0.5-1.25 cm from the margin, 642 grams",
    "Metastatic carcinoma in 3 of 14 nodes (3/14), 0/12 and 20/25 HPF, levels I/II/III",
    "Nottingham grade 2 (3+2+2 = 7 of 9), Gleason 3+4=7, pT2 pN1a MX, AJCC 7th edition",
    "at the 10:00 position, dilution 1:500, ratio 1:20, blocks 1-4 and A1-A3",
    "ER 90%, Ki-67 22%, CK7+, CK20-, HER2 1+, CD117, p16, AE1/AE3, S100, 34BE12",
    "a 62 year old man, age 62, 30 pack-years; margins may 10 mm be; 4 peripancreatic LN 5(D4); in 1998",
    "THE SPECIMEN IS RECEIVED FRESH FROM OUTSIDE HOSPITAL. SEE COMMENT. GRADE III.",
]
NAMES = {
    "PATIENT: OKAFOR, MEI A. RIGHT BREAST": "PATIENT: [name]. RIGHT BREAST",
    "Dr. O'Donnell reviewed it": "Dr. [name] reviewed it",
    "DR. SMITH RECEIVED FRESH": "DR. [name] RECEIVED FRESH",
    "Dr , SMITH": "Dr , [name]",
    "seen by dr smith today": "seen by dr [name] today",
    "Mrs. White was seen; white tissue": "Mrs. [name] was seen; white tissue",
    "signed by Anna van der Berg, M.D.": "signed by [name], M.D.",
    "John Q. Smith, MD": "[name], MD",
    "Drs. Lee and Zhang agree": "Drs. [name] agree",
    "St. Mary's Hospital": "[hospital] Hospital",
    "at this hospital": "at this hospital",
    "Okafor, Mei. Patient: Mei Okafor": "[name], [name]. Patient: [name]",
    "Pathologist: see note": "Pathologist: see note",
}


def scrub(text: str) -> str:
    return str(scrubbed(pl.Series("text", [text]))[0][0])


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_what_has_a_form_is_found(kind: str, value: str) -> None:
    text = scrub(f"The tumor, {value}; the margin.")
    assert value not in text
    assert text.startswith("The tumor, ")
    assert text.endswith("; the margin.")
    assert f"[{kind}]" in text


@pytest.mark.parametrize("text", STAYS)
def test_findings_stay(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.parametrize("label", ["MRN: {}", "Medical Record No. {}", "Acct # {}", "Patient ID {}", "SSN:{}", "Hosp. No: {}"])
def test_labelled_numbers_are_found_and_the_label_stays(label: str) -> None:
    assert scrub(label.format("A-4711")) == label.format("[record]")


@pytest.mark.parametrize(("text", "expected"), NAMES.items())
def test_names_by_their_neighbours(text: str, expected: str) -> None:
    assert scrub(text) == expected


def test_known_identifiers_and_longer_barcodes_are_found() -> None:
    texts, counts = scrubbed(pl.Series(["See tcga_02_0001-01Z and P17AB25.", None, "see it"]), {"TCGA-02-0001", "P17AB2"})
    assert texts.to_list() == ["See [identifier] and P17AB25.", None, "see it"]
    assert counts["identifier"] == 1


def test_tags_that_were_there_are_not_counted() -> None:
    assert scrubbed(pl.Series(["[date] and 5/12/2003"]))[1]["date"] == 1


@pytest.mark.parametrize(
    ("text", "is_day_first", "expected"),
    [
        ("on 5/12/2003.", False, "on [date 2003-05-22]."),
        ("on 5/12/2003.", True, "on [date 2003-12-15]."),
        ("on 25/12/2003.", False, "on [date 2004-01-04]."),
        ("2003-12-30 and 30 Dec 1999", False, "[date 2004-01-09] and [date 2000-01-09]"),
        ("Dec. 30, 03 or June 2012", False, "[date 2004-01-09] or [date]"),
        ("l2/O5/2OO3", False, "[date]"),
        ("31.02.2003", True, "[date]"),
    ],
)
def test_dates_move(text: str, is_day_first: bool, expected: str) -> None:
    assert moved_dates(text, 10, is_day_first=is_day_first) == expected


def test_time_goes_with_the_length_of_the_text() -> None:
    for unit in ("1/", "1-", "Dr. ", "A ", "(", "Smith, J. ", "patient: ", "a@", "III 111 "):
        start = time.perf_counter()
        scrub(unit * 100_000)
        assert time.perf_counter() - start < 20, unit


def test_a_few_planted_reports_are_clean() -> None:
    rng = random.Random(1)
    reports = [planted_report(rng, FORMS) for _ in range(30)]
    texts, _ = scrubbed(pl.Series([report.text for report in reports]))
    for report, text in zip(reports, texts, strict=True):
        assert report.findings in text
        assert [value for _, value in report.planted if value in text.replace(report.findings, "")] == []
