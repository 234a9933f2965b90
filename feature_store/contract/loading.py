"""Reading contracts from their files. Nothing here opens a source file."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from feature_store.contract.contract import Contract
from feature_store.errors import ContractError, LandingMissingError


def load_contract(path: Path) -> Contract:
    """Read and validate a contract. Raises ContractError naming the file and the offending fields."""
    if not path.is_file():
        raise LandingMissingError(f"cohort contract: no file at {path}, expected a YAML contract. Check the name.")
    try:
        return Contract.model_validate(_parsed(path))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise ContractError(f"cohort contract {path}: {problems}. See docs/cohorts.md for what a contract may say.") from error


def load_contracts(*folders: Path) -> dict[str, Contract]:
    """Return cohort (partition key) -> the contract that declares it, over all contracts in `folders`; one may not be there."""
    by_cohort: dict[str, Contract] = {}
    by_name: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        contract = load_contract(path)
        if contract.name in by_name:
            raise ContractError(
                f"cohort contract {path}: name {contract.name}, which {by_name[contract.name]} has too, expected another. "
                "Rename one of them."
            )
        by_name[contract.name] = path
        for cohort in contract.cohorts:
            if cohort in by_cohort:
                raise ContractError(
                    f"cohort {cohort}: declared by contracts {by_cohort[cohort].name} and {contract.name}, expected one. "
                    "Rename one of them."
                )
            by_cohort[cohort] = contract
    return by_cohort


class _UniqueKeys(yaml.SafeLoader):
    """YAML, but a key given twice is an error: plain YAML would keep the last and drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"keys {repeated} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parsed(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets more than YAMLError out: bad dates, tags without a value, deep nesting, bytes that are no UTF-8
        raise ContractError(f"cohort contract {path}: not valid YAML ({error}). Correct the file.") from error
