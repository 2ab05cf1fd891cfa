"""The work itself, in the words of a user: the Python functions that DataFlare and the peers get.

One text for all: DataFlare takes the functions of a record ``r``; routes that take numbers (Numba ufuncs,
per-record Python) take the functions of numbers that these call.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "TAX",
    "collatz_steps",
    "discounted",
    "line_total",
    "score",
    "trip_cost",
    "trip_fare",
    "trip_record",
]

TAX = 1.08
EARTH_RADIUS_KM = 6371.0088


def line_total(r: Any) -> float:
    """W1 and W2: the price of an order line with tax."""
    return r.price * r.qty * 1.08


def discounted(r: Any) -> float:
    """W3, second step: customers over 30 get a tenth off."""
    return r.gross * 0.9 if r.age > 30 else r.gross


def score(r: Any) -> float:
    """W3, last step."""
    return math.sqrt(r.net + r.damped) * 1.5 + r.damped - 0.1 * r.age


def trip_fare(lat1: float, lon1: float, lat2: float, lon2: float, qty: int) -> float:
    """W4 up to its loop: great-circle distance, then a tariff by distance."""
    phi1 = math.radians(lat1)
    phi2 = math.radians(lat2)
    half_dphi = (phi2 - phi1) / 2
    half_dlambda = math.radians(lon2 - lon1) / 2
    h = math.sin(half_dphi) ** 2 + math.cos(phi1) * math.cos(phi2) * math.sin(half_dlambda) ** 2
    km = 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(h))
    if km < 2.0:
        fee = 3.0
    elif km < 10.0:
        fee = 3.0 + 0.8 * (km - 2.0)
    elif km < 25.0:
        fee = 9.4 + 0.5 * (km - 10.0)
        if qty > 20:
            fee *= 0.95
    elif km < 60.0:
        fee = 16.9 + 0.35 * (km - 25.0) + 0.02 * qty
    else:
        fee = 29.15 + 0.2 * (km - 60.0)
    return fee


def trip_cost(lat1: float, lon1: float, lat2: float, lon2: float, qty: int) -> float:
    """W4: the fare of a trip, then the cube root of fee * qty by Newton's method."""
    fee = trip_fare(lat1, lon1, lat2, lon2, qty)
    target = fee * qty
    root = fee
    steps = 0
    while steps < 30 and abs(root * root * root - target) > 1e-9 * target:
        root = (2.0 * root + target / (root * root)) / 3.0
        steps += 1
    return root


def collatz_steps(n: int) -> int:
    """Return the steps until n is 1, a hundred at most: a loop whose length every record has for itself."""
    steps = 0
    while n > 1 and steps < 100:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def trip_record(r: Any) -> dict[str, float]:
    """W4 as a function of a record."""
    return {"cost": trip_cost(r.lat1, r.lon1, r.lat2, r.lon2, r.qty)}
