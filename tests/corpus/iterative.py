"""Loops: Newton, bisection, Collatz, gcd, digits, primes, series."""

from __future__ import annotations

import math
from typing import Any

from corpus.entry import use


@use("with_columns", "a:f64[0.0001,1000000]")
def newton_square_root(r: Any) -> Any:
    x = r.a
    for _ in range(40):
        new = 0.5 * (x + r.a / x)
        if abs(new - x) < 1e-12 * new:
            break
        x = new
    return x


@use("with_columns", "n:i64[1,100000]")
def collatz_steps(r: Any) -> Any:
    n = r.n
    steps = 0
    while n != 1 and steps < 1000:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return abs(a)


use("with_columns", "a:i64 b:i64", "greatest_common_divisor")(lambda r: gcd(r.a, r.b))
use("with_columns", "a:i32[1,10000] b:i32[1,10000]", "least_common_multiple")(
    lambda r: r.a * r.b // gcd(r.a, r.b)
)


@use("map", "top:i32 bottom:i32")
def reduced_fraction(r: Any) -> Any:
    if r.bottom == 0:
        return {"top": None, "bottom": None}
    d = gcd(r.top, r.bottom)
    if r.bottom < 0:
        d = -d
    return {"top": r.top // d, "bottom": r.bottom // d}


@use("with_columns", "n:i64[0,1000000000000]")
def digit_sum(r: Any) -> Any:
    n, total = r.n, 0
    while n > 0:
        total += n % 10
        n //= 10
    return total


@use("with_columns", "n:i64[0,1000000000]")
def reversed_number(r: Any) -> Any:
    n, result = r.n, 0
    while n:
        n, digit = divmod(n, 10)
        result = result * 10 + digit
    return result


@use("filter", "n:i32[0,100000]")
def palindrome_number(r: Any) -> Any:
    n, turned = r.n, 0
    while n > 0:
        turned = turned * 10 + n % 10
        n = n // 10
    return turned == r.n


@use("filter", "n:i32[-5,3000]")
def is_prime(r: Any) -> Any:
    if r.n < 2:
        return False
    i = 2
    while i * i <= r.n:
        if r.n % i == 0:
            return False
        i += 1
    return True


@use("filter", "n:i32[0,2000]")
def is_prime_with_else(r: Any) -> Any:
    d = 2
    while d * d <= r.n:
        if r.n % d == 0:
            prime = False
            break
        d += 1
    else:
        prime = r.n > 1
    return prime


@use("with_columns", "n:u8[0,90]")
def fibonacci(r: Any) -> Any:
    a, b = 0, 1
    for _ in range(r.n):
        a, b = b, a + b
    return a


@use("with_columns", "n:i8[-2,25]")
def factorial(r: Any) -> Any:
    if r.n < 0:
        return None
    result = 1
    for i in range(2, r.n + 1):
        result *= i
    return result


@use("with_columns", "n:i32[0,60] k:i32[0,60]")
def binomial(r: Any) -> Any:
    k = min(r.k, r.n - r.k)
    if k < 0:
        return 0
    result = 1
    for i in range(k):
        result = result * (r.n - i) // (i + 1)
    return result


@use("with_columns", "base:i64[0,1000000] exponent:i64[0,100000] modulus:i64[1,1000000]")
def modular_power(r: Any) -> Any:
    result, base, e = 1, r.base % r.modulus, r.exponent
    while e > 0:
        if e & 1:
            result = result * base % r.modulus
        base = base * base % r.modulus
        e >>= 1
    return result


@use("with_columns", "n:i64[0,4000000000000000]")
def integer_square_root(r: Any) -> Any:
    if r.n < 2:
        return r.n
    x = r.n
    y = (x + 1) // 2
    while y < x:
        x = y
        y = (x + r.n // x) // 2
    return x


@use("with_columns", "c:f64[0,3]")
def cube_root_by_bisection(r: Any) -> Any:
    low, high = 0.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle * middle * middle < r.c:
            low = middle
        else:
            high = middle
        if high - low < 1e-13:
            break
    return (low + high) / 2


@use("with_columns", "mean:f64[-7,7] eccentricity:f64[0,0.9]")
def kepler_equation(r: Any) -> Any:
    e = r.mean
    for _ in range(30):
        step = (e - r.eccentricity * math.sin(e) - r.mean) / (1 - r.eccentricity * math.cos(e))
        e -= step
        if abs(step) < 1e-13:
            return e
    return e


@use("with_columns", "x:f64[-3,3]")
def sine_series(r: Any) -> Any:
    term = r.x
    total = r.x
    for k in range(1, 12):
        term *= -r.x * r.x / ((2 * k) * (2 * k + 1))
        total += term
    return total


@use("with_columns", "x:f64[-2,2] y:f64[-2,2]")
def mandelbrot_iterations(r: Any) -> Any:
    zr = zi = 0.0
    for i in range(100):
        zr, zi = zr * zr - zi * zi + r.x, 2 * zr * zi + r.y
        if zr * zr + zi * zi > 4:
            return i
    return 100


@use("with_columns", "number:i64[0,9999999999999999]")
def luhn_valid(r: Any) -> Any:
    n, total, double = r.number, 0, False
    while n > 0:
        digit = n % 10
        n //= 10
        if double:
            digit *= 2
            if digit > 9:
                digit -= 9
        total += digit
        double = not double
    return total % 10 == 0


@use("with_columns", "n:i32[1,5000]")
def sum_of_divisors(r: Any) -> Any:
    total = 0
    d = 1
    while d * d <= r.n:
        if r.n % d == 0:
            total += d
            if d != r.n // d:
                total += r.n // d
        d += 1
    return total


@use("with_columns", "n:i64[0,1000000]")
def happy_number(r: Any) -> Any:
    n = r.n
    for _ in range(30):
        if n == 1:
            return True
        total = 0
        while n > 0:
            n, d = divmod(n, 10)
            total += d * d
        n = total
    return False


@use("with_columns", "saved:f64[0,10000] goal:f64[1,20000] rate:f64[0,0.1]")
def months_to_goal(r: Any) -> Any:
    balance = 0.0
    months = 0
    while balance < r.goal:
        balance = balance * (1 + r.rate / 12) + r.saved / 12
        months += 1
        if months >= 1200:
            return None
    return months


@use("with_columns", "x:f64[0.1,5] y:f64[0.1,5]")
def arithmetic_geometric_mean(r: Any) -> Any:
    a, g = r.x, r.y
    while abs(a - g) > 1e-12:
        a, g = (a + g) / 2, math.sqrt(a * g)
    return a


@use("with_columns", "n:i64[1,1000000]")
def binary_length(r: Any) -> Any:
    if r.n is None:
        return None
    length = 0
    n = r.n
    while True:
        if n == 0:
            break
        n >>= 1
        length += 1
    return length


@use("with_columns", "n:i32[1,100000]")
def smallest_prime_factor(r: Any) -> Any:
    for p in (2, 3, 5, 7, 11, 13, 17, 19, 23):
        if r.n % p == 0:
            return p
    return r.n


@use("with_columns", "target:i32[1,400]")
def triangular_root(r: Any) -> Any:
    total = 0
    for k in range(1, 100):
        total += k
        if total >= r.target:
            return k if total == r.target else None
    return None


@use("with_columns", "n:i32[0,20]", refused="calls itself")
def recursive_factorial(r: Any) -> Any:
    return recursion(r.n)


def recursion(n: int) -> int:
    return 1 if n <= 1 else n * recursion(n - 1)


@use("with_columns", "m:i64[1,3000] y:f64[-10,10]")
def horner_digits(r: Any) -> Any:
    value = 0.0
    m = r.m
    while m:
        value = value * r.y + m % 7
        m //= 7
    return value
