"""Pixels, colours, cells, games on a grid."""

from __future__ import annotations

from typing import Any

from corpus.entry import use

RGB = "red:u8 green:u8 blue:u8"

use("with_columns", RGB, "luma")(lambda r: 0.299 * r.red + 0.587 * r.green + 0.114 * r.blue)
use("with_columns", RGB, "integer_grey")(lambda r: (r.red * 77 + r.green * 150 + r.blue * 29) >> 8)
use("map", RGB, "inverted")(lambda r: {"red": 255 - r.red, "green": 255 - r.green, "blue": 255 - r.blue})
use("with_columns", "grey:u8", "gamma_corrected")(lambda r: round(255 * (r.grey / 255) ** (1 / 2.2)))
use("with_columns", "over:u8 under:u8 alpha:f32[0,1]", "alpha_blend")(
    lambda r: int(r.over * r.alpha + r.under * (1 - r.alpha))
)
use("filter", RGB, "skin_tone")(
    lambda r: r.red > 95 and r.green > 40 and r.blue > 20 and r.red > r.green and abs(r.red - r.green) > 15
)
use("with_columns", "alive:bool neighbours:u8[0,8]", "game_of_life")(
    lambda r: r.neighbours == 3 or (r.alive and r.neighbours == 2)
)
use("with_columns", "x:i32 y:i32", "checkerboard")(lambda r: (r.x + r.y) % 2 == 0)


@use("map", RGB)
def rgb_to_hsv(r: Any) -> Any:
    red, green, blue = r.red / 255, r.green / 255, r.blue / 255
    high, low = max(red, green, blue), min(red, green, blue)
    span = high - low
    if span == 0:
        hue = 0.0
    elif high == red:
        hue = 60 * ((green - blue) / span % 6)
    elif high == green:
        hue = 60 * ((blue - red) / span + 2)
    else:
        hue = 60 * ((red - green) / span + 4)
    return {"hue": hue, "saturation": 0.0 if high == 0 else span / high, "value": high}


@use("with_columns", "a:u8 b:u8 c:u8")
def paeth_predictor(r: Any) -> Any:
    p = r.a + r.b - r.c
    pa, pb, pc = abs(p - r.a), abs(p - r.b), abs(p - r.c)
    if pa <= pb and pa <= pc:
        return r.a
    return r.b if pb <= pc else r.c


@use("with_columns", "c:f64[0,1]")
def linear_to_srgb(r: Any) -> Any:
    if r.c <= 0.0031308:
        return 12.92 * r.c
    return 1.055 * r.c ** (1 / 2.4) - 0.055


@use("with_columns", "x:f64[0,1] y:f64[0,1]")
def smooth_noise_weight(r: Any) -> Any:
    def fade(t: Any) -> Any:
        return t * t * t * (t * (t * 6 - 15) + 10)

    return fade(r.x) * fade(r.y)


@use("with_columns", "index:i32[0,63] file:i32[0,7] rank:i32[0,7]")
def knight_reaches(r: Any) -> Any:
    df, dr = abs(r.index % 8 - r.file), abs(r.index // 8 - r.rank)
    return (df, dr) in ((1, 2), (2, 1))


@use("with_columns", "x:i16[0,15] y:i16[0,15]")
def hilbert_distance(r: Any) -> Any:
    x, y, d = r.x, r.y, 0
    s = 8
    while s > 0:
        rx = 1 if x & s else 0
        ry = 1 if y & s else 0
        d += s * s * ((3 * rx) ^ ry)
        if ry == 0:
            if rx == 1:
                x, y = 15 - x, 15 - y
            x, y = y, x
        s //= 2
    return d


@use("with_columns", "row:u16 column:u16 width:u16")
def bayer_colour(r: Any) -> Any:
    if r.row % 2 == 0:
        return "R" if r.column % 2 == 0 else "G"
    return "G" if r.column % 2 == 0 else "B"
