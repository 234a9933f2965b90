"""Where a contract's sources lie: a landing folder that somebody names, or one the platform makes. Nothing is read here."""

from pathlib import Path

from feature_store.added_cohorts import added_landing
from feature_store.contract import Contract
from feature_store.errors import LandingMissingError
from feature_store.home import Home
from feature_store.synthetic import SyntheticConfig, write_landing


def landing_folder(contract: Contract, home: Home, data: Path | None) -> Path:
    """Return the landing folder of a contract: made first where the contract says how, else that it was added with, else `data`.

    Raises LandingMissingError if the contract's sources come from outside and no folder is given or there.
    """
    if contract.generator is not None:
        config = SyntheticConfig(**contract.generator.model_dump())
        home.landing.mkdir(parents=True, exist_ok=True)
        return write_landing(home.landing / contract.name, config)
    folder = added_landing(home, contract.name) or data
    if folder is None or not folder.is_dir():
        raise LandingMissingError(
            f"contract {contract.name}: landing folder {folder}, expected a folder with its source files. "
            "Set MICE_DATA, pass DATA=<folder> to make, or add the cohort with its folder (mice cohort add)."
        )
    return folder.resolve()
