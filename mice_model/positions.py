"""Finding the names that something was fitted on among the names of other data. Names and positions only."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def shared_positions(fitted: Iterable[str], found: Iterable[str]) -> tuple[IntArray, IntArray]:
    """Return where the names that both have stand: (k,) positions among `fitted`, ascending, and (k,) among `found`."""
    position = {name: index for index, name in enumerate(found)}
    pairs = [(index, position[name]) for index, name in enumerate(fitted) if name in position]
    ours, theirs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return ours, theirs
