"""What erasing a case takes away, found out while the store is in use. Changes nothing; doing it is execute.py's."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import polars as pl

from feature_store.erase.files import cached, embedded, explained, others_with, staged_with
from feature_store.erase.history import StoredFile, by_table, snapshot_ids, stored_files
from feature_store.erase.identity import Identity, normal
from feature_store.erase.note import read_note
from feature_store.erase.rewriting import columns_of, count_rows, readable_files, scanned
from feature_store.erase.rows import Changes, prepare, rule_of
from feature_store.erase.shards import ShardHits, shards_of
from feature_store.erase.slide_marks import slides_of, unmarked
from feature_store.erase.tombstones import read_tombstones
from feature_store.errors import CaseMissingError, ErasureError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.tables import CASE_ALIASES, CASES, SOURCES
from feature_store.trained_on import Trained, models_trained_on

logger = logging.getLogger(__name__)

# What is being done, how much of it, of how much.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What there is of a case. Rows are counted in the files of all snapshots, so one that was written twice counts twice.

    `num_rows`: table -> rows that go. `num_mentions`: table -> other rows in which a mention is redacted. `models`: those that
    saw the case or may have; `sources`: files outside the store, as cohort and path, that gave rows of it and are not touched.
    `embedded`: what was made of its slides, published or not; `num_unmarked`: slides of which nobody can tell whose they are.
    """

    names: tuple[str, ...]
    num_rows: dict[str, int]
    num_mentions: dict[str, int]
    num_snapshots: int
    shards: tuple[ShardHits, ...]
    staged: tuple[Path, ...]
    num_cached: int
    embedded: tuple[Path, ...]
    explained: tuple[Path, ...]
    others: tuple[Path, ...]
    models: tuple[str, ...]
    sources: tuple[str, ...]
    is_erased_already: bool
    num_unmarked: int

    @property
    def num_bags(self) -> int:
        """The case's bags, in all shards."""
        return sum(shard.num_bags for shard in self.shards)

    @property
    def finds_anything(self) -> bool:
        """Say whether anything names the case."""
        in_store = self.num_rows or self.num_mentions or self.shards
        return bool(in_store or self.staged or self.embedded or self.explained or self.others)


@dataclass(frozen=True)
class _Stored:
    """What the store's tables have of a person, in all snapshots. `digests`: of the files that gave the rows."""

    identity: Identity
    num_rows: Counter[str] = field(default_factory=Counter)
    num_mentions: Counter[str] = field(default_factory=Counter)
    num_snapshots: int = 0
    digests: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    spellings: list[str] = field(default_factory=list)
    is_erased: bool = False


def plan_erasure(home: Home, case_id: str, on_progress: OnProgress | None = None) -> Plan:
    """Return what erasing a case would take away; of an unfinished erasure, what is left to do.

    Raises StoreMissingError without a store, unless a slide of the case was embedded for one; CaseMissingError where nothing
    names the case and no tombstone says it was erased; ErasureError where the identifier names other cases too, or a file of
    the tables cannot be read.
    """
    say = on_progress or (lambda _what, _done, _total: None)
    lake = Lake(home)
    note = read_note(home, case_id)
    also = note.names if note else ()
    if lake.exists or not slides_of(home, [case_id]):
        stored = _in_store(lake, case_id, also, say)
    else:
        stored = _Stored(_identity(home, (), case_id, also))
    identity = stored.identity
    trained = (model for spelling in stored.spellings for model in models_trained_on(home, spelling))
    models = {model.model_version for model in trained if may_have_seen(model)}
    say("files", 0, 1)
    plan = Plan(
        identity.names,
        {name: count for name, count in stored.num_rows.items() if count},
        {name: count for name, count in stored.num_mentions.items() if count},
        stored.num_snapshots,
        tuple(shards_of(home.bags, identity)),
        tuple(staged_with(home, identity)),
        len(cached(home)),
        tuple(embedded(home, stored.digests | slides_of(home, identity.names))),
        tuple(explained(home, identity)),
        tuple(others_with(home, identity)),
        tuple(sorted(models | set(note.models if note else ()))),
        tuple(sorted({*stored.sources, *(note.sources if note else ())})),
        stored.is_erased,
        unmarked(home)[0],
    )
    say("files", 1, 1)
    if not plan.finds_anything and not stored.is_erased and note is None:
        raise CaseMissingError(
            f"case {case_id}: nothing at {home.root} names it, expected a row, a bag or a file. Check the identifier "
            "and MICE_HOME."
        )
    return plan


def _in_store(lake: Lake, case_id: str, also: Iterable[str], say: OnProgress) -> _Stored:
    """Look through all tables' files for the person whose further identifiers are `also`."""
    with lake.reader() as connection, readable_files():
        data, _ = stored_files(lake.catalog, lake.home)
        tables = by_table(data)
        identity = _identity(lake.home, tables.get(CASE_ALIASES.name, ()), case_id, also)
        prepare(connection, identity)
        _refuse_others(connection, tables.get(CASES.name, ()), case_id)
        num_rows: Counter[str] = Counter()
        num_mentions: Counter[str] = Counter()
        digests: set[str] = set()
        for done, file in enumerate(data):
            say("tables", done, len(data))
            columns = columns_of(connection, scanned([file.path]))
            found = count_rows(connection, [file.path], rule_of(file.table, columns, Changes(), file.begin))
            for gone, touched in found.values():
                num_rows[file.table] += gone
                num_mentions[file.table] += touched
                if gone and {"case_id", "source_sha256"} <= set(columns):
                    query = f"SELECT DISTINCT source_sha256 FROM {scanned([file.path])} WHERE is_erased(case_id)"
                    digests |= {digest for (digest,) in connection.execute(query).fetchall()}
        sources = _sources(connection, tables.get(SOURCES.name, ()), digests)
        spellings = _spellings(connection, tables.get(CASES.name, ()))
        is_erased = bool(read_tombstones(connection, lake.home).erased([case_id]))
    num_snapshots = len(snapshot_ids(lake.catalog))
    return _Stored(identity, num_rows, num_mentions, num_snapshots, digests, sources, spellings, is_erased)


def _identity(home: Home, files: Iterable[StoredFile], case_id: str, also: Iterable[str]) -> Identity:
    return Identity(tuple(dict.fromkeys([*_names(home, files, case_id), *also])))


def may_have_seen(model: Trained) -> bool:
    """Say whether a network of the model saw the case, or nobody can tell any more."""
    return bool(model.saw) or "unknown" in model.note


def _names(home: Home, files: Iterable[StoredFile], case_id: str) -> list[str]:
    """Return the case's identifier and all that belong to the same person, through aliases of any snapshot and staged cohort."""
    paths = [*(file.path for file in files), *home.staging.glob(f"*/*/{CASE_ALIASES.name}.parquet")]
    frames = [pl.read_parquet(path, columns=["case_id", "alias"], hive_partitioning=False) for path in paths]
    links = pl.concat(frames).unique(maintain_order=True).rows() if frames else []
    names, spelled, num_before = [case_id], {normal(case_id)}, 0
    while len(spelled) > num_before:
        num_before = len(spelled)
        for pair in links:
            if any(normal(name) in spelled for name in pair):
                names += [name for name in pair if normal(name) not in spelled]
                spelled |= set(map(normal, pair))
    return names


def _spellings(connection: duckdb.DuckDBPyConnection, files: Iterable[StoredFile]) -> list[str]:
    """Return the person's identifiers as the table cases has had them."""
    paths = [file.path for file in files]
    if not paths:
        return []
    query = (
        f"SELECT DISTINCT case_id FROM {scanned(paths, options=', union_by_name = true')} WHERE is_erased(case_id) ORDER BY ALL"
    )
    return [row[0] for row in connection.execute(query).fetchall()]


def _refuse_others(connection: duckdb.DuckDBPyConnection, files: Iterable[StoredFile], case_id: str) -> None:
    """Raise ErasureError where other cases would go too: theirs begin so, or letter case alone tells two apart."""
    paths = [file.path for file in files]
    if not paths:
        return
    cases = scanned(paths, options=", union_by_name = true")
    longer = (
        "SELECT count(DISTINCT case_id) FROM {} WHERE NOT is_erased(case_id) AND (is_named(case_id) OR is_mentioned(case_id))"
    )
    alike = (
        "SELECT coalesce(sum(num - 1), 0)::BIGINT FROM (SELECT count(DISTINCT case_id) AS num FROM cases "
        "WHERE is_erased(case_id) GROUP BY cohort, upper(regexp_replace(case_id, '[^0-9A-Za-z]', '-', 'g')))"
    )
    for query, how in ((longer.format(cases), "begin with it"), (alike, "differ from it in letter case or dashes alone")):
        found = connection.execute(query).fetchone()
        if found is not None and found[0]:
            raise ErasureError(
                f"case {case_id}: {found[0]} other cases {how}, expected an identifier of one person. Give the whole identifier; "
                "where it is whole, let the contract give these cases others that can be told apart, and publish again."
            )


def _sources(connection: duckdb.DuckDBPyConnection, files: Iterable[StoredFile], digests: set[str]) -> set[str]:
    """Return the source files of these checksums, and those named after the person, as any snapshot lists them."""
    paths = [file.path for file in files]
    if not paths:
        return set()
    query = (
        f"SELECT DISTINCT cohort, path FROM {scanned(paths, options=', union_by_name = true')} "
        "WHERE list_contains($digests, source_sha256) OR is_mentioned(path)"
    )
    return {f"{cohort}: {path}" for cohort, path in connection.execute(query, {"digests": sorted(digests)}).fetchall()}
