"""Where a contract's sources lie: the landing folder it is given, or one the platform makes. Nothing is read here."""

from pathlib import Path

from feature_store.contract import Contract
from feature_store.errors import LandingMissingError
from feature_store.home import Home
from feature_store.synthetic import SyntheticConfig, write_landing


def landing_folder(contract: Contract, home: Home, data: Path | None) -> Path:
    """Return the landing folder of a contract, making it first where the contract says how.

    Raises LandingMissingError if the contract's sources come from outside and no folder is given or there.
    """
    if contract.generator is not None:
        config = SyntheticConfig(**contract.generator.model_dump())
        home.landing.mkdir(parents=True, exist_ok=True)
        return write_landing(home.landing / contract.name, config)
    if data is None or not data.is_dir():
        raise LandingMissingError(
            f"contract {contract.name}: landing folder {data}, expected a folder with its source files. "
            "Set MICE_DATA, or pass DATA=<folder> to make."
        )
    return data.resolve()
