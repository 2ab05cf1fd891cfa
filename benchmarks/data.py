"""The generated data of W1-W4: order lines and trips, deterministic, without nulls.

Ages are uniform over 0..99, so that ``age > 18``, ``> 50`` and ``> 90`` keep 81, 49 and 9 %. Prices and
quantities make W3's filter keep about 73 %. Trips lie in one square degree, so that every branch of the
tariff is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

__all__ = ["Columns", "generate"]

_COORDINATES = ("lat1", "lon1", "lat2", "lon2")


@dataclass(frozen=True)
class Columns:
    """Columns in memory, as NumPy arrays and as an Arrow table over the same bytes."""

    arrays: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        return len(next(iter(self.arrays.values())))

    @cached_property
    def table(self) -> pa.Table:
        return pa.table({name: pa.array(values) for name, values in self.arrays.items()})

    def head(self, rows: int) -> Columns:
        """Return the first rows, sharing memory."""
        return Columns({name: values[:rows] for name, values in self.arrays.items()})

    def select(self, names: tuple[str, ...]) -> Columns:
        """Return some of the columns, sharing memory."""
        return Columns({name: self.arrays[name] for name in names})

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


def generate(names: tuple[str, ...], rows: int, seed: int = 1) -> Columns:
    """Return ``rows`` values of each column asked for; a column is the same whichever others come with it."""
    columns = {}
    for name in names:
        random = np.random.default_rng([seed, *name.encode()])
        if name == "id":
            columns[name] = np.arange(rows, dtype=np.int64)
        elif name == "age":
            columns[name] = random.integers(0, 100, rows)
        elif name == "qty":
            columns[name] = random.integers(1, 41, rows)
        elif name == "price":
            columns[name] = random.uniform(1.0, 100.0, rows)
        elif name in _COORDINATES:
            low = 48.0 if name.startswith("lat") else 11.0
            columns[name] = random.uniform(low, low + 1.0, rows)
        else:
            raise ValueError(f"there is no generated column {name!r}")
    return Columns(columns)
