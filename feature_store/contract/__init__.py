"""What a cohort contract (`cohorts/<name>.yaml`) may say, and reading one. Nothing here opens a source file.

A contract names, for each kind of feature, where it lies in the landing folder and how its columns map to ours. Everything in
it is declared: a value that no rule maps is rejected with the reason, never guessed.
"""

from feature_store.contract.contract import Contract
from feature_store.contract.loading import load_contract, load_contracts

__all__ = ["Contract", "load_contract", "load_contracts"]
