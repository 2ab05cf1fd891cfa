"""What W1-W4 are: columns read, the right answer, and the bytes that must move.

W1   total = price * qty * 1.08
W2   keep age > t, then id and total; t keeps 81, 49 or 9 %
W3   six steps: gross, discount over 30, clip to 5..2000, keep > 300, log1p, score
W4   a function of a trip: haversine distance, tariff by if/elif, Newton's method in a while loop
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.data import Columns

__all__ = ["WORKLOADS", "Workload", "WrongResultError", "check_result", "numpy_trip_cost", "numpy_trip_fare"]


class WrongResultError(AssertionError):
    """A contender's result is not the expected one."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One workload. ``expected`` is the right answer by NumPy; ``tolerance`` is relative, for floats."""

    key: str
    kind: str
    title: str
    inputs: tuple[str, ...]
    expected: Callable[[Columns], dict[str, np.ndarray]]
    threshold: int = 0
    tolerance: float = 1e-12

    def moved_bytes(self, rows: int, rows_out: int) -> float:
        """Return the bytes that must cross the bus: every column in and out once, all 8 bytes wide."""
        outputs = {"W1": 1, "W2": 2, "W3": 2, "W4": 1}[self.kind]
        return 8.0 * (len(self.inputs) * rows + outputs * rows_out)


def _total(c: Columns) -> dict[str, np.ndarray]:
    return {"total": c["price"] * c["qty"] * 1.08}


def _filtered(threshold: int) -> Callable[[Columns], dict[str, np.ndarray]]:
    def expected(c: Columns) -> dict[str, np.ndarray]:
        keep = c["age"] > threshold
        return {"id": c["id"][keep], "total": c["price"][keep] * c["qty"][keep] * 1.08}

    return expected


def _chain(c: Columns) -> dict[str, np.ndarray]:
    gross = c["price"] * c["qty"]
    net = np.clip(np.where(c["age"] > 30, gross * 0.9, gross), 5.0, 2000.0)
    keep = net > 300.0
    net, age = net[keep], c["age"][keep]
    damped = np.log1p(net)
    return {"net": net, "score": np.sqrt(net + damped) * 1.5 + damped - 0.1 * age}


def numpy_trip_fare(
    lat1: np.ndarray, lon1: np.ndarray, lat2: np.ndarray, lon2: np.ndarray, qty: np.ndarray
) -> np.ndarray:
    """W4 up to its loop as a NumPy user would write it: selections for the tariff."""
    phi1, phi2 = np.radians(lat1), np.radians(lat2)
    half_dlambda = np.radians(lon2 - lon1) / 2
    h = np.sin((phi2 - phi1) / 2) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(half_dlambda) ** 2
    km = 2 * 6371.0088 * np.arcsin(np.sqrt(h))
    middle = 9.4 + 0.5 * (km - 10.0)
    return np.select(
        [km < 2.0, km < 10.0, km < 25.0, km < 60.0],
        [
            np.full_like(km, 3.0),
            3.0 + 0.8 * (km - 2.0),
            np.where(qty > 20, middle * 0.95, middle),
            16.9 + 0.35 * (km - 25.0) + 0.02 * qty,
        ],
        29.15 + 0.2 * (km - 60.0),
    )


def numpy_trip_cost(
    lat1: np.ndarray, lon1: np.ndarray, lat2: np.ndarray, lon2: np.ndarray, qty: np.ndarray
) -> np.ndarray:
    """W4 as a NumPy user would write it: the fare, then a shrinking set of rows for the loop."""
    fee = numpy_trip_fare(lat1, lon1, lat2, lon2, qty)
    target = fee * qty
    root = fee.copy()
    moving = np.arange(len(root))
    for _ in range(30):
        x, t = root[moving], target[moving]
        still = np.abs(x * x * x - t) > 1e-9 * t
        moving, x, t = moving[still], x[still], t[still]
        if not len(moving):
            break
        root[moving] = (2.0 * x + t / (x * x)) / 3.0
    return root


def _trips(c: Columns) -> dict[str, np.ndarray]:
    return {"cost": numpy_trip_cost(c["lat1"], c["lon1"], c["lat2"], c["lon2"], c["qty"])}


WORKLOADS: dict[str, Workload] = {
    w.key: w
    for w in (
        Workload(key="W1", kind="W1", title="map: total", inputs=("price", "qty"), expected=_total),
        *(
            Workload(
                key=f"W2-{percent}",
                kind="W2",
                title=f"filter keeps {percent} %, then id and total",
                inputs=("id", "age", "price", "qty"),
                expected=_filtered(threshold),
                threshold=threshold,
            )
            for percent, threshold in ((81, 18), (49, 50), (9, 90))
        ),
        Workload(
            key="W3", kind="W3", title="six fused steps", inputs=("age", "price", "qty"), expected=_chain
        ),
        Workload(
            key="W4",
            kind="W4",
            title="record function: haversine, tariff, Newton",
            inputs=("lat1", "lon1", "lat2", "lon2", "qty"),
            expected=_trips,
            tolerance=1e-8,  # a step more or less of Newton's method, whose own tolerance is 1e-9
        ),
    )
}


def check_result(name: str, table: pa.Table, expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Raise ``WrongResultError`` unless ``table`` holds ``expected``, in order.

    A result shorter than expected is compared with the head: slow contenders run on the first rows only. A null of
    a float column is expected as NaN.
    """
    if set(table.column_names) != set(expected):
        raise WrongResultError(f"{name}: columns {table.column_names}, expected {list(expected)}")
    for column, right in expected.items():
        values = table[column].to_numpy(zero_copy_only=False)
        if len(values) != len(right):
            raise WrongResultError(f"{name}: {len(values)} rows, expected {len(right)}")
        if right.dtype.kind == "f":
            wrong = ~np.isclose(values, right, rtol=tolerance, atol=0.0, equal_nan=True)
        else:
            wrong = values != right
        if wrong.any():
            first = int(np.argmax(wrong))
            raise WrongResultError(
                f"{name}: column {column!r} differs in {int(wrong.sum())} rows, first row {first}: "
                f"{values[first]!r}, expected {right[first]!r}"
            )
