"""Shops: carts, discounts, stock, customers, decimals."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from corpus.entry import use

COUPONS = {"SPRING": 0.1, "VIP": 0.25}

use("with_columns", "price:f64 qty:i32", "revenue")(lambda r: r.price * r.qty)
use("with_columns", "price:f64 qty:i16 tax:f64", "total_with_tax")(
    lambda r: round(r.price * r.qty * (1 + r.tax), 2)
)
use("filter", "price:f64 stock:i32 discontinued:bool", "sellable")(
    lambda r: r.price > 0 and r.stock > 0 and not r.discontinued
)
use("with_columns", "price:dec shipping:dec", "decimal_total")(
    lambda r: r.price + r.shipping + Decimal("0.30")
)
use("filter", "price:dec", "under_twenty")(lambda r: r.price < 20)
use("with_columns", "price:dec", "price_as_float")(lambda r: float(r.price) * 1.19)
use("with_columns", "before:f64 after:f64", "percent_change")(lambda r: (r.after - r.before) / r.before * 100)
use("with_columns", "views:i32 carts:i32 orders:i32", "conversion")(
    lambda r: r.orders / r.views if r.views else r.orders / r.carts if r.carts else 0.0
)


@use("with_columns", "total:f64[0,1000] code:s{SPRING|VIP|NONE|} member:bool")
def discounted_total(r: Any) -> Any:
    total = r.total
    if r.code in COUPONS:
        total *= 1 - COUPONS[r.code]
    if r.member and total > 50:
        total -= 5
    return max(total, 0.0)


@use("with_columns", "qty:i32[0,1000] price:f64[0,100]")
def quantity_discount(r: Any) -> Any:
    for minimum, percent in ((500, 20), (100, 12), (10, 5)):
        if r.qty >= minimum:
            return r.qty * r.price * (100 - percent) / 100
    return r.qty * r.price


@use("with_columns", "qty:i32[0,200]")
def three_for_two(r: Any) -> Any:
    sets, rest = divmod(r.qty, 3)
    return sets * 2 + rest


@use("map", "cents:i32[0,5000]")
def change_in_coins(r: Any) -> Any:
    left = r.cents
    euros, left = left // 100, left % 100
    twenties, left = left // 20, left % 20
    fives, ones = left // 5, left % 5
    return {"euros": euros, "twenties": twenties, "fives": fives, "ones": ones}


@use("with_columns", "orders:i16 spent:f64 days_since:i32")
def customer_tier(r: Any) -> Any:
    if r.orders == 0 or r.days_since > 365:
        return "inactive"
    if r.spent >= 1000 and r.orders >= 10:
        return "gold"
    return "silver" if r.spent >= 200 else "bronze"


@use("with_columns", "category:d{food|book|tech|toy} price:f64")
def vat_amount(r: Any) -> Any:
    reduced = ("food", "book")
    rate = 0.07 if r.category in reduced else 0.19
    return r.price * rate


@use("map", "id:i64 price:f64 name:s", "with_net_price")
def with_net_price(r: Any) -> Any:
    return {**r, "net": r.price / 1.19}


@use("with_columns", "rating:f32 reviews:i32 age_days:i16")
def sort_key(r: Any) -> Any:
    freshness = 1 / (1 + max(r.age_days, 0) / 30)
    return r.rating * min(r.reviews, 50) / 50 + freshness


use("with_columns", "price:dec rate:f64", "decimal_times_float", refused="decimals and floats do not mix")(
    lambda r: r.price * r.rate
)
use("with_columns", "price:dec", "decimal_division", refused="decimals have no / here")(lambda r: r.price / 3)
