"""Bits: hashes, checksums, packed fields, codes, random numbers."""

from __future__ import annotations

from typing import Any

from corpus.entry import use

MASK32 = 0xFFFFFFFF

use("with_columns", "x:i64", "lowest_set_bit")(lambda r: r.x & -r.x)
use("with_columns", "x:i64", "gray_code")(lambda r: r.x ^ (r.x >> 1))
use("with_columns", "x:i64", "zigzag")(lambda r: (r.x << 1) ^ (r.x >> 63))
use("filter", "x:i64", "power_of_two")(lambda r: r.x > 0 and r.x & (r.x - 1) == 0)
use("with_columns", "red:u8 green:u8 blue:u8", "pack_rgb")(lambda r: r.red << 16 | r.green << 8 | r.blue)
use("map", "rgb:u32", "unpack_rgb")(
    lambda r: {"red": r.rgb >> 16 & 255, "green": r.rgb >> 8 & 255, "blue": r.rgb & 255}
)
use("with_columns", "key:i64", "bucket_of_64")(lambda r: r.key * 0x9E3779B1 % 64)
use("with_columns", "flags:u16", "has_bits_three_and_five")(
    lambda r: bool(r.flags & 8) and bool(r.flags & 32)
)


@use("with_columns", "x:u32")
def popcount(r: Any) -> Any:
    n = r.x
    count = 0
    while n:
        n &= n - 1
        count += 1
    return count


@use("with_columns", "x:i32[0,1000000]")
def parity(r: Any) -> Any:
    x = r.x
    for shift in (16, 8, 4, 2, 1):
        x ^= x >> shift
    return x & 1


@use("with_columns", "key:u64")
def splitmix64(r: Any) -> Any:
    z = r.key + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@use("with_columns", "key:u32")
def murmur_finaliser(r: Any) -> Any:
    h = r.key
    h ^= h >> 16
    h = h * 0x85EBCA6B & MASK32
    h ^= h >> 13
    h = h * 0xC2B2AE35 & MASK32
    return h ^ h >> 16


@use("with_columns", "a:u8 b:u8 c:u8 d:u8")
def fnv1a(r: Any) -> Any:
    h = 0x811C9DC5
    for byte in (r.a, r.b, r.c, r.d):
        h = (h ^ byte) * 0x01000193 & MASK32
    return h


@use("with_columns", "seed:i64[1,4000000000]")
def xorshift_rounds(r: Any) -> Any:
    x = r.seed
    for _ in range(8):
        x ^= x << 13 & MASK32
        x ^= x >> 17
        x ^= x << 5 & MASK32
    return x


@use("with_columns", "x:u16 y:u16")
def morton_code(r: Any) -> Any:
    code = 0
    for bit in range(16):
        code |= (r.x >> bit & 1) << 2 * bit | (r.y >> bit & 1) << 2 * bit + 1
    return code


@use("with_columns", "byte:u8")
def crc8(r: Any) -> Any:
    crc = r.byte
    for _ in range(8):
        crc = (crc << 1) ^ 0x07 if crc & 0x80 else crc << 1
        crc &= 0xFF
    return crc


@use("with_columns", "x:u8")
def reverse_bits(r: Any) -> Any:
    result = 0
    for i in range(8):
        if r.x & (1 << i):
            result |= 1 << (7 - i)
    return result


@use("map", "ip:u32")
def ip_octets(r: Any) -> Any:
    return {"a": r.ip // 16_777_216, "b": r.ip // 65_536 % 256, "c": r.ip // 256 % 256, "d": r.ip % 256}


@use("filter", "ip:u32")
def private_address(r: Any) -> Any:
    if r.ip >> 24 == 10:
        return True
    return r.ip >> 20 == 0xAC1 or r.ip >> 16 == 0xC0A8


@use("with_columns", "bcd:u16")
def from_bcd(r: Any) -> Any:
    value = 0
    for shift in (12, 8, 4, 0):
        value = value * 10 + (r.bcd >> shift & 15)
    return value


@use("with_columns", "n:i64[0,4000]")
def roman_length(r: Any) -> Any:
    n = r.n
    length = 0
    for value, width in ((1000, 1), (900, 2), (500, 1), (400, 2), (100, 1), (90, 2), (50, 1), (40, 2)):
        while n >= value:
            n -= value
            length += width
    return length


@use("with_columns", "id:i64 shards:i32[1,100]")
def shard(r: Any) -> Any:
    return abs(r.id * 2654435761) % r.shards


@use("with_columns", "text:s", refused="`import hashlib` inside a record function is not available")
def digest(r: Any) -> Any:
    import hashlib

    return hashlib.sha256(r.text).hexdigest()


use("with_columns", "x:u64", "hexadecimal", refused="the function hex is not available")(lambda r: hex(r.x))
use("with_columns", "text:s", "hash_of_text", refused="the function hash is not available")(
    lambda r: hash(r.text)
)
