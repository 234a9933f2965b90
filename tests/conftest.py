"""What the tests of the store share: a small synthetic landing folder, with dirt and without, its contract, a published store.

`published_home`, the landings, and `dirty` and `clean`, which are staged from them, are made once a session and must not be
changed: `corrupt` gives a test its own landing; `read`, `bare` and `slides` stage it.
"""

import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from sql_homes import make_sql_home

from feature_store.analyst import Analyst, analyst_connection
from feature_store.contract import Contract, load_contract
from feature_store.contract.contract import Generator
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.synthetic import SyntheticConfig, write_landing
from feature_store.synthetic_files import write_table

if TYPE_CHECKING:
    from mice_model.service import Plan

Edit = Callable[[pl.DataFrame], pl.DataFrame]
Corrupt = Callable[..., Path]


def read_table(path: Path) -> pl.DataFrame:
    data = path.read_bytes()
    return pl.read_csv(gzip.decompress(data) if path.suffix == ".gz" else data, infer_schema=False)


@pytest.fixture(scope="session", autouse=True)
def _no_catalog_of_the_environment() -> Iterator[None]:
    """Tests never reach the store of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MICE_CATALOG", raising=False)
        yield


@pytest.fixture(scope="session")
def real_landing() -> Path:
    """The landing folder of public data that is no part of the project; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MICE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "raw" / "tcga_cdr").is_dir():
        pytest.skip(f"no real data in {folder}: set MICE_DATA to the landing folder")
    return folder


@pytest.fixture(scope="session")
def small_config() -> SyntheticConfig:
    return SyntheticConfig(num_cases=80, mean_patches=40, slide_dim=32, num_genes=80)


@pytest.fixture(scope="session")
def dirty_landing(small_config: SyntheticConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landing(tmp_path_factory.mktemp("dirty") / "landing", small_config)


@pytest.fixture(scope="session")
def clean_landing(small_config: SyntheticConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    clean = SyntheticConfig(**{**vars(small_config), "has_dirt": False})
    return write_landing(tmp_path_factory.mktemp("clean") / "landing", clean)


@pytest.fixture(scope="session")
def synthetic_contract(small_config: SyntheticConfig) -> Contract:
    """The shipped contract at the small landing's sizes, whose dirt is a larger share of its few cases."""
    shipped = load_contract(Path(__file__).parents[1] / "cohorts" / "synthetic.yaml")
    slides = shipped.slides[0]
    encoder = slides.encoder.model_copy(update={"name": "synthetic-32", "dim": small_config.slide_dim})
    sizes = {name: getattr(small_config, name) for name in Generator.model_fields}
    return shipped.model_copy(
        update={
            "slides": (slides.model_copy(update={"encoder": encoder}),),
            "generator": Generator(**sizes),
            "max_quarantined_fraction": 0.2,
        }
    )


@pytest.fixture(scope="session")
def published_home(dirty_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store that holds the dirty landing's cohort `synthetic`. For reading only."""
    home = Home(tmp_path_factory.mktemp("published"))
    publish_cohort(Lake(home), stage(synthetic_contract, dirty_landing, home), "synthetic")
    return home


@pytest.fixture(scope="session")
def explained_study(published_home: Home, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> "Plan":
    """A model version, trained and evaluated, in a home of its own. For reading only, but for pages."""
    from explaining import STUDY, trained

    home = Home(shutil.copytree(published_home.root, tmp_path_factory.mktemp("trained") / "home"))
    return trained(STUDY, home, synthetic_contract)


@pytest.fixture
def corrupt(clean_landing: Path, tmp_path: Path) -> Corrupt:
    """Return a function that copies a landing (by default the clean one) and applies an edit to each table named.

    `corrupt({"rna.csv.gz": lambda frame: frame.head(0)})` gives the copy's folder.
    """

    def make(edits: dict[str, Edit] | None = None, source: Path = clean_landing) -> Path:
        folder = shutil.copytree(source, tmp_path / f"landing-{len(list(tmp_path.iterdir()))}")
        for name, edit in (edits or {}).items():
            write_table(folder / name, edit(read_table(folder / name)))
        return folder

    return make


@pytest.fixture(scope="session")
def dirty(dirty_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(synthetic_contract, dirty_landing, Home(tmp_path_factory.mktemp("dirty-home")))


@pytest.fixture(scope="session")
def clean(clean_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(synthetic_contract, clean_landing, Home(tmp_path_factory.mktemp("clean-home")))


@pytest.fixture
def read(synthetic_contract: Contract, tmp_path: Path) -> Callable[..., Staged]:
    """Return a function that stages a landing under the contract, with some of its fields replaced."""

    def stage_it(landing: Path, **fields: Any) -> Staged:
        contract = Contract.model_validate(synthetic_contract.model_copy(update=fields).model_dump())
        return stage(contract, landing, Home(tmp_path / "home"))

    return stage_it


@pytest.fixture
def bare(read: Callable[..., Staged]) -> Callable[..., Staged]:
    """As `read`, without slides, which most tests do not need."""
    return lambda landing, **fields: read(landing, **({"slides": ()} | fields))


@pytest.fixture
def slides(read: Callable[..., Staged]) -> Callable[..., Staged]:
    """As `read`, without anything beside slides."""
    return lambda landing: read(landing, rna=(), copy_number=(), mutations=(), reports=())


@pytest.fixture(scope="session")
def sql_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store of 60 synthetic cases and two model versions, in a folder whose name has a quote."""
    return make_sql_home(tmp_path_factory.mktemp("it's") / "home")


@pytest.fixture(scope="session")
def staged_tables(sql_home: Home) -> dict[str, pl.DataFrame]:
    (folder,) = (path for path in (sql_home.staging / "synthetic").iterdir() if path.is_dir())
    return {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def analyst(sql_home: Home) -> Iterator[Analyst]:
    with analyst_connection(sql_home, memory_limit="500MB") as connection:
        yield connection
