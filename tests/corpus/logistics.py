"""Parcels, tariffs, routes, stock, capacity."""

from __future__ import annotations

import math
from typing import Any

from corpus.entry import use

EXPRESS = 1.8
ZONE_PRICE = {"domestic": 4.9, "eu": 12.5, "world": 29.0}

use("with_columns", "l:f32[1,200] w:f32[1,200] h:f32[1,200]", "volumetric_weight")(
    lambda r: r.l * r.w * r.h / 5000
)
use("with_columns", "items:i32 per_box:i16", "boxes_needed")(lambda r: -(-r.items // r.per_box))
use("filter", "stock:i32 reserved:i32 reorder_at:i16", "to_reorder")(
    lambda r: r.stock - r.reserved < r.reorder_at
)
use("with_columns", "position:i32", "warehouse_aisle")(
    lambda r: r.position // 1000 * 100 + r.position % 1000 // 40
)
use("filter", "length:i16 width:i16 height:i16", "fits_locker")(
    lambda r: max(r.length, r.width, r.height) <= 60 and r.length + r.width + r.height <= 120
)


@use("with_columns", "kg:f64[0,40] zone:d{domestic|eu|world|moon} express:bool")
def shipping_price(r: Any) -> Any:
    base = ZONE_PRICE.get(r.zone)
    if base is None:
        return None
    price = base + max(0.0, r.kg - 2) * 1.1
    return price * EXPRESS if r.express else price


@use("with_columns", "grams:i32[0,3000]")
def postage_cents(r: Any) -> Any:
    if r.grams <= 20:
        return 85
    elif r.grams <= 50:
        return 100
    elif r.grams <= 500:
        return 160
    elif r.grams <= 1000:
        return 275
    return None


@use("with_columns", "demand:f64[1,100000] order_cost:f64[1,500] holding:f64[0.01,50]")
def economic_order_quantity(r: Any) -> Any:
    return math.sqrt(2 * r.demand * r.order_cost / r.holding)


@use("with_columns", "km:f64[0,3000] stops:u8[0,10]")
def driving_hours(r: Any) -> Any:
    hours = r.km / 72 + r.stops * 0.25
    breaks = int(hours / 4.5)
    return hours + breaks * 0.75


@use("with_columns", "x1:i16 y1:i16 x2:i16 y2:i16")
def manhattan_distance(r: Any) -> Any:
    return abs(r.x1 - r.x2) + abs(r.y1 - r.y2)


@use("with_columns", "promised:date delivered:date")
def delivery_state(r: Any) -> Any:
    if r.delivered is None:
        return "open"
    return "on time" if r.delivered <= r.promised else "late"


@use("with_columns", "ean:i64[0,9999999999999]")
def ean_check_digit_ok(r: Any) -> Any:
    n = r.ean // 10
    total, weight = 0, 3
    while n > 0:
        total += n % 10 * weight
        weight = 4 - weight
        n //= 10
    return (10 - total % 10) % 10 == r.ean % 10


@use("with_columns", "container:i64[0,9999999]")
def container_check_digit(r: Any) -> Any:
    total = 0
    for position in range(6):
        digit = r.container // 10 ** (5 - position) % 10
        total += digit * 2 ** (position + 4)
    return total % 11 % 10


@use("with_columns", "stock:i32[0,5000] daily:i32[0,100] incoming:i32[0,500]")
def days_of_stock(r: Any) -> Any:
    stock = r.stock
    for day in range(365):
        if day % 7 == 6:
            stock += r.incoming
        stock -= r.daily
        if stock < 0:
            return day
    return 365


@use("with_columns", "kg:f64 m3:f64")
def chargeable_weight(r: Any) -> Any:
    return max(r.kg, r.m3 * 167)


@use("filter", "temperature:f32 minutes:i16 goods:s{fish|fruit|steel}")
def cold_chain_broken(r: Any) -> Any:
    if r.goods == "fish":
        return r.temperature > 4 and r.minutes > 15
    if r.goods == "fruit":
        return r.temperature > 12 and r.minutes > 60
    return False
