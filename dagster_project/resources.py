"""The one resource: where this installation lies, and which study runs. Paths and names; it opens nothing until asked."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from feature_store.contract import Contract
    from feature_store.home import Home
    from mice_model.service import Plan

REPOSITORY = Path(__file__).resolve().parent.parent


class Platform(dg.ConfigurableResource):
    """The installation's home, the landing folder for cohorts from outside, the contracts and studies, the study to run."""

    home_folder: str = ""
    data_folder: str = ""
    contracts_folder: str = str(REPOSITORY / "cohorts")
    studies_folder: str = str(REPOSITORY / "studies")
    study: str = "demo"
    num_workers: int = 0

    @property
    def home(self) -> "Home":
        """Return the installation's folders."""
        from feature_store.home import Home

        return Home(Path(self.home_folder).resolve()) if self.home_folder else Home.from_environment()

    @property
    def data(self) -> Path | None:
        """Return the landing folder for cohorts that come from outside."""
        return Path(self.data_folder) if self.data_folder else None

    @property
    def contracts(self) -> "dict[str, Contract]":
        """Return cohort -> its contract."""
        from feature_store.contract import load_contracts

        return load_contracts(Path(self.contracts_folder))

    @property
    def plan(self) -> "Plan":
        """Return the model version that the study asks for on the newest snapshot."""
        from mice_model.service import plan_training
        from mice_model.study import load_study

        return plan_training(
            load_study(Path(self.studies_folder) / f"{self.study}.yaml"), self.home, self.contracts, self.num_workers
        )
