"""Names of genes: identifiers become symbols by a declared table; what has no name of its own is left out, and counted."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table

import sql
from feature_store.analyst import analyst_connection
from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.contract.rules import GeneNames
from feature_store.errors import ColumnMissingError, ContractError, LandingMissingError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort

RULE = GeneNames(**{"from": "ensembl", "to": "symbol"}, path="names.csv", strip_version=True)
VERSIONED = "ENSG{:011}.{}"


def identifiers(landing: Path) -> dict[str, str]:
    """Return symbol -> the identifier that `as_ensembl` gives it."""
    genes = [name.removesuffix("_rnaseq") for name in read_table(landing / "rna.csv.gz").columns if name != "case_id"]
    return {gene: VERSIONED.format(index, 1 + index % 7) for index, gene in enumerate(genes)}


def as_ensembl(frame: pl.DataFrame) -> pl.DataFrame:
    genes = [name for name in frame.columns if name != "case_id"]
    return frame.rename({gene: f"{VERSIONED.format(index, 1 + index % 7)}_rnaseq" for index, gene in enumerate(genes)})


def table(pairs: list[tuple[str, str]], landing: Path, columns: tuple[str, str] = ("ensembl", "symbol")) -> None:
    pl.DataFrame(pairs, schema=list(columns), orient="row").write_csv(landing / "names.csv")


@pytest.fixture
def read(synthetic_contract: Contract, tmp_path: Path) -> Callable[..., Staged]:
    """Stage a landing's RNA with `gene_names`, and nothing else of omics and slides."""

    def make(landing: Path, rule: GeneNames | None = RULE, **changes: object) -> Staged:
        rna = synthetic_contract.rna[0].model_copy(update={"gene_names": rule, **changes})
        nothing: dict[str, tuple[()]] = {"copy_number": (), "mutations": (), "reports": (), "slides": ()}
        return stage(
            synthetic_contract.model_copy(update={"rna": (rna,), **nothing}), landing, Home(tmp_path / "homes" / landing.name)
        )

    return make


def states(staged: Staged) -> dict[str, tuple[str | None, str]]:
    rows = staged.table("feature_mapping").select("feature_found", "feature", "state").rows()
    return {found: (name, state) for found, name, state in rows}


def panel(staged: Staged) -> list[str]:
    return staged.table("gene_panels").sort("position")["feature"].to_list()


def test_ensembl_ids_become_symbols_whatever_their_version(
    corrupt: Corrupt, read: Callable[..., Staged], clean_landing: Path
) -> None:
    landing = corrupt({"rna.csv.gz": as_ensembl})
    ids = identifiers(clean_landing)
    table([(name.split(".")[0] + ".99", gene) for gene, name in ids.items()], landing)
    staged, plain = read(landing), read(clean_landing, None)
    for name in ("rna", "gene_panels", "rna_by_feature"):
        hashed = pl.exclude("source_sha256")
        assert staged.table(name).select(hashed).equals(plain.table(name).select(hashed))
    assert states(staged) == {name: (gene, "mapped") for gene, name in ids.items()}
    assert staged.table("feature_mapping")["panel_id"].unique().to_list() == [panel_id(staged)]
    assert plain.table("feature_mapping").is_empty()
    assert all(check.is_passed for check in audit(staged, "synthetic"))


def panel_id(staged: Staged) -> str:
    return staged.table("gene_panels")["panel_id"].unique().item()


def test_what_has_no_name_of_its_own_is_left_out_and_counted(
    corrupt: Corrupt, read: Callable[..., Staged], clean_landing: Path, caplog: pytest.LogCaptureFixture
) -> None:
    landing = corrupt({"rna.csv.gz": as_ensembl})
    ids = identifiers(clean_landing)
    (a, b, c, d, e, f), kept = list(ids)[:6], list(ids)[6:]
    pairs = [(ids[gene], gene) for gene in kept]
    pairs += [(ids[b], "ONE"), (ids[b], "TWO"), (ids[c], "SAME"), (ids[d], "SAME"), (ids[e], ""), (ids[f], " F "), (ids[f], "F")]
    table(pairs, landing)
    with caplog.at_level(logging.INFO):
        staged = read(landing)
    assert panel(staged) == sorted([*kept, "F"])
    found = states(staged)
    assert found[ids[a]] == found[ids[e]] == (None, "unmapped")
    assert found[ids[b]] == (None, "ambiguous")
    assert found[ids[c]] == found[ids[d]] == ("SAME", "collides")
    assert found[ids[f]] == ("F", "mapped")
    loss = f"{len(ids) - 5} of {len(ids)} features of rna.csv.gz have a name in names.csv; left out: 2 unmapped, 1 ambiguous"
    assert [message for message in caplog.messages if f"{loss}, 2 collide" in message]
    names = read_table(landing / "rna.csv.gz").columns
    row = read_table(landing / "rna.csv.gz").row(3, named=True)
    case = staged.table("rna").filter(pl.col("case_id") == row["case_id"][:11])
    want = [np.float32(row[f"{ids[gene]}_rnaseq"]) for gene in (f if name == "F" else name for name in panel(staged))]
    assert case["values"].item().to_list() == want
    assert len(names) == len(ids) + 1


def test_former_symbols_become_the_approved_ones(corrupt: Corrupt, read: Callable[..., Staged], clean_landing: Path) -> None:
    """A symbol in use needs no entry; one that is another gene's former symbol too could be either."""
    landing = corrupt()
    first, second, third, *rest = sorted(identifiers(clean_landing))
    pairs = [(first, "NEW1"), (second, third), *((f"OLD-{gene}", gene) for gene in [*rest, first])]
    table(pairs, landing, ("former", "approved"))
    rule = GeneNames(**{"from": "former", "to": "approved"}, path="names.csv")
    found = states(read(landing, rule))
    assert found[first] == (None, "ambiguous")
    assert found[second] == found[third] == (third, "collides")
    assert all(found[gene] == (gene, "mapped") for gene in rest)


def test_versions_count_unless_they_are_stripped(corrupt: Corrupt, read: Callable[..., Staged], clean_landing: Path) -> None:
    landing = corrupt({"rna.csv.gz": as_ensembl})
    ids = identifiers(clean_landing)
    (gene, name), *others = ids.items()
    table([(name, gene), *((other.split(".")[0], symbol) for symbol, other in others)], landing)
    strict = RULE.model_copy(update={"strip_version": False})
    assert panel(read(landing, strict)) == [gene]
    assert len(panel(read(landing))) == len(ids)


def test_another_table_is_another_staging_and_a_source_of_the_cohort(
    corrupt: Corrupt, read: Callable[..., Staged], clean_landing: Path
) -> None:
    landing = corrupt({"rna.csv.gz": as_ensembl})
    pairs = [(name, gene) for gene, name in identifiers(clean_landing).items()]
    table(pairs, landing)
    before = read(landing)
    of_all_genes = panel_id(before)
    sources = before.table("sources").filter(pl.col("path") == "names.csv")
    assert sources["cohort"].to_list() == ["synthetic"]
    assert set(before.table("feature_mapping")["source_sha256"]) == set(sources["source_sha256"])
    table(pairs[1:], landing)
    after = read(landing)
    assert after.key != before.key
    assert panel_id(after) != of_all_genes


def test_the_loss_is_a_named_query(corrupt: Corrupt, read: Callable[..., Staged], clean_landing: Path, tmp_path: Path) -> None:
    landing = corrupt({"rna.csv.gz": as_ensembl})
    ids = identifiers(clean_landing)
    lost, *kept = list(ids)
    table([(ids[gene], gene) for gene in kept], landing)
    home = Home(tmp_path / "store")
    publish_cohort(Lake(home), read(landing), "synthetic")
    query = sql.load("feature_mapping_loss")
    with analyst_connection(home) as analyst:
        (row,) = analyst.query(query.text, query.bind({"cohort": "synthetic"})).to_pylist()
        (named,) = analyst.query("SELECT count(*) AS n FROM gene_expression($gene)", {"gene": kept[0]}).to_pylist()
    assert (row["num_found"], row["num_features"], row["num_unmapped"], row["examples"]) == (len(ids), len(kept), 1, [ids[lost]])
    assert row["share_lost"] == pytest.approx(1 / len(ids))
    assert named["n"] > 0


# --- refusals


def test_a_missing_table_of_names(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    with pytest.raises(LandingMissingError, match=r"no file matches 'names\.csv'"):
        read(corrupt())


def test_a_missing_column_of_names(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    landing = corrupt()
    table([("a", "b")], landing, ("ensembl", "hgnc"))
    with pytest.raises(ColumnMissingError, match=r"source names\.csv: no column \['symbol'\]"):
        read(landing)


def test_names_for_nothing_in_the_file(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    landing = corrupt()
    table([("ENSG1", "X")], landing)
    with pytest.raises(ContractError, match=r"rna\.csv\.gz: none of \d+ features has a name of its own in names\.csv, expected"):
        read(landing)


def test_several_tables_of_names(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    landing = corrupt()
    table([("ENSG1", "X")], landing)
    (landing / "names-2.csv").write_bytes((landing / "names.csv").read_bytes())
    with pytest.raises(ContractError, match=r"gene_names.path 'names\*.csv': 2 files, expected one"):
        read(landing, RULE.model_copy(update={"path": "names*.csv"}))


def test_a_contract_says_from_and_to() -> None:
    read = GeneNames.model_validate({"path": "names.csv", "from": "ensembl", "to": "symbol", "strip_version": True})
    assert read == RULE
    with pytest.raises(ValueError, match="from_column"):
        GeneNames.model_validate({"path": "names.csv", "from_column": "ensembl", "to": "symbol"})
