"""Reports as encoders get them: OCR mended, identifiers and words about the outcome out, with counts; nothing else touched."""

import re
import time

import pytest

from mice_model.outcome_words import KINDS, OutcomeWords, without_words
from mice_model.report_cleaning import cleaned, prepared


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("in\ufb01ltrating\tductal  carcinoma\r\n\r\nGrade\x0c2", "infiltrating ductal carcinoma Grade 2"),
        ("adeno-\n  carcinoma of T1-\nN0 colon", "adenocarcinoma of T1- N0 colon"),
        ("low\u00adgrade, soft\u200b space", "lowgrade, soft space"),
        ("====== A ------- B ..... C", "= A - B . C"),
        ("UUID: 0F7AA4AA-D1ED-4842-82AD-64F2813454F2 Diagnosis", "Diagnosis"),
        ("III 1l|I III IIII Diagnosis: stage III of IV", "Diagnosis: stage III of IV"),
        ("PAT-12-0007-01A-PR and pat-12-0007: PAT-12-00071", "and : PAT-12-00071"),
        ("", ""),
    ],
)
def test_cleaning(found: str, expected: str) -> None:
    assert cleaned(found, "PAT-12-0007") == expected
    assert cleaned(expected, "PAT-12-0007") == expected  # a second time changes nothing


LATE = {
    "death": [
        "Vital Status: Deceased",
        "date of death: 3/2004",
        "the patient has died",
        "She died of sepsis",
        "dead of disease",
        "Autopsy showed metastases",
        "post-mortem examination",
        "death certificate",
    ],
    "recurrence": [
        "recurrence at 14 months",
        "recurred after 3 years",
        "subsequently metastasized",
        "later developed a local recurrence",
        "disease-free at 24 months",
    ],
    "follow_up": ["last follow-up", "lost to follow up", "alive with disease", "no evidence of disease at last visit",
                  "survived 14 days"],
}  # fmt: skip
AT_TIME_ZERO = [
    "increased cell death (apoptosis)",
    "a prefix designates the stage determined at autopsy: aTNM",
    "an average rate of distant recurrence at 10 years of 9, risk of recurrence within 5 years",
    "BLADDER CANCER RECURRENCE SCORE",
    "consistent with recurrence of glioblastoma",
    "long progression-free survival in some gliomas",
    "close clinical follow-up is indicated",
    "anaplastic progression",
    "HIV Ne alive oPositive",
    "UUID:F7AA4AAE-DIED-4842 of the above died diagnosis",
    "cervix with no evidence of disease.",
    "palliative resection",
]


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind, texts in LATE.items() for words in texts])
def test_words_about_the_outcome_are_found_and_leave_no_mark(kind: str, words: str) -> None:
    text, found = without_words(f"Grade 2 adenocarcinoma. {words}. Margins free.")
    assert found == {kind: 1}
    assert not re.search(
        r"died|dead|deceased|death|autopsy|mortem|recurr|sized|free at|follow|alive|evidence|surviv", text.lower()
    )
    assert text.startswith("Grade 2 adenocarcinoma.")
    assert text.endswith("Margins free.")


@pytest.mark.parametrize("text", AT_TIME_ZERO)
def test_what_a_pathologist_says_at_time_zero_stays(text: str) -> None:
    assert without_words(text) == (text, {})


def test_every_kind_has_words() -> None:
    assert set(LATE) == set(KINDS)


def test_policies_and_counts() -> None:
    reports = ["Died of disease. Case ONE.", None, "Grade 2.", "Vital status: deceased. He died on day 3."]
    masked, flagged = (prepared(reports, ["ONE", "TWO", "THREE", "FOUR"], policy) for policy in ("mask", "flag"))
    assert masked.outcome_words == flagged.outcome_words == OutcomeWords(3, 2, {"death": 3, "recurrence": 0, "follow_up": 0})
    assert masked.num_places == flagged.num_places == (1, 0, 0, 2)
    assert flagged.texts == ("Died of disease. Case .", None, "Grade 2.", "Vital status: deceased. He died on day 3.")
    assert masked.texts[1:3] == (None, "Grade 2.")
    assert not any(word in f"{masked.texts[0]} {masked.texts[3]}".lower() for word in ("died", "deceased", "vital"))
    assert str(masked.outcome_words) == "3 places in 2 reports (death 3, recurrence 0, follow-up 0)"


@pytest.mark.parametrize(
    "text", ["I" * 60_000, "- " * 60_000, "a-\n" * 30_000, "vital status " * 5_000, "has " * 20_000 + "died"]
)
def test_time_goes_with_the_length_of_a_text(text: str) -> None:
    start = time.process_time()
    prepared([text], ["X"], "mask")
    assert time.process_time() - start < 2
