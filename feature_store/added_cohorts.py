"""Contracts that a home has beside the shipped ones: `<home>/cohorts/<name>.yaml`, and where each one's landing folder is.

What belongs here: putting them there, taking them back, finding a landing folder again. Reading contracts is contract/, the
landing folders that the platform makes itself are landing.py's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_store.contract import Contract, load_contract
from feature_store.errors import ContractError
from feature_store.home import Home


def added_landing(home: Home, name: str) -> Path | None:
    """Return the landing folder that the contract of this name was added with, or None."""
    kept = _kept_landing(home, name)
    return Path(kept.read_text(encoding="utf-8").rstrip("\n")) if kept.is_file() else None


def refuse_taken(home: Home, shipped: Path, file: Path) -> Contract:
    """Return the contract of a file that could be added. Raises ContractError where another has its name or one of its cohorts.

    To be asked before anything is staged: another contract of the name has its staging folder, too.
    """
    contract = load_contract(file)
    own = home.cohorts / f"{contract.name}.yaml"
    for path in [*shipped.glob("*.yaml"), *home.cohorts.glob("*.yaml")]:
        if path == own or _is_same(path, file):
            continue
        other = load_contract(path)
        if other.name == contract.name:
            raise ContractError(f"contract {contract.name}: {path} has the name too, expected another. Rename yours.")
        if both := sorted(set(other.cohorts) & set(contract.cohorts)):
            raise ContractError(f"contract {contract.name}: cohorts {both[:5]} are {path}'s, expected others. Rename yours.")
    return contract


@contextmanager
def added(home: Home, shipped: Path, file: Path, landing: Path) -> Iterator[None]:
    """Add a contract to the home, or put it in place of the one of its name there; taken back if what follows fails.

    One that is shipped is not copied: only its landing folder is kept. Raises ContractError as `refuse_taken` does.
    """
    contract = refuse_taken(home, shipped, file)
    contents = {_kept_landing(home, contract.name): f"{landing.resolve()}\n"}
    if not any(_is_same(path, file) for path in shipped.glob("*.yaml")):
        contents[home.cohorts / f"{contract.name}.yaml"] = file.read_text(encoding="utf-8")
    before = {path: path.read_text(encoding="utf-8") if path.is_file() else None for path in contents}
    try:
        for path, content in contents.items():
            _write(path, content)
        yield
    except BaseException:  # a stopped run must not leave a contract behind whose cohorts were never published
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                _write(path, old)
        raise


def _is_same(path: Path, file: Path) -> bool:
    return path.read_bytes() == file.read_bytes()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _kept_landing(home: Home, name: str) -> Path:
    return home.cohorts / f"{name}.landing"
