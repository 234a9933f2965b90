"""De-identification of a contract: pseudonyms and their key, values, what is said, erasure. Slides: test_deidentify_slides.py."""

import io
import json
import logging
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Corrupt
from ingesting import changed, first_case

from feature_store.contract import Contract
from feature_store.contract.deidentify import Deidentify
from feature_store.contract.rules import Identifier, Value
from feature_store.contract.sources import AliasSource
from feature_store.deidentify import Deidentifier, Messages, hidden
from feature_store.deidentify.__main__ import main
from feature_store.deidentify.deidentifier import IDENTIFIERS
from feature_store.deidentify.key import ENVIRONMENT, KEY_NAME, load_key
from feature_store.deidentify.messages import shape
from feature_store.deidentify.pseudonyms import Pseudonyms, PseudonymTombstones
from feature_store.erase import erase_case
from feature_store.erase.identity import is_distinctive
from feature_store.erase.tombstones import mark
from feature_store.errors import ColumnMissingError, DeidentifyError, SourceFormatError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, landing_files, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.tables import CLINICAL, COHORT_TABLES, ENDPOINTS

KEY = bytes(range(32))
# What a key column may hold that is no identifier of anybody or anything of a source.
VOCABULARY = {
    "cohort", "project_id", "cancer_type", "source", "endpoint", "panel_id", "modality", "feature", "feature_lookup",
    "feature_found", "gene_symbol", "encoder", "split", "table_name",
}  # fmt: skip
Read = Callable[..., Staged]


@pytest.fixture(autouse=True)
def _no_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def keyed(tmp_path: Path) -> Home:
    """A home with a known key."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / KEY_NAME).write_bytes(KEY)
    return home


@pytest.fixture
def deidentified(bare: Read, keyed: Home) -> Read:
    """As `bare`, de-identified under a known key; keyword arguments are the rules."""
    return lambda landing, **rules: bare(landing, deidentify=Deidentify.model_validate(rules))


def pseudonym(kind: Any, original: str) -> str:
    return Pseudonyms(KEY).of(kind, original)


# --- the key


def test_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    key = load_key(home)
    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600
    assert load_key(home) == key
    assert load_key(Home(tmp_path / "other")) != key


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(KEY), lambda path: path.write_bytes(b"short")])
def test_lost_other_or_damaged_key_is_an_error(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    load_key(Home(tmp_path))
    spoil(tmp_path / KEY_NAME)
    with pytest.raises(DeidentifyError, match="Restore it from a backup"):
        load_key(Home(tmp_path))


def test_environment_names_the_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "secret"))
    (tmp_path / "secret").write_bytes(KEY)
    assert load_key(Home(tmp_path / "home")) == KEY
    assert not (tmp_path / "home" / KEY_NAME).exists()
    monkeypatch.delenv(ENVIRONMENT)
    with pytest.raises(DeidentifyError, match="cannot be read"):
        load_key(Home(tmp_path / "home"))


# --- pseudonyms


def test_pseudonyms_have_their_shape_and_can_be_erased() -> None:
    names = Pseudonyms(KEY)
    made = [names.of(kind, f"{n:03d}") for kind in ("case", "slide", "report", "sample", "site", "found") for n in range(200)]
    assert len(set(made)) == len(made)
    assert all(is_distinctive(name) for name in made)
    assert pl.Series(made).str.contains("^[PSRBHX]1-[A-Z2-7]{10}$").all()
    assert names.of("case", made[0]) == made[0]
    assert names.of("case", "001") == Pseudonyms(KEY).of("case", "001") != Pseudonyms(bytes(32)).of("case", "001")


def test_two_originals_of_one_pseudonym_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_store.deidentify.pseudonyms._NUM_CHARACTERS", 1)
    names = Pseudonyms(KEY)
    with pytest.raises(DeidentifyError, match="two different identifiers"):
        names.column("case", pl.Series([str(n) for n in range(40)]))


def test_offset_is_the_cases_own_and_never_nothing() -> None:
    names = Pseudonyms(KEY)
    days = [names.shift_days(f"CASE-{n}", 30) for n in range(500)]
    assert set(days) == set(range(-30, 31)) - {0}
    assert names.shift_days(names.of("case", "CASE-7"), 30) == days[7]


def test_tombstones_count_for_both_names_of_a_person() -> None:
    names = Pseudonyms(KEY)
    marks = frozenset({mark(KEY, "CASE-0001"), mark(KEY, pseudonym("case", "CASE-0002"))})
    tombstones = PseudonymTombstones(marks, KEY, names)
    assert tombstones.erased(["CASE-0001", "CASE-0002", "CASE-0003", None]) == {"CASE-0001", "CASE-0002"}


def test_who_has_the_key_can_translate(
    keyed: Home, dirty_landing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = Path(__file__).parents[1] / "cohorts" / "synthetic.yaml"
    monkeypatch.setattr(sys, "argv", ["deidentify", str(shipped), "--home", str(keyed.root)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(" syn\u2013aa-0001 \n\nSYN-AA-0002\n"))
    assert main() == 0
    assert capsys.readouterr().out.split() == [pseudonym("case", "SYN-AA-0001"), pseudonym("case", "SYN-AA-0002")]


# --- tables


def test_every_column_of_identifiers_is_decided() -> None:
    keys = {c.name for table in COHORT_TABLES for c in table.columns if c.role == "key" and c.sql_type == "VARCHAR"}
    assert keys - VOCABULARY == set(IDENTIFIERS)


def test_tables_are_the_same_under_other_names(deidentified: Read, clean: Staged, clean_landing: Path) -> None:
    staged = deidentified(clean_landing, years="keep")
    for table in COHORT_TABLES:
        expected, found = clean.table(table.name), staged.table(table.name)
        if table.name in {"reports", "sources", "slides", "patch_bags", "modality_matrix"}:
            continue  # the texts are scrubbed; `clean` has slides
        for column, kind in IDENTIFIERS.items():
            if column in expected.columns:
                expected = expected.with_columns(Pseudonyms(KEY).column(kind, expected[column]))
        if table is CLINICAL:
            expected = expected.with_columns(pl.col("age_at_diagnosis_years").clip(upper_bound=90))
        if "feature_lookup" in expected.columns:  # one value per case, in order of the pseudonyms
            expected, found = (frame.with_columns(pl.col("values").list.sort()) for frame in (expected, found))
        keys = list(table.key) or expected.columns
        assert found.sort(keys).equals(expected.sort(keys)), table.name


def test_ingesting_again_gives_the_same_names(deidentified: Read, clean_landing: Path, corrupt: Corrupt) -> None:
    first = deidentified(clean_landing).table("cases")
    again = deidentified(corrupt({"clinical.csv": lambda frame: frame.tail(60)})).table("cases")
    assert set(again["case_id"]) < set(first["case_id"])


def test_one_key_links_a_person_across_contracts(deidentified: Read, bare: Read, keyed: Home, clean_landing: Path) -> None:
    case_id = first_case(clean_landing)
    assert pseudonym("case", case_id) in deidentified(clean_landing).table("cases")["case_id"]
    aliases = clean_landing / "clinical.csv"
    spec = AliasSource(
        path=aliases.name, case_id=Identifier(column="case_id"), alias=Identifier(column="case_id"), source="r", prefix="X"
    )
    linked = bare(clean_landing, deidentify=Deidentify(), aliases=(spec,)).table("case_aliases")
    assert pseudonym("case", f"X{case_id}") in linked["alias"]


def test_ages_over_the_oldest_are_one(deidentified: Read, corrupt: Corrupt) -> None:
    landing = corrupt({"clinical.csv": lambda frame: changed("age_years", "97.5")(frame.with_columns(age_years=pl.lit("90")))})
    staged = deidentified(landing)
    row = staged.table("clinical").filter(pl.col("case_id") == pseudonym("case", first_case(landing)))
    assert row["age_at_diagnosis_years"].item() == 90
    about = json.loads((staged.folder / "about.json").read_text("utf-8"))
    assert about["deidentified"]["ages capped"] == 1


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"years": "drop"}, None),
        ({"years": "keep"}, 2013),
        ({"years": "generalise", "year_step": 10}, 2010),
        ({"years": "shift", "most_shift_days": 3650}, None),
    ],
)
def test_years_become_what_is_declared(deidentified: Read, corrupt: Corrupt, rules: dict[str, Any], expected: int | None) -> None:
    landing = corrupt({"clinical.csv": changed("diagnosis_year", "2013")})
    case_id = first_case(landing)
    clinical = deidentified(landing, **rules).table("clinical").filter(pl.col("case_id") == pseudonym("case", case_id))
    found = clinical["diagnosis_year"].item()
    if rules["years"] == "shift":
        days = Pseudonyms(KEY).shift_days(case_id, 3650)
        assert abs(found - 2013 - days / 365.25) <= 1
    else:
        assert found == expected


@pytest.mark.parametrize(("years", "expected"), [("keep", 900.0), ("drop", None), ("shift", None), ("generalise", None)])
def test_time_to_the_end_of_follow_up_goes_with_the_years(
    keyed: Home, synthetic_contract: Contract, tmp_path: Path, years: str, expected: float | None
) -> None:
    contract = synthetic_contract.model_copy(update={"deidentify": Deidentify.model_validate({"years": years})})
    deidentifier = Deidentifier.of(contract, tmp_path, keyed)
    assert deidentifier is not None
    row = ("SYN-AA-0001", "synthetic", "os", 800.0, True, 900.0, "0" * 64)
    done = deidentifier.applied({"endpoints": pl.DataFrame([row], schema=ENDPOINTS.schema, orient="row")}, {})["endpoints"]
    assert done.row(0) == (pseudonym("case", row[0]), *row[1:5], expected, row[6])


def test_texts_are_scrubbed_and_counted(deidentified: Read, corrupt: Corrupt) -> None:
    text = "Dr. Okafor saw {} on 5/12/2003; MRN 1234567. Infiltrating ductal carcinoma, grade 2, of the left breast."
    landing = corrupt({"reports.csv": lambda frame: frame.with_columns(text=pl.format(text, "case_id"))})
    staged = deidentified(landing)
    reports = staged.table("reports")
    expected = "Dr. [name] saw [identifier] on [date]; MRN [record]. Infiltrating ductal carcinoma, grade 2, of the left breast."
    assert reports["text"].unique().to_list() == [expected]
    assert reports["num_characters"].unique().to_list() == [len(expected)]
    counts = json.loads((staged.folder / "about.json").read_text("utf-8"))["deidentified"]
    assert {counts[kind] for kind in ("name", "identifier", "date", "record")} == {reports.height}


def test_dates_in_texts_move_with_the_case(deidentified: Read, corrupt: Corrupt) -> None:
    text = pl.lit("Received on 5/12/2003, reported on 5/14/2003. Infiltrating ductal carcinoma of the left breast.")
    reports = deidentified(corrupt({"reports.csv": lambda frame: frame.with_columns(text=text)}), report_dates="shift").table(
        "reports"
    )
    dates = reports["text"].str.extract_all(r"\[date (\d{4}-\d\d-\d\d)\]").list.eval(pl.element().str.slice(6, 10).str.to_date())
    frame = pl.DataFrame({"case_id": reports["case_id"], "first": dates.list.get(0), "second": dates.list.get(1)})
    assert ((frame["second"] - frame["first"]).dt.total_days() == 2).all()
    assert frame.group_by("case_id").agg(pl.col("first").n_unique())["first"].max() == 1
    assert frame["first"].n_unique() > 10


def test_known_names_are_looked_for_anywhere(deidentified: Read, corrupt: Corrupt) -> None:
    text = "Margaret Lindqvist kindly sent this invasive ductal carcinoma; LINDQVIST agrees with the margins as they were stated."
    landing = corrupt({"reports.csv": lambda frame: frame.with_columns(text=pl.lit(text))})
    (landing / "names.txt").write_text("Lindqvist, Margaret\nOkafor\n", encoding="utf-8")
    assert "Lindqvist" in deidentified(landing).table("reports")["text"][0]
    found = deidentified(landing, names="names.txt").table("reports")["text"][0].lower()
    assert "lindqvist" not in found
    assert "margaret" not in found
    assert "margins" in found


def test_identifiers_in_a_column_that_is_not_for_them_are_refused(
    bare: Read, clean_landing: Path, synthetic_contract: Contract
) -> None:
    cases = synthetic_contract.cases.model_copy(update={"project_id": Value(columns=("case_id",))})
    with pytest.raises(DeidentifyError, match="table cases, column project_id: 80 identifiers") as raised:
        bare(clean_landing, deidentify=Deidentify(), cases=cases)
    assert first_case(clean_landing) not in str(raised.value)


# --- what is said


def test_rejected_rows_say_shapes(deidentified: Read, corrupt: Corrupt) -> None:
    edits = [changed("stage", "Dr. Okafor", at=0), changed("case_id", "SYN-AA-17X", at=1)]
    landing = corrupt({"clinical.csv": lambda frame: edits[1](edits[0](frame))})
    rows = deidentified(landing).table("quarantine").filter(pl.col("table_name").is_in(["clinical", "cases"]))
    found = rows.select("table_name", "case_id_found", "found", "reason").sort("table_name").rows()
    stage_reason, id_reason = (
        "stage: value has no declared mapping or is out of range",
        "identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}",
    )
    assert found == [
        ("cases", pseudonym("found", "SYN-AA-17X"), "AAA-AA-99A", id_reason),
        ("clinical", pseudonym("case", first_case(landing)), "Aa. Aaaaaa", stage_reason),
    ]


def test_errors_and_log_lines_name_nobody(
    deidentified: Read, corrupt: Corrupt, clean_landing: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "feature_store")
    cell = f"Dr. Okafor, {first_case(clean_landing)}"
    with pytest.raises(SourceFormatError, match=r"holds 'Aa\. Aaaaaa, AAA-AA-9999'") as raised:
        deidentified(corrupt({"copy_number.csv": changed("1p", cell)}))
    assert raised.value.__context__ is raised.value.__cause__ is None
    with pytest.raises(ColumnMissingError, match="'aaa_aaaaaa'"):
        deidentified(
            corrupt(
                {
                    "clinical.csv": lambda frame: frame.rename({"OS.time": "mei_okafor"}).select(
                        "mei_okafor", pl.all().exclude("mei_okafor")
                    )
                }
            )
        )
    assert "Okafor" not in caplog.text
    assert first_case(clean_landing) not in caplog.text


def test_files_that_the_contract_does_not_name_go_by_their_content(
    corrupt: Corrupt, synthetic_contract: Contract, deidentified: Read, bare: Read
) -> None:
    landing = corrupt()
    (landing / "reports.csv").rename(landing / "reports of Mei Okafor.csv")
    reports = tuple(spec.model_copy(update={"path": "reports*.csv"}) for spec in synthetic_contract.reports)
    contract = synthetic_contract.model_copy(update={"reports": reports, "slides": (), "deidentify": Deidentify()})
    (file,) = (file for file in landing_files(contract, landing) if "Okafor" in file.path.name)
    assert file.relative == f"{file.sha256[:12]}.csv"
    staged = bare(landing, reports=reports, deidentify=Deidentify())
    assert {"clinical.csv", file.relative} <= set(staged.table("sources")["path"])


def test_list_of_checksums_is_not_quoted(deidentified: Read, corrupt: Corrupt) -> None:
    landing = corrupt()
    for text in ("Mei Okafor SYN-AA-0001\n", f"{'0' * 64}  clinical.csv\n"):
        (landing / "SHA256SUMS").write_text(text, encoding="utf-8")
        with pytest.raises(SourceFormatError) as raised:
            deidentified(landing)
        assert "Okafor" not in str(raised.value)
        assert "SYN-AA" not in str(raised.value)


def test_messages_keep_what_the_contract_says(synthetic_contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "OKAFOR_MEI.h5").touch()
    messages = Messages(synthetic_contract, tmp_path, {"REG-77123": "P1-AAAAAAAAAA"})
    for said, expected in {
        "source clinical.csv: no column ['OS.time'], 12 rows": "source clinical.csv: no column ['OS.time'], 12 rows",
        "cases ['SYN-AA-0001'] and reg_77123": "cases ['AAA-AA-9999'] and aaa_99999",
        "source slides/OKAFOR_MEI.h5: sha256 12ab34cd56ef": "source slides/AAAAAA_AAA.a9: sha256 99aa99aa99aa",
        "slide S-1: patch's size is 'O''Brien'": "slide A-9: patch's size is 'A''Aaaaa'",
    }.items():
        assert messages.without_identifiers(said) == expected
    assert shape("Müller, 12 µm") == "Aaaaaa, 99 aa"


def test_any_error_is_told_by_shape(synthetic_contract: Contract) -> None:
    def work() -> None:
        raise KeyError("SYN-AA-0001")

    with pytest.raises(DeidentifyError, match=r"KeyError \('AAA-AA-9999'\)") as raised:
        hidden(Messages(synthetic_contract), work)
    assert raised.value.__context__ is None
    with pytest.raises(KeyError, match="SYN-AA-0001"):
        hidden(None, work)


# --- erasing


def test_a_pseudonym_is_erased_and_does_not_come_back(keyed: Home, clean_landing: Path, synthetic_contract: Contract) -> None:
    contract = synthetic_contract.model_copy(update={"slides": (), "deidentify": Deidentify()})
    original = first_case(clean_landing)
    name = pseudonym("case", original)
    publish_cohort(Lake(keyed), stage(contract, clean_landing, keyed), "synthetic")
    assert erase_case(keyed, name).proof.is_clean
    staged = stage(contract, clean_landing, keyed)
    assert staged.table("cases").height == 79
    assert name not in staged.table("cases")["case_id"]
    erased = staged.table("quarantine").filter(pl.col("reason") == "case was erased")
    assert erased["case_id_found"].null_count() == erased.height > 0


# --- the contract


def test_off_by_default_and_only_said_outright(synthetic_contract: Contract) -> None:
    assert synthetic_contract.deidentify is False
    written = synthetic_contract.model_dump(by_alias=True)
    assert Contract.model_validate(written | {"deidentify": {}}).deidentify == Deidentify()
    for wrong in (None, True, {"year": "drop"}, {"years": "hide"}, {"oldest_age_years": 95}, {"names": "../names.txt"}):
        with pytest.raises(ValueError, match="deidentify"):
            Contract.model_validate(written | {"deidentify": wrong})
