"""Physics, chemistry, biology: formulas with constants, branches and units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from corpus.entry import use

G = 6.67430e-11
C = 299_792_458.0
R_GAS = 8.314462618

use("with_columns", "m:f64[0,100] v:f64[0,100]", "kinetic_energy")(lambda r: 0.5 * r.m * r.v**2)
use("with_columns", "m1:f64 m2:f64 d:f64", "gravity")(lambda r: G * r.m1 * r.m2 / r.d**2)
use("with_columns", "n:f64[0,10] t:f64[1,1000] v:f64[0.1,10]", "ideal_gas_pressure")(
    lambda r: r.n * R_GAS * r.t / r.v
)
use("with_columns", "v:f64[0,299000000]", "lorentz_factor")(lambda r: 1 / math.sqrt(1 - (r.v / C) ** 2))
use("with_columns", "h:f64[1e-14,1]", "acidity")(lambda r: -math.log10(r.h))
use("with_columns", "n0:f64[0,1000] t:f64[0,50] half:f64[0.1,10]", "radioactive_decay")(
    lambda r: r.n0 * 0.5 ** (r.t / r.half)
)
use("with_columns", "f:f32", "fahrenheit_to_celsius")(lambda r: (r.f - 32) * 5 / 9)
use("with_columns", "wavelength:f64[1e-9,1e-3]", "photon_energy_ev")(
    lambda r: 6.62607015e-34 * C / r.wavelength / 1.602176634e-19
)


@use("with_columns", "speed:f64[0,100] angle:f64[0,90]")
def projectile_range(r: Any) -> Any:
    return r.speed**2 * math.sin(2 * math.radians(r.angle)) / 9.81


@use("with_columns", "t:f64[-30,45] rh:f64[1,100]")
def dew_point(r: Any) -> Any:
    a, b = 17.625, 243.04
    g = math.log(r.rh / 100) + a * r.t / (b + r.t)
    return b * g / (a - g)


@use("with_columns", "t:f64[20,45] rh:f64[0,100]")
def heat_index(r: Any) -> Any:
    f = r.t * 9 / 5 + 32
    simple = 0.5 * (f + 61 + (f - 68) * 1.2 + r.rh * 0.094)
    if simple < 80:
        return (simple - 32) * 5 / 9
    hi = -42.379 + 2.04901523 * f + 10.14333127 * r.rh - 0.22475541 * f * r.rh
    hi += -6.83783e-3 * f * f - 5.481717e-2 * r.rh * r.rh + 1.22874e-3 * f * f * r.rh
    hi += 8.5282e-4 * f * r.rh * r.rh - 1.99e-6 * f * f * r.rh * r.rh
    if r.rh < 13 and 80 <= f <= 112:
        hi -= (13 - r.rh) / 4 * math.sqrt((17 - abs(f - 95)) / 17)
    return (hi - 32) * 5 / 9


@use("with_columns", "t:f64[-40,10] wind:f64[0,120]")
def wind_chill(r: Any) -> Any:
    if r.wind < 4.8 or r.t > 10:
        return r.t
    w = r.wind**0.16
    return 13.12 + 0.6215 * r.t - 11.37 * w + 0.3965 * r.t * w


@use("with_columns", "re:f64[100,100000] roughness:f64[0,0.05]")
def friction_factor(r: Any) -> Any:
    if r.re < 2300:
        return 64 / r.re
    f = 0.02
    for _ in range(15):
        new = -2 * math.log10(r.roughness / 3.7 + 2.51 / (r.re * math.sqrt(f)))
        new = 1 / (new * new)
        if abs(new - f) < 1e-12:
            break
        f = new
    return f


@use("with_columns", "ra:f64[0,24] lst:f64[0,24]")
def hour_angle(r: Any) -> Any:
    h = r.lst - r.ra
    while h < -12:
        h += 24
    while h > 12:
        h -= 24
    return h


@use("with_columns", "r1:f64 r2:f64 r3:f64")
def parallel_resistance(r: Any) -> Any:
    total = 0.0
    for ohm in (r.r1, r.r2, r.r3):
        if ohm == 0:
            return 0.0
        total += 1 / ohm
    return 1 / total


@use("map", "a:f64[-10,10] b:f64[-10,10] c:f64[-10,10]")
def quadratic_roots(r: Any) -> Any:
    d = r.b * r.b - 4 * r.a * r.c
    if r.a == 0 or d < 0:
        return {"x1": None, "x2": None, "real": False}
    root = math.sqrt(d)
    return {"x1": (-r.b - root) / (2 * r.a), "x2": (-r.b + root) / (2 * r.a), "real": True}


@use("with_columns", "gc:u16[0,200] at:u16[0,200]")
def melting_temperature(r: Any) -> Any:
    n = r.gc + r.at
    if n == 0:
        return None
    if n < 14:
        return 2.0 * r.at + 4.0 * r.gc
    return 64.9 + 41 * (r.gc - 16.4) / n


@use("with_columns", "base:s{A|C|G|T|U|N}")
def complement(r: Any) -> Any:
    return {"A": "T", "T": "A", "C": "G", "G": "C"}.get(r.base, "N")


@use("with_columns", "x:f64[-3,3] y:f64[-3,3]")
def gravitational_potential(r: Any) -> Any:
    total = 0.0
    for mass, px, py in ((5.0, 0.0, 0.0), (1.0, 1.0, 0.5), (0.5, -1.0, 2.0)):
        d = math.sqrt((r.x - px) ** 2 + (r.y - py) ** 2)
        total -= mass / max(d, 0.01)
    return total


@use("with_columns", "kp:f64[0,9]")
def storm_level(r: Any) -> Any:
    return "G5" if r.kp >= 9 else "G3" if r.kp >= 7 else "G1" if r.kp >= 5 else None


use("with_columns", "m:f64[0.1,100]", "star_lifetime")(lambda r: 1e10 * r.m ** (-2.5))
use("with_columns", "db1:f32[-100,100] db2:f32[-100,100]", "sum_of_decibels")(
    lambda r: 10 * np.log10(10 ** (r.db1 / 10) + 10 ** (r.db2 / 10))
)
use("with_columns", "phase:f64", "wrap_phase")(lambda r: (r.phase + math.pi) % (2 * math.pi) - math.pi)
use("with_columns", "protons:u8 neutrons:u8", "magic_nucleus")(
    lambda r: r.protons in (2, 8, 20, 28, 50, 82) and r.neutrons in (2, 8, 20, 28, 50, 82, 126)
)
