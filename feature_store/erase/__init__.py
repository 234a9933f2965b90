"""Erasing a case from the store's whole history and from everything derived from it (docs/erasure.md)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feature_store.erase.execute import Erased
    from feature_store.home import Home


def erase_case(home: "Home", case_id: str) -> "Erased":
    """Erase a case with a plan made now, see execute.py."""
    from feature_store.erase import execute  # noqa: PLC0415 - execute needs publish, which needs this package's tombstones

    return execute.erase_case(home, case_id)
