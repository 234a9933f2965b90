"""Where everything about one case came from and went to: rows and their source files, bags, states, rejections, folds, models.

What belongs here: questions to one snapshot, by case. Which networks saw the case is trained_on.py; printing is mice_cli's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from feature_store.errors import CaseMissingError
from feature_store.home import Home
from feature_store.ingest.context import DASHES
from feature_store.ingest.stage import staged_table
from feature_store.lake import Lake
from feature_store.publish import Write, content_sha256
from feature_store.tables import BY_NAME, COHORT_TABLES
from feature_store.trained_on import Trained, models_trained_on

Record = dict[str, object]
# What tells whether a staging folder is what a cohort was published from, without reading its vectors.
_TELLING = ("cases", "sources")
# Identifiers as found may carry another dash or letter case, and a longer barcode (ingest/context.py normalises these).
_NAMES_CASE = f"regexp_matches(upper(regexp_replace(case_id_found, '{DASHES}', '-', 'g')), $pattern)"


@dataclass(frozen=True)
class Lineage:
    """One case in one snapshot; lists of records in the order of their keys.

    `rows`: table, cohort, num_rows, sources (path, source_sha256, num_bytes, contract). `ingests`: per cohort when it was last
    written, under which key and by which version of the ingest code, and the content key (over contract, sources and that code)
    of the staging folder, if it is there.
    """

    case_id: str
    snapshot_id: int
    cases: list[Record]
    ingests: list[Record]
    rows: list[Record]
    bags: list[Record]
    modalities: list[Record]
    quarantined: list[Record]
    folds: list[Record]
    predictions: list[Record]
    trained: list[Trained]


def case_lineage(home: Home, case_id: str, snapshot_id: int | None = None) -> Lineage:
    """Return the lineage of a case, in the newest snapshot or the given one; also if it was only rejected, or only trained on.

    Raises CaseMissingError if no row, published or rejected, and no model's training set names the case.
    """
    lake = Lake(home)
    chosen = max(snapshot.snapshot_id for snapshot in lake.snapshots()) if snapshot_id is None else snapshot_id
    with lake.reader(chosen) as connection:
        of_case = {"case_id": case_id}
        cases = _records(connection, "SELECT * EXCLUDE (source_sha256) FROM cases WHERE case_id = $case_id ORDER BY ALL", of_case)
        cohorts = [str(case["cohort"]) for case in cases]
        # of a known case a longer barcode too (a sample, a slide); else TCGA-02 would name every case of that site
        pattern = f"^[^A-Z0-9]*{re.escape(case_id.upper())}{'($|[^A-Z0-9])' if cases else '[^A-Z0-9]*$'}"
        query = f"SELECT * FROM quarantine WHERE {_NAMES_CASE} ORDER BY ALL"
        quarantined = _records(connection, query, {"pattern": pattern})
        rows = _rows(connection, case_id)
        trained = models_trained_on(home, case_id)
        if not (cases or quarantined or rows or any(model.saw or model.did_not_see for model in trained)):
            raise CaseMissingError(
                f"case {case_id}: no row in snapshot {chosen}, expected one. "
                "Check the identifier: SELECT case_id FROM cases; another snapshot may hold it (mice snapshots)."
            )
        return Lineage(
            case_id=case_id,
            snapshot_id=chosen,
            cases=cases,
            ingests=[_ingest(connection, home, cohort) for cohort in cohorts],
            rows=rows,
            bags=_records(connection, "FROM patch_bags WHERE case_id = $case_id ORDER BY slide_id, encoder", of_case),
            modalities=_records(
                connection,
                "SELECT cohort, modality, state, reason FROM modality_matrix WHERE case_id = $case_id ORDER BY ALL",
                of_case,
            ),
            quarantined=quarantined,
            folds=_records(connection, "SELECT cohort, split, fold FROM folds WHERE case_id = $case_id ORDER BY ALL", of_case),
            predictions=_records(
                connection,
                "SELECT model_version, study, snapshot_id, endpoint, fold, risk_score, encoders FROM predictions "
                "WHERE case_id = $case_id ORDER BY ALL",
                of_case,
            ),
            trained=trained,
        )


def _records(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object]) -> list[Record]:
    found = connection.execute(query, dict(parameters))
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _rows(connection: duckdb.DuckDBPyConnection, case_id: str) -> list[Record]:
    """Count the case's rows by table and cohort, with the files that they were read from."""
    counted: list[Record] = []
    for table in COHORT_TABLES:
        if "case_id" not in {column.name for column in table.columns}:
            continue
        has_source = any(column.name == "source_sha256" for column in table.columns)
        source = "list_distinct(list(source_sha256))" if has_source else "[]::VARCHAR[]"
        counted += _records(
            connection,
            f"SELECT '{table.name}' AS \"table\", cohort, count(*) AS num_rows, {source} AS hashes "
            f'FROM "{table.name}" WHERE case_id = $case_id GROUP BY cohort ORDER BY cohort',
            {"case_id": case_id},
        )
    for record in counted:
        record["sources"] = _records(
            connection,
            "SELECT path, source_sha256, num_bytes, contract FROM sources "
            "WHERE cohort = $cohort AND list_contains($hashes, source_sha256) ORDER BY path",
            {"cohort": record["cohort"], "hashes": record["hashes"]},
        )
        known = {source["source_sha256"] for source in record["sources"]}  # type: ignore[attr-defined] # made two lines above
        record["sources_unknown"] = sorted(set(record.pop("hashes")) - known)  # type: ignore[call-overload] # a list, see query
    return counted


def _ingest(connection: duckdb.DuckDBPyConnection, home: Home, cohort: str) -> Record:
    """Return how a cohort got here: its contracts, its last write, and the staging folder that holds the same rows."""
    writes = _records(
        connection,
        "FROM publications WHERE scope = $cohort ORDER BY written_at, table_name",
        {"cohort": cohort},
    )
    contracts = _records(
        connection, "SELECT DISTINCT contract FROM sources WHERE cohort = $cohort ORDER BY 1", {"cohort": cohort}
    )
    names = [str(record["contract"]) for record in contracts]
    hashes = {write["table_name"]: write["content_sha256"] for write in writes}
    folders = [folder for name in names for folder in sorted((home.staging / name).glob("[!.]*")) if folder.is_dir()]
    return {
        "cohort": cohort,
        "contracts": names,
        "written_at": writes[-1]["written_at"] if writes else None,
        "idempotency_key": writes[-1]["idempotency_key"] if writes else None,
        "code_version": writes[-1].get("code_version") if writes else None,  # a snapshot of before has no such column
        "ingest_key": next((folder.name for folder in folders if _is_published(folder, cohort, hashes)), None),
    }


def _is_published(folder: Path, cohort: str, hashes: dict[object, object]) -> bool:
    try:
        return all(
            content_sha256(Write(BY_NAME[name], cohort, staged_table(folder, name, [cohort]))) == hashes.get(name)
            for name in _TELLING
        )
    except (OSError, pl.exceptions.PolarsError):  # not a whole staging folder, so not what was published
        return False
