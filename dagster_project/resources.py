"""The one resource: where this installation lies, and which study runs. Paths and names; it opens nothing until asked."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from feature_store.errors import ContractError

if TYPE_CHECKING:
    from feature_store.contract import Contract
    from feature_store.home import Home
    from feature_store.ingest.stage import Staged
    from mice_model.service import Plan
    from mice_model.study import Study

REPOSITORY = Path(__file__).resolve().parent.parent


class Platform(dg.ConfigurableResource):
    """The installation's home, the landing folder for cohorts from outside, the contracts and studies, the study to run.

    Home folder and catalog are those that the environment names, where they are not given. `accepts_drift`: cohorts that lack
    what they had when they were last published (genes, cases, a variable) are published all the same. `slide_runner`: what
    embedding whole slides is shared out by, `processes` or `ray`.
    """

    home_folder: str = ""
    catalog_url: str = ""
    data_folder: str = ""
    contracts_folder: str = str(REPOSITORY / "cohorts")
    studies_folder: str = str(REPOSITORY / "studies")
    study: str = "demo"
    num_workers: int = 0
    slide_runner: str = "processes"
    accepts_drift: bool = False

    @property
    def home(self) -> "Home":
        """Return the installation's folders."""
        from feature_store.home import Home

        named = Home.from_environment(Path(self.home_folder) if self.home_folder else None)
        return replace(named, catalog_url=self.catalog_url or named.catalog_url)

    @property
    def data(self) -> Path | None:
        """Return the landing folder for cohorts that come from outside."""
        return Path(self.data_folder) if self.data_folder else None

    @property
    def contracts(self) -> "dict[str, Contract]":
        """Return cohort -> its contract, of those shipped and those added to the home."""
        from feature_store.contract import load_contracts

        return load_contracts(Path(self.contracts_folder), self.home.cohorts)

    def landing(self, cohort: str) -> "tuple[Contract, Path]":
        """Return a cohort's contract and landing folder. Raises ContractError where no contract names the cohort."""
        from feature_store.landing import landing_folder

        contract = self.contracts.get(cohort)
        if contract is None:
            found = f"no contract in {self.contracts_folder} or {self.home.cohorts}, expected one of {sorted(self.contracts)[:5]}"
            raise ContractError(f"cohort {cohort}: {found}. Write a contract that names it, or correct the name.")
        return contract, landing_folder(contract, self.home, self.data)

    def staged(self, cohort: str) -> "Staged":
        """Return the cohort's contract as it is staged, staging it where its sources changed."""
        from feature_store.ingest.stage import stage

        return stage(*self.landing(cohort), self.home)

    @property
    def study_file(self) -> Path:
        """Return where the study is written: at home, or else among those shipped."""
        own = self.home.studies / f"{self.study}.yaml"
        return own if own.is_file() else Path(self.studies_folder) / own.name

    @property
    def wanted_study(self) -> "Study":
        """Return the study. Raises StudyError where it cannot be read."""
        from mice_model.study import load_study

        return load_study(self.study_file)

    @property
    def plan(self) -> "Plan":
        """Return the model version that the study asks for on the newest snapshot."""
        from mice_model.service import plan_training

        return plan_training(self.wanted_study, self.home, self.contracts, self.num_workers)
