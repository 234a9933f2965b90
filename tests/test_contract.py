"""Contracts: the shipped ones load, a wrong one is refused with the file and the field named, and no file crashes the loader."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.contract import load_contract, load_contracts
from feature_store.errors import ContractError, LandingMissingError, MiceError

COHORTS = Path(__file__).parents[1] / "cohorts"
SYNTHETIC = (COHORTS / "synthetic.yaml").read_text("utf-8")


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def edited(folder: Path, field: str, value: object) -> Path:
    """Write the synthetic contract with one field set; `field` is a dotted path, list positions as numbers."""
    document = yaml.safe_load(SYNTHETIC)
    *parents, last = field.split(".")
    node = document
    for key in parents:
        node = node[int(key)] if key.isdigit() else node[key]
    node[last] = value
    return written(folder, yaml.safe_dump(document))


@pytest.mark.parametrize("path", sorted(COHORTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_contracts_load(path: Path) -> None:
    contract = load_contract(path)
    assert contract.name == path.stem
    assert contract.licence
    assert contract.citation


def test_each_cohort_has_one_contract() -> None:
    by_cohort = load_contracts(COHORTS)
    assert by_cohort["synthetic"].name == "synthetic"
    assert sum(contract.name == "tcga" for contract in by_cohort.values()) == 33


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LandingMissingError, match=r"nothing\.yaml"):
        load_contract(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("tpyo", 1, "tpyo: Extra inputs"),
        ("cases.tpyo", 1, r"cases\.tpyo: Extra inputs"),
        ("name", None, "name: Input should be a valid string"),
        ("name", "../other", "name: String should match"),
        ("name", ".", "name: String should match"),
        ("cohorts", [], "cohorts: Tuple should have at least 1"),
        ("cohorts", [False], r"cohorts\.0: Input should be a valid string"),
        ("max_quarantined_fraction", 5, "max_quarantined_fraction: Input should be less than"),
        ("case_id.pattern", "SYN-[", r"case_id\.pattern: .*no regular expression"),
        ("case_id.pattern", "(?=S)SYN.*", r"case_id\.pattern: .*no pattern for values"),
        ("cases.path", "/etc/passwd", r"cases\.path: .*no path below the landing folder"),
        ("cases.path", "../clinical.csv", r"cases\.path: .*no path below the landing folder"),
        ("cases.path", "a**/clinical.csv", r"cases\.path: .*no path below the landing folder"),
        ("cases.site.extract", "SYN", r"cases\.site\.extract: .*exactly one group"),
        ("cases.site.extract", "(S)(Y)", r"cases\.site\.extract: .*exactly one group"),
        ("cases.site.extract", "(S", r"cases\.site\.extract: .*no regular expression"),
        ("cases.site.extract", "(?!S)(Y)", r"cases\.site\.extract: .*no pattern for values"),
        ("cases.cohort", {"columns": []}, r"cases\.cohort\.columns: Tuple should have at least 1"),
        ("cases.cohort", {"columns": ["a"], "map": {}}, r"cases\.cohort\.map\.?.*at least 1"),
        ("cases.cancer_type", {"columns": ["a"], "lower": True, "map": {"A": "a"}}, r"cases\.cancer_type: .*exclude each other"),
        ("cases.fills_gaps", True, r"cases\.fills_gaps: Extra inputs"),
        ("rna.0.fills_gaps", True, r"rna\.0\.case_table\.fills_gaps: Extra inputs"),
        ("rna.0.features", ".+_rnaseq", r"rna\.0\.case_table\.features: .*exactly one group"),
        ("clinical.columns.vital_status", {"columns": ["a"]}, r"clinical\.columns: .*vital_status.*no baseline columns"),
        ("clinical.columns.case_id", {"columns": ["a"]}, r"clinical\.columns: .*case_id.*no baseline columns"),
        ("endpoints.endpoints.relapse", {}, r"endpoints\.endpoints\.relapse"),
        ("endpoints.endpoints.os.unit", "weeks", r"endpoints\.endpoints\.os\.unit: Input should be 'days', 'months' or 'years'"),
        ("endpoints.endpoints.os.events", {0: False}, r"endpoints\.os\.events"),
        ("slides.0.layout", "svs", r"slides\.0: .*slide_table"),
        ("slides.0.files", "slides/{slide}.h5", r"slides\.0\.slide_table\.files: .*expected: {slide_id}"),
        ("slides.0.files", "slides/{slide_id.h5", r"slides\.0\.slide_table\.files: "),
        ("slides.0.files", "slides/{slide_id!r}.h5", r"slides\.0\.slide_table\.files: .*expected: {slide_id}"),
        ("slides.0.encoder.dim", 0, r"slides\.0\.slide_table\.encoder\.dim: Input should be greater"),
        ("splits.0.num_folds", 1, r"splits\.0\.random\.num_folds: Input should be greater"),
        ("splits.0.kind", "given", r"splits\.0\.given\.path: Field required"),
        ("splits.0.kind", "by eye", r"splits\.0: .*random.*site_preserved.*given"),
        ("splits.1.name", "synthetic-3fold", r"splits \['synthetic-3fold'\] have the same name"),
        ("splits", [], "splits: Tuple should have at least 1"),
        ("split", {"kind": "given"}, "split and splits exclude each other"),
        ("cases.site", None, r"a site_preserved split needs cases\.site"),
        (
            "aliases",
            [{"path": "a.csv", "case_id": {"column": "a"}, "alias": {"column": "b"}}],
            r"aliases\.0\.source: Field required",
        ),
        (
            "follow_up",
            {"path": "a.csv", "case_id": {"column": "a"}, "columns": {"sex": {"columns": ["b"]}}},
            r"follow_up\.columns: .*\['sex'\] are no post_treatment columns of follow_up, expected .*'treatment_response'",
        ),
        ("cases.separator", "::", r"cases\.separator: String should match"),
        ("cases.decimal", ";", r"cases\.decimal: Input should be '\.' or ','"),
        ("cases.encoding", "base64", r"cases\.encoding: .*no text encoding"),
        ("cases.encoding", "utf-9", r"cases\.encoding: .*no text encoding"),
        ("cases.comment", "", r"cases\.comment: String should have at least 1"),
        ("cases.where", {"kind": []}, r"cases\.where\.kind: Value should have at least 1"),
        ("cases.nested", {"visits": []}, r"cases\.nested\.visits"),
        ("cases.nested", {"a": "all", "a.b": "all"}, r"cases: .*nested: \['a\.b in a'\]"),
        ("cases.pick", [{"column": "a"}], r"cases\.pick\.0: .*either prefer or order"),
        ("cases.pick", [{"column": "a", "prefer": ["b"], "order": "first"}], r"cases\.pick\.0: .*either prefer or order"),
        ("cases.pick", [{"column": "a", "order": "best"}], r"cases\.pick\.0\.order: Input should be 'lowest'"),
        ("cases.cohort_from_path", {"extract": "[A-Z]+"}, r"cases\.cohort_from_path\.extract: .*exactly one group"),
        ("clinical.columns.sex.unit", "days", r"clinical\.columns: .*\['sex'\] have no unit of time"),
        ("clinical.columns.diagnosis_year.unit", "years", r"clinical\.columns: .*\['diagnosis_year'\] have no unit of time"),
        ("clinical.columns.age_at_diagnosis_years.unit", "weeks", r"age_at_diagnosis_years\.unit: Input should be 'days'"),
        ("endpoints.endpoints.os.unit", None, r"endpoints\.os: .*unit is needed with columns"),
        ("endpoints.endpoints.os.duration", {"columns": []}, r"os\.duration: .*either columns, or all of from, to and format"),
        ("endpoints.endpoints.os.duration", {"from": "a", "to": "b"}, r"os\.duration: .*either columns, or all of"),
        (
            "endpoints.endpoints.os.duration",
            {"from": "a", "to": "b", "format": "%d.%m."},
            r"os\.duration\.format: .*no format of a date",
        ),
        (
            "endpoints.endpoints.os.duration",
            {"from": "a", "to": "b", "format": "%d.%m.%Y"},
            r"os: .*unit is needed with columns, and with columns only",
        ),
        ("endpoints.follow_up_end", {"unit": "days"}, r"follow_up_end: .*either date or column"),
        ("endpoints.follow_up_end", {"date": "2018-12-31"}, r"follow_up_end: .*column and unit, or from and format"),
        (
            "endpoints.follow_up_end",
            {"column": "a", "unit": "days", "from": "b", "format": "%Y-%m-%d"},
            r"follow_up_end: .*column and",
        ),
        ("endpoints.follow_up_end", {"date": "soon", "from": "b", "format": "%Y-%m-%d"}, r"follow_up_end\.date: Input should be"),
        (
            "endpoints.suitability",
            {"citation": "x", "notes": [{"endpoints": ["os"], "suitability": "fine", "note": "y"}]},
            r"suitability\.notes\.0\.suitability: Input should be 'recommended'",
        ),
        (
            "endpoints.suitability",
            {"citation": "x", "notes": [{"endpoints": ["os", "os"], "suitability": "caution", "note": "y"}]},
            r"suitability: .*\('all', 'os'\).*several notes",
        ),
        ("rna.0.layout", "star", r"rna\.0: .*'case_table', 'sample_files'"),
        ("rna.0.layout", ["star"], r"rna\.0: "),
        ("rna.0.layout", "sample_files", r"rna\.0\.sample_files\.gene: Field required"),
        ("rna.0.plausible", [5, -5], r"rna\.0\.case_table: .*no range"),
        ("rna.0.transform", "log", r"rna\.0\.case_table\.transform: Input should be 'none' or 'log2p1'"),
        ("rna.0.gene_names", {"from": "a", "to": "b"}, r"rna\.0\.case_table: .*gene_names needs a path"),
        ("reports.0.layout", "pdf", r"reports\.0: .*'report_table', 'documents'"),
        ("mutations.0.layout", "maf", r"mutations\.0: .*'variant_table', 'variant_files', 'mutation_matrix'"),
        (
            "clinical.columns.treatment_response",
            {"columns": ["a"]},
            r"clinical\.columns: .*treatment_response.*no baseline columns",
        ),
    ],
)
def test_a_wrong_field_is_refused_and_named(tmp_path: Path, field: str, value: object, named: str) -> None:
    path = edited(tmp_path, field, value)
    with pytest.raises(ContractError, match=named) as raised:
        load_contract(path)
    assert str(path) in str(raised.value)
    assert "docs/cohorts.md" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name: [", "not valid YAML"),
        ("name: a\nname: b\n", r"keys \['name'\] given twice"),
        (SYNTHETIC.replace("grade: {", "stage: {"), r"keys \['stage'\] given twice"),
        ("date: 2001-99-99", "not valid YAML"),
        ("n: !!int ''", "not valid YAML"),
        ("n: !!bool maybe", "not valid YAML"),
        ("n: !!timestamp soon", "not valid YAML"),
        ("n: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("", "file: Input should be a valid dictionary"),
        ("- a\n- b\n", "file: Input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ContractError, match=named) as raised:
        load_contract(written(tmp_path, text))
    assert "mine.yaml" in str(raised.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(ContractError, match=r"mine\.yaml: not valid YAML"):
        load_contract(path)


@pytest.mark.parametrize("files", ["data.tsv", "{}", "{path!r}", "{path:>9}", "{path"])
def test_the_place_of_a_cases_file_is_made_of_columns(tmp_path: Path, files: str) -> None:
    source = {"layout": "documents", "path": "files.tsv", "case_id": {"column": "a"}, "files": files}
    with pytest.raises(ContractError, match=r"reports\.0\.documents\.files: "):
        load_contract(edited(tmp_path, "reports", [source]))


def test_two_contracts_for_one_cohort(tmp_path: Path) -> None:
    written(tmp_path, SYNTHETIC, "a.yaml")
    written(tmp_path, SYNTHETIC.replace("name: synthetic\n", "name: other\n"), "b.yaml")
    with pytest.raises(ContractError, match="cohort synthetic: declared by contracts synthetic and other"):
        load_contracts(tmp_path)


def test_two_contracts_of_one_name_would_share_a_staging_folder(tmp_path: Path) -> None:
    written(tmp_path, SYNTHETIC, "a.yaml")
    written(tmp_path, SYNTHETIC.replace("cohorts: [synthetic]", "cohorts: [other]"), "b.yaml")
    with pytest.raises(ContractError, match=r"b\.yaml: name synthetic, which .*a\.yaml has too"):
        load_contracts(tmp_path)


def test_one_split_may_be_written_without_a_list(tmp_path: Path) -> None:
    document = yaml.safe_load(SYNTHETIC)
    several = document.pop("splits")
    document["split"] = several[0]
    (split,) = load_contract(written(tmp_path, yaml.safe_dump(document))).splits
    assert (split.kind, split.name, split.num_folds) == ("random", "synthetic-3fold", 3)


def test_a_quote_in_a_cohort_is_a_name_like_any_other(tmp_path: Path) -> None:
    contract = load_contract(edited(tmp_path, "cohorts", ["O'Brien's \"cohort\""]))
    assert contract.cohorts == ("O'Brien's \"cohort\"",)


def leaves(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(leaf for key, value in items for leaf in leaves(value, (*path, key)))]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["(", "{x}", "**", "a{99999}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
FUZZ = settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loads_or_is_refused(path: Path) -> None:
    try:
        load_contract(path)
    except MiceError as error:
        refusal = str(error)
    else:
        return
    assert str(path) in refusal


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@FUZZ
@given(place=st.sampled_from(leaves(yaml.safe_load(SYNTHETIC))[1:]), value=VALUES)
def test_fuzzed_fields_give_typed_errors_only(tmp_path: Path, place: tuple[str | int, ...], value: object) -> None:
    document = yaml.safe_load(SYNTHETIC)
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    loads_or_is_refused(written(tmp_path, yaml.safe_dump(document, allow_unicode=True)))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # patterns like [--a]
@FUZZ
@given(
    start=st.integers(0, len(SYNTHETIC)),
    length=st.integers(0, 40),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["!!int ", "&a *a", "<<: ", "- ", ": ", "\t"]),
)
def test_fuzzed_text_gives_typed_errors_only(tmp_path: Path, start: int, length: int, text: str) -> None:
    loads_or_is_refused(written(tmp_path, SYNTHETIC[:start] + text + SYNTHETIC[start + length :]))


@FUZZ
@given(data=st.binary(max_size=200))
def test_fuzzed_bytes_give_typed_errors_only(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    loads_or_is_refused(path)
