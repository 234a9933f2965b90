"""Which identifiers name one person: a case's own, its declared aliases, and whatever shares an alias with it. Reads nothing."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse
from scipy.sparse import csgraph


@dataclass(frozen=True)
class People:
    """`person_of`: identifier -> number of a person, for every identifier that a link names; others are each their own person."""

    person_of: dict[str, int]

    @classmethod
    def linked(cls, links: pl.DataFrame) -> "People":
        """Return who is who by `links` (case_id, alias): names of one row are one person, and so are chains of them."""
        names = pl.concat([links["case_id"], links["alias"].alias("case_id")]).unique().sort()
        if names.is_empty():
            return cls({})
        number = {name: index for index, name in enumerate(names)}
        ends = [links[column].replace_strict(number, return_dtype=pl.Int64).to_numpy() for column in ("case_id", "alias")]
        graph = sparse.coo_array((np.ones(links.height, np.int8), (ends[0], ends[1])), shape=(len(names), len(names)))
        _, person = csgraph.connected_components(graph, directed=False)
        return cls(dict(zip(names, person.tolist(), strict=True)))

    def repeated(self, names: pl.Series) -> list[list[str]]:
        """Return the groups of different `names` that are one person, each sorted, in the order of their first names."""
        groups: dict[int, set[str]] = {}
        for name in names:
            if name in self.person_of:
                groups.setdefault(self.person_of[name], set()).add(name)
        return sorted(sorted(group) for group in groups.values() if len(group) > 1)
