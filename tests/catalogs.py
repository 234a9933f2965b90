"""What the tests on both catalogs share: work that a process of its own does to a lake."""

from pathlib import Path

from feature_store.home import Home
from feature_store.lake import Lake


def write_pairs(root: Path, catalog_url: str, writer: int, num_commits: int) -> None:
    """Commit `num_commits` times one row to each of two tables, under an id that tells writer and commit."""
    lake = Lake(Home(root, catalog_url))
    for number in range(num_commits):
        case_id = f"{writer}-{number}"
        with lake.transaction(f"pair {case_id}", case_id) as transaction:
            transaction.connection.execute("INSERT INTO cases VALUES (?, 'cohort', 'project', 'brca', NULL, 'hash')", [case_id])
            transaction.connection.execute("INSERT INTO folds VALUES (?, 'cohort', 'split', 0)", [case_id])
