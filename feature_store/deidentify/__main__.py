"""`python -m feature_store.deidentify <contract> [kind]`: the pseudonyms of identifiers, for whoever has the key.

Reads identifiers from standard input, a line each (a command line would be remembered), and writes a pseudonym for each.
"""

import argparse
import sys
from pathlib import Path

import polars as pl

from feature_store.contract import load_contract
from feature_store.contract.rules import Identifier
from feature_store.deidentify.key import load_key
from feature_store.deidentify.pseudonyms import Pseudonyms
from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.ingest.context import Ingest


def main() -> int:
    """Translate standard input; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m feature_store.deidentify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contract", type=Path, help="the cohort's contract: how identifiers are normalised")
    parser.add_argument("kind", nargs="?", default="case", choices=("case", "slide", "report", "site"), help="default: case")
    parser.add_argument("--home", type=Path, help="the installation's folder (default: MICE_HOME or .mice)")
    arguments = parser.parse_args()
    given = pl.DataFrame({"given": sys.stdin.read().split("\n")}).filter(pl.col("given").str.strip_chars() != "")
    try:
        pseudonyms = Pseudonyms(load_key(Home.from_environment(arguments.home)))
        ingest = Ingest(load_contract(arguments.contract), Path())
        case = ingest.normalised(Identifier(column="given"))
        names = given.select(case if arguments.kind == "case" else pl.col("given").str.strip_chars())["given"]
        sys.stdout.writelines(f"{pseudonyms.of(arguments.kind, name)}\n" for name in names)
    except MiceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
