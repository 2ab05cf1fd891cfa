"""Interest, loans, options, taxes and ledgers."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, NamedTuple

from corpus.entry import use

BRACKETS = ((0, 0.0), (11_000, 0.14), (17_000, 0.24), (66_000, 0.42), (277_000, 0.45))
RATES = {"EUR": 1.0, "USD": 0.92, "GBP": 1.17, "JPY": 0.0061}


@use("with_columns", "principal:f64 rate:f64[0,0.2] years:i32[0,40]")
def compound_interest(r: Any) -> Any:
    return r.principal * (1 + r.rate) ** r.years


@use("with_columns", "loan:f64[0,1000000] yearly:f64[0,0.2] months:i32[0,480]")
def monthly_payment(r: Any) -> Any:
    rate = r.yearly / 12
    if rate == 0:
        return r.loan / r.months
    growth = (1 + rate) ** r.months
    return r.loan * rate * growth / (growth - 1)


@use("with_columns", "c0:f64 c1:f64 c2:f64 c3:f64 rate:f64[0,0.5]")
def net_present_value(r: Any) -> Any:
    total = 0.0
    for year, flow in enumerate((r.c0, r.c1, r.c2, r.c3)):
        total += flow / (1 + r.rate) ** year
    return total


def normal_cdf(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@use("map", "spot:f64[1,500] strike:f64[1,500] t:f64[0.01,3] vol:f64[0.05,0.9] rate:f64[0,0.1]")
def black_scholes(r: Any) -> Any:
    root = r.vol * math.sqrt(r.t)
    d1 = (math.log(r.spot / r.strike) + (r.rate + r.vol * r.vol / 2) * r.t) / root
    d2 = d1 - root
    call = r.spot * normal_cdf(d1) - r.strike * math.exp(-r.rate * r.t) * normal_cdf(d2)
    put = call - r.spot + r.strike * math.exp(-r.rate * r.t)
    return {"call": call, "put": put, "delta": normal_cdf(d1)}


@use("with_columns", "income:f64[0,500000]")
def income_tax(r: Any) -> Any:
    tax = 0.0
    for i in range(len(BRACKETS)):
        low, rate = BRACKETS[i]
        if r.income <= low:
            break
        high = BRACKETS[i + 1][0] if i + 1 < len(BRACKETS) else math.inf
        tax += (min(r.income, high) - low) * rate
    return tax


@use("with_columns", "amount:f64 currency:s{EUR|USD|GBP|JPY|CHF}")
def to_euro(r: Any) -> Any:
    return r.amount * RATES.get(r.currency, 1.0)


use("filter", "debit:dec credit:dec", "unbalanced_entry")(lambda r: r.debit != r.credit)
use("with_columns", "price:dec qty:dec0", "decimal_line_total")(lambda r: r.price * r.qty)
use("filter", "balance:dec", "overdrawn_by_more_than_a_cent")(lambda r: r.balance < Decimal("-0.01"))


@use("with_columns", "cost:f64 salvage:f64 life:i32[1,30] year:i32[0,40]")
def straight_line_depreciation(r: Any) -> Any:
    if r.year > r.life:
        return r.salvage
    return r.cost - (r.cost - r.salvage) / r.life * r.year


@use("with_columns", "cost:f64[0,100000] life:i32[1,15] year:i32[1,15]")
def double_declining_balance(r: Any) -> Any:
    book = r.cost
    amount = 0.0
    for _ in range(r.year):
        amount = book * 2 / r.life
        book -= amount
    return amount


@use("with_columns", "debt:f64 equity:f64")
def leverage_ratio(r: Any) -> Any:
    return r.debt / r.equity if r.equity else None


@use("with_columns", "first:f64[1,1000] last:f64[1,1000] years:f64[0.5,20]")
def cagr(r: Any) -> Any:
    return (r.last / r.first) ** (1 / r.years) - 1


@use("with_columns", "income:f64 debt:f64 late:i8[0,12] years:i8[0,40]")
def credit_grade(r: Any) -> Any:
    score = 600
    if r.income > 50_000:
        score += 80
    if r.debt < 0.3 * r.income:
        score += 60
    score -= 25 * r.late
    score += min(r.years, 10) * 5
    if score > 720:
        return "A"
    elif score > 640:
        return "B"
    return "C"


@use("with_columns", "face:f64[100,1000] coupon:f64[0,0.1] price:f64[80,1200] n:i32[1,30]")
def bond_yield_by_newton(r: Any) -> Any:
    y = 0.05
    for _ in range(20):
        value = 0.0
        slope = 0.0
        for year in range(1, r.n + 1):
            flow = r.face * r.coupon + (r.face if year == r.n else 0.0)
            value += flow / (1 + y) ** year
            slope -= year * flow / (1 + y) ** (year + 1)
        step = (value - r.price) / slope
        y -= step
        if abs(step) < 1e-9:
            break
    return y


class Split(NamedTuple):
    net: float
    vat: float
    gross: float


@use("map", "gross:f64 food:bool")
def split_vat(r: Any) -> Split:
    rate = 0.07 if r.food else 0.19
    net = round(r.gross / (1 + rate), 2)
    return Split(net=net, vat=r.gross - net, gross=r.gross)


@use("with_columns", "cents:i64")
def round_to_five_cents(r: Any) -> Any:
    return (r.cents + 2) // 5 * 5


use("with_columns", "high:f64 low:f64 close:f64", "typical_price")(lambda r: (r.high + r.low + r.close) / 3)
use("with_columns", "bid:f64 ask:f64", "spread_in_basis_points")(
    lambda r: (r.ask - r.bid) / ((r.ask + r.bid) / 2) * 10_000
)


@use("with_columns", "side:d{buy|sell|hold} shares:i32 price:f64")
def signed_exposure(r: Any) -> Any:
    sign = {"buy": 1, "sell": -1}.get(r.side, 0)
    return sign * r.shares * r.price


@use("filter", "amount:f64 hour:i8[0,23] country:s{US|DE|NG|RU} card_present:bool")
def suspicious_payment(r: Any) -> Any:
    if r.amount > 5_000 and not r.card_present:
        return True
    return r.hour < 5 and r.country not in ("US", "DE")


@use("with_columns", "wins:i32[0,1000] losses:i32[0,1000] payoff:f64[0.1,5]")
def kelly_fraction(r: Any) -> Any:
    played = r.wins + r.losses
    if played == 0:
        return 0.0
    p = r.wins / played
    return max(0.0, p - (1 - p) / r.payoff)


def make_fee(percent: float, minimum: float) -> Any:
    def fee(r: Any) -> Any:
        return max(r.amount * percent / 100, minimum)

    return fee


use("with_columns", "amount:f32", "brokerage_fee")(make_fee(0.25, 4.9))


@use("with_columns", "iban_digits:i64[0,900000000000000]")
def iban_check_number(r: Any) -> Any:
    return 98 - (r.iban_digits * 100) % 97


@use("with_columns", "amount:f64", refused="F-strings cannot be compiled")
def format_amount(r: Any) -> Any:
    return f"{r.amount:,.2f} EUR"
