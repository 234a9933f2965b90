"""Pathology reports with identifiers planted in them: made-up people, letterheads and sign-offs, and findings that must stay.

What belongs here: making the texts and remembering what was planted. The scrubbing rules were made with FORMS in view. HELD_OUT
was written when they were finished, and no rule was changed for it: what is found of those says more.
"""

import random
import re
from dataclasses import dataclass
from datetime import date, timedelta

_FIRST = re.findall(
    r"\S+",
    """
    Margaret Harold Yolanda Desmond Priya Tomasz Ingrid Rashid Beatriz Kwame Florence Leopold Mei Ngozi Patrick Svetlana Hiroshi
    Delphine Omar Gertrude Alasdair Consuelo Walter Anneliese Jamal Rosalind Viktor Esther Cormac Lakshmi
    """,
)
_LAST = re.findall(
    r"\S+",
    """
    Okafor Lindqvist Hernandez McAllister O'Donnell Baskerville Nakamura Fitzgerald Petrov Abernathy Vandermeer Castellano
    Thibodeaux Whitfield Goldberg Szymanski Rasmussen Delacroix Mbeki Ferreira Kowalczyk Hutchinson Iyengar Yamaguchi Trevino
    Pennington Bjornsson Achebe Stravinsky Dunleavy Montgomery Rodriguez-Lopez Zhang Nguyen Smith Johnson Williams Garcia Patel
    """,
)
PEOPLE = (*_FIRST, *_LAST)
_STREETS = ("Maple Street", "North Elm Avenue", "Hawthorne Blvd", "Old Mill Road", "Lakeview Drive", "S. Park Ave.")
_TOWNS = ("Springfield, IL 62704", "Dayton OH 45402", "Portland, ME 04101-2245", "Fresno CA 93721")
_HOSPITALS = ("Mercy Valley", "St. Brendan's", "Lakeshore Memorial", "Riverside Methodist")
FINDINGS = """
GROSS DESCRIPTION: Received fresh is a left breast measuring 18.5 x 14.0 x 4.2 cm and weighing 642 grams. A firm mass, 2.4 x 1.9 \
x 1.5 cm, lies at the 10:00 position, 1.2 cm from the deep margin. Blocks 1-4 tumor, 5-8 margins.
MICROSCOPIC DESCRIPTION: Sections show an infiltrating ductal carcinoma, Nottingham grade 2 (3+2+2 = 7 of 9). Mitoses number 12 \
per 10 high power fields. Lymphovascular invasion may be present in block 3.
LYMPH NODES: Metastatic carcinoma in 3 of 14 nodes (3/14); the largest deposit is 6 mm. Levels I and II, 0/5 nodes.
IMMUNOHISTOCHEMISTRY: ER positive (90%), PR positive (75%), HER2 1+, Ki-67 22%, CK7+, CK20-, p53 wild type, CD117 negative.
STAGE: pT2 pN1a MX, AJCC 7th edition. Margins uninvolved by 0.4 cm. Gleason score 3+4=7 involving 15% of 2/12 cores.
FINAL DIAGNOSIS: KIDNEY, RIGHT, RADICAL NEPHRECTOMY: RENAL CELL CARCINOMA, CLEAR CELL TYPE, FUHRMAN GRADE 3, 7.5 CM. TUMOR \
EXTENDS INTO THE RENAL SINUS FAT. URETERAL AND VASCULAR MARGINS ARE NEGATIVE. SEE COMMENT.
COMMENT: The tumor cells are arranged in nests and cords, with moderate atypia. A 62 year old with a 30 pack-year history. \
Breslow depth 1.35 mm, Clark level IV, no ulceration. Ratio 1:20; dilution 1:500.
""".strip().split("\n")
# One form to a paragraph. A place in braces is filled with a value of its kind; p_first, p_last and mrn are the patient's.
FORMS = """
PATIENT: {p_last}, {p_first}   MRN: {mrn}   DOB: {date}
ACCESSION #: {accession}   COLLECTED: {date} {time}

Patient Name: {p_first} {p_last}
Medical Record No. {mrn}
Date of Birth: {date}  Sex: F
Specimen #: {accession}

Name: {p_last}, {p_first} {initial}.  Hosp. No: {mrn}  Path #: {accession}
Received: {date}  Reported: {date}

SURGICAL PATHOLOGY REPORT
{p_last}, {p_first}
Patient: {p_first} {p_last} ({age} year old female)
Phone: {phone}

Mr. {p_last} is a {age}-year-old man referred by Dr. {first} {last} on {date}. SSN {ssn}.

Mrs. {p_first} {p_last}, aged {age}, of {street}, {town}, tel. {phone}.

Clinical history: seen by Dr. {last} on {date}; prior biopsy {accession} dated {date}.

Electronically signed by {first} {initial}. {last}, M.D. on {date} at {time}

Dictated by: Dr. {last}  Transcribed: {date} {time}
Pathologist: {first} {last}, MD, PhD

Attending: {last}, {first}
Surgeon: Dr. {first} {last}
cc: {first} {last}, M.D.

The results were discussed with Dr. {last} by phone ({phone}) at {time} on {date}.

Slides reviewed in consultation; outside case number {accession}. Reported to Dr. {last}, {email}.

Account #: {mrn}  Visit No: {mrn}  Ordering MD: {last}
Call {phone} with questions. Fax: {phone}

Signed out by {first} {last}, D.O., pager {pager}
*** Report electronically signed {date} ***

Specimen received from {hospital} Hospital, {street}, {town}.
Requested by: {first} {last}

Patient ID: {mrn}. Next of kin: {first} {last}, {phone}.

Frozen section called to Dr. {last} at {time}. Gross performed by {first} {last}, PA-C.

Referring physician: {first} {initial} {last}; see https://portal.example.org/patient/{mrn}

RE: {p_last}, {p_first}; Chart No {mrn}; born {date}; case {accession}

Thank you for referring Ms. {p_last} to us. She can be reached at {phone} or {email}.

{first} {last}, MD, FCAP
Director of Anatomic Pathology
{street}
{town}

Prior material ({accession}, {hospital} Medical Center, {date}) was reviewed by Dr. {first} {last}.

Signature: {first} {last}, M.D. ({date})
Resident: Dr. {last}

PT NAME: {p_last}, {p_first}  UNIT #: {mrn}  RM: 412  DATE OF SURGERY: {date}

The {age} y/o patient, Mr. {p_first} {p_last}, underwent resection on {date}.

Verified by: {last}, {first} at {time} on {date}
Lab No: {accession}

Requisition {mrn}; insurance ID {ssn}; physician {first} {last} MD

Outside slides labelled {accession} with the name {p_last}, dated {date}, are received.

Subject: {p_first} {p_last} / {mrn} / {date}

Requesting provider {first} {last}, MD
Collection date {date}, received {date} {time}

Case reviewed at tumor board with Drs. {last} and {last} on {date}.

{p_last}, {p_first} ({mrn}) {date}
Patient is a {age} yr old woman. Ms. {p_last} was admitted {date}.

Histotechnologist: {first} {last}   Gross dictation: {first} {last}, PA-C   {date}

Report to: {first} {last}, M.D., {street}, {town}. Fax {phone}

Addendum ({date}): additional levels of {accession} were examined by Dr. {last}.

Father of Mr. {p_last}, {first} {last}, gave consent by telephone, {phone}.

Hospital number {mrn}; specimen number {accession}; taken {date} by Dr {first} {last}

Released by {last}, {first} {initial}., M.D., Ph.D. ({email}), {date} {time}
""".strip().split("\n\n")
HELD_OUT = """
Acct {mrn} / {p_last} {p_first} / adm {date} / dis {date}

Intraoperative consultation was given to the operating surgeon, Dr. {first} {last}, at {time}.

PATIENT INFORMATION  Name: {p_first} {p_last}  Age: {age}  Record: {mrn}  Collected: {date}

Outside consultant {first} {last}, M.D. ({hospital} Hospital) agrees; see letter of {date}.

Previous specimens: {accession} ({date}), {accession} ({date}).

Mrs {p_last} telephoned on {date} from {phone}; her daughter {first} {last} was present.

Slides and report mailed to {first} {last} MD, {street}, {town} on {date}.

Final report verified {date} {time}: {last}, {first} MD

This {age} yo lady was seen by Prof. {last} in the {hospital} Clinic on {date}.

Microscopy by {first} {last}. Checked: {first} {last}, FRCPath. Lab ref {accession}.

Contact: {first} {last}, RN, ext. {pager}; home phone {phone}

Case discussed between {first} {last} and Dr. {last}. E-mail {email}.
""".strip().split("\n\n")


@dataclass(frozen=True)
class PlantedReport:
    """A report: its text, the (kind, value) pairs planted in it, and the findings that say nothing of anybody."""

    text: str
    planted: tuple[tuple[str, str], ...]
    findings: str


def planted_report(rng: random.Random, forms: list[str], *, is_ocr: bool = False) -> PlantedReport:
    """Make a report of three of the forms around findings; `is_ocr`: with the mistakes that OCR makes."""
    patient = {"p_first": rng.choice(_FIRST), "p_last": rng.choice(_LAST), "mrn": _value(rng, "mrn")}
    planted: list[tuple[str, str]] = []
    written = []
    for form in rng.sample(forms, 3):
        text, found = _filled(rng, form, patient, is_capitals=rng.random() < 0.25, is_ocr=is_ocr)
        written.append(text)
        planted += found
    findings = "\n".join(rng.sample(FINDINGS, 4))
    return PlantedReport(f"{written[0]}\n{written[1]}\n{findings}\n{written[2]}\n", tuple(planted), findings)


def _filled(
    rng: random.Random, form: str, patient: dict[str, str], *, is_capitals: bool, is_ocr: bool
) -> tuple[str, list[tuple[str, str]]]:
    """Fill the places of a form, and return what was planted."""
    parts, planted = [], []
    for number, piece in enumerate(re.split("[{}]", form)):
        is_place = number % 2 == 1
        text = patient.get(piece) or _value(rng, piece) if is_place else piece
        text = text.upper() if is_capitals else text
        if is_ocr:
            text = _confused(rng, text) if piece in _NUMBERS else text if is_place else _smudged(rng, text)
        parts.append(text)
        if is_place and piece not in {"initial", "time", "town"}:
            planted.append((piece, text))
    return "".join(parts), planted


_NUMBERS = frozenset({"mrn", "date", "accession", "phone", "ssn"})


def _value(rng: random.Random, kind: str) -> str:
    """Return a value of a kind, in one of the ways in which such values are written."""
    day = date(rng.randint(1996, 2014), 1, 1) + timedelta(days=rng.randint(0, 364))
    year = f"{day.year % 100:02d}"
    spelled = {
        "first": _FIRST,
        "last": _LAST,
        "initial": "ABCDEFGHJKLMNPRSTW",
        "mrn": ("#######", "########", "###-##-###", "E#########", "00######"),
        "accession": (f"S{year}-#####", f"SP-{year}-####", f"{year}-######", f"HS{year}:#####"),
        "phone": ("(312) 555-####", "312-555-####", "312.555.####", "312 555 ####", "+1 312 555 ####"),
        "time": ("1:3# PM", "11:0# am", "1#:3#"),
        "pager": ("#####",),
        "ssn": ("4##-##-####",),
        "age": tuple(map(str, range(90, 103))),
        "street": tuple(f"{rng.randint(10, 9999)} {street}" for street in _STREETS),
        "town": _TOWNS,
        "email": tuple(f"{name.lower().replace(chr(39), '')}@pathlab.example.org" for name in _LAST),
        "hospital": _HOSPITALS,
        "date": ("%m/%d/%Y", "%m/%d/%y", "%m-%d-%Y", "%Y-%m-%d", "%B %d, %Y", "%d %b %Y", "%d-%b-%y", "%b. %d, %Y", "%d.%m.%Y"),
    }
    chosen = day.strftime(rng.choice(spelled[kind]))
    return re.sub("#", lambda _: rng.choice("0123456789"), chosen)


def _confused(rng: random.Random, value: str) -> str:
    """Put a letter for a 0 or 1 here and there."""
    return "".join({"0": "O", "1": "l"}[sign] if sign in "01" and rng.random() < 0.4 else sign for sign in value)


def _smudged(rng: random.Random, text: str) -> str:
    """Put spaces before signs here and there."""
    for sign, smudge in ((". ", " . "), (", ", " , "), (": ", " : ")):
        text = text.replace(sign, smudge) if rng.random() < 0.5 else text
    return text
