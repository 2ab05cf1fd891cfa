"""Machines, meters, traffic, power: raw counts to values, alarms, states."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from corpus.entry import use

LIMITS = {"temp": 80.0, "vibration": 12.0, "pressure": 6.5}

use("with_columns", "raw:u16", "adc_to_volts")(lambda r: r.raw * 3.3 / 4095)
use("with_columns", "raw:i16", "accelerometer_g")(lambda r: r.raw / 16384)
use("with_columns", "x:f32 y:f32 z:f32", "vector_length")(
    lambda r: math.sqrt(r.x * r.x + r.y * r.y + r.z * r.z)
)
use("filter", "value:f64 kind:d{temp|vibration|pressure}", "over_the_limit")(
    lambda r: r.value > LIMITS[r.kind]
)
use("with_columns", "a:u32 b:u32", "counter_difference_with_wrap")(lambda r: (r.b - r.a) & 0xFFFFFFFF)
use("with_columns", "status:u8", "alarm_bits")(lambda r: (r.status & 0b1110) >> 1)
use("with_columns", "kwh:f32 previous:f32", "metered_energy")(
    lambda r: r.kwh - r.previous if r.kwh >= r.previous else r.kwh + 100000.0 - r.previous
)


@use("with_columns", "ohm:f64[100,100000]")
def thermistor_celsius(r: Any) -> Any:
    log = math.log(r.ohm)
    return 1 / (1.009249522e-03 + 2.378405444e-04 * log + 2.019202697e-07 * log**3) - 273.15


@use("with_columns", "high:u8 low:u8")
def big_endian_signed(r: Any) -> Any:
    value = r.high << 8 | r.low
    return value - 65536 if value & 0x8000 else value


@use("with_columns", "value:f64 state:bool")
def hysteresis(r: Any) -> Any:
    if r.value > 22.5:
        return False
    if r.value < 21.0:
        return True
    return r.state


@use("with_columns", "volts:f64[0,5] battery:s{lipo|nimh|lead}")
def state_of_charge(r: Any) -> Any:
    if r.battery == "lipo":
        low, high = 3.2, 4.2
    elif r.battery == "nimh":
        low, high = 1.0, 1.45
    else:
        return None
    return max(0, min(100, (r.volts - low) / (high - low) * 100))


class Attitude(NamedTuple):
    roll: float
    pitch: float


@use("map", "ax:f64[-2,2] ay:f64[-2,2] az:f64[-2,2]")
def attitude(r: Any) -> Attitude:
    roll = math.degrees(math.atan2(r.ay, r.az))
    pitch = math.degrees(math.atan2(-r.ax, math.hypot(r.ay, r.az)))
    return Attitude(roll, pitch)


@use("with_columns", "speed:f64[0,60] direction:f64[0,360]")
def wind_east_component(r: Any) -> Any:
    return -r.speed * np.sin(np.deg2rad(r.direction))


@use("with_columns", "x0:f64 x1:f64 x2:f64 x3:f64")
def exponential_smoothing(r: Any) -> Any:
    level = r.x0
    for x in (r.x1, r.x2, r.x3):
        level = 0.3 * x + 0.7 * level
    return level


@use("filter", "a:f64 b:f64 c:f64")
def spike_between_neighbours(r: Any) -> Any:
    return abs(r.b - (r.a + r.c) / 2) > 5 * max(abs(r.a - r.c), 0.1)


@use("with_columns", "speed:i16 limit:i16 zone:s{school|city|road}")
def speeding_fine(r: Any) -> Any:
    over = r.speed - r.limit
    if over <= 0:
        return 0
    fine = 30 if over <= 10 else 70 if over <= 20 else 180
    if r.zone == "school":
        fine *= 2
    return fine


@use("with_columns", "watts:f64 volts:f64 amps:f64")
def power_factor(r: Any) -> Any:
    apparent = r.volts * r.amps
    if apparent == 0:
        return None
    return min(1.0, abs(r.watts / apparent))


@use("with_columns", "hour:i8[0,23] weekday:i8[0,6] kwh:f64[0,100]")
def time_of_use_tariff(r: Any) -> Any:
    if r.weekday >= 5 or r.hour < 6 or r.hour >= 22:
        price = 0.18
    elif 17 <= r.hour < 20:
        price = 0.42
    else:
        price = 0.29
    return r.kwh * price


@use("with_columns", "samples:list", refused="cannot be used inside a record function, only passed on")
def mean_of_samples(r: Any) -> Any:
    return sum(r.samples) / len(r.samples)


@use("with_columns", "rpm:f32 gear:u8[0,6] wheel:f64[0.2,0.5]")
def road_speed(r: Any) -> Any:
    ratios = (0.0, 3.6, 2.1, 1.4, 1.0, 0.8)
    if r.gear == 0 or r.gear >= len(ratios):
        return None
    return r.rpm / ratios[r.gear] / 3.9 * 2 * math.pi * r.wheel * 0.06
