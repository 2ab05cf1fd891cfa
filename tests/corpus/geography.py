"""Places on the Earth: distances, bearings, tiles, zones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from corpus.entry import use

EARTH_KM = 6371.0
PLACE = "lat:f64[-90,90] lon:f64[-180,180]"
TWO_PLACES = "lat1:f64[-90,90] lon1:f64[-180,180] lat2:f64[-90,90] lon2:f64[-180,180]"


@use("with_columns", TWO_PLACES)
def haversine_km(r: Any) -> Any:
    lat1, lon1, lat2, lon2 = (math.radians(x) for x in (r.lat1, r.lon1, r.lat2, r.lon2))
    a = math.sin((lat2 - lat1) / 2) ** 2
    a += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(a))


@use("with_columns", TWO_PLACES)
def equirectangular_km(r: Any) -> Any:
    x = np.radians(r.lon2 - r.lon1) * np.cos(np.radians((r.lat1 + r.lat2) / 2))
    y = np.radians(r.lat2 - r.lat1)
    return np.sqrt(x * x + y * y) * EARTH_KM


@use("with_columns", TWO_PLACES)
def initial_bearing(r: Any) -> Any:
    phi1, phi2 = math.radians(r.lat1), math.radians(r.lat2)
    dl = math.radians(r.lon2 - r.lon1)
    y = math.sin(dl) * math.cos(phi2)
    x = math.cos(phi1) * math.sin(phi2) - math.sin(phi1) * math.cos(phi2) * math.cos(dl)
    return (math.degrees(math.atan2(y, x)) + 360) % 360


@use("with_columns", "bearing:f64[0,360]")
def compass_point(r: Any) -> Any:
    names = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
    return names[int((r.bearing + 22.5) // 45) % 8]


@use("map", PLACE + " zoom:u8[0,18]")
def slippy_tile(r: Any) -> Any:
    n = 1 << r.zoom
    x = int((r.lon + 180.0) / 360.0 * n)
    lat = math.radians(r.lat)
    y = int((1.0 - math.asinh(math.tan(lat)) / math.pi) / 2.0 * n)
    return {"x": x, "y": y, "zoom": r.zoom}


@use("filter", PLACE)
def inside_europe(r: Any) -> Any:
    return 35 <= r.lat <= 71 and -10 <= r.lon <= 40


@use("with_columns", "lon:f64")
def normalise_longitude(r: Any) -> Any:
    return (r.lon + 180) % 360 - 180


use("with_columns", "lon:f64[-180,180]", "utm_zone")(lambda r: min(int((r.lon + 180) / 6) + 1, 60))


@use("map", "lat:f64[-85,85] lon:f64[-180,180]")
def web_mercator(r: Any) -> Any:
    k = 6378137.0
    return {
        "x": k * math.radians(r.lon),
        "y": k * math.log(math.tan(math.pi / 4 + math.radians(r.lat) / 2)),
    }


@use("with_columns", "degrees:i16[-180,180] minutes:u8[0,59] seconds:f32[0,60]")
def dms_to_decimal(r: Any) -> Any:
    sign = -1 if r.degrees < 0 else 1
    return r.degrees + sign * (r.minutes / 60 + r.seconds / 3600)


@use("map", "angle:f64[-180,180]")
def decimal_to_dms(r: Any) -> Any:
    value = abs(r.angle)
    degrees = int(value)
    minutes = int((value - degrees) * 60)
    seconds = (value - degrees) * 3600 - minutes * 60
    return {"degrees": degrees if r.angle >= 0 else -degrees, "minutes": minutes, "seconds": seconds}


@use("with_columns", PLACE)
def hemisphere(r: Any) -> Any:
    if r.lat >= 0:
        return "NE" if r.lon >= 0 else "NW"
    return "SE" if r.lon >= 0 else "SW"


@use("with_columns", "x:f64 y:f64")
def inside_triangle(r: Any) -> Any:
    corners = ((0.0, 0.0), (100.0, 0.0), (50.0, 80.0))
    inside = True
    for i in range(3):
        x1, y1 = corners[i]
        x2, y2 = corners[(i + 1) % 3]
        if (x2 - x1) * (r.y - y1) - (y2 - y1) * (r.x - x1) < 0:
            inside = False
    return inside


@use("with_columns", "x:f64[-10,10] y:f64[-10,10]")
def point_in_polygon(r: Any) -> Any:
    polygon = [(-5.0, -5.0), (5.0, -6.0), (7.0, 3.0), (0.0, 8.0), (-6.0, 2.0)]
    inside = False
    j = len(polygon) - 1
    for i in range(len(polygon)):
        xi, yi = polygon[i]
        xj, yj = polygon[j]
        if (yi > r.y) != (yj > r.y) and r.x < (xj - xi) * (r.y - yi) / (yj - yi) + xi:
            inside = not inside
        j = i
    return inside


@use("with_columns", "elevation:f64[-400,9000]")
def climate_belt(r: Any) -> Any:
    if r.elevation is None:
        return "unknown"
    if r.elevation < 1000:
        return "warm"
    if r.elevation < 2000:
        return "temperate"
    return "cold" if r.elevation < 4000 else "frozen"


@use("with_columns", "px:f64 py:f64 ax:f64 ay:f64 bx:f64 by:f64")
def distance_to_segment(r: Any) -> Any:
    dx, dy = r.bx - r.ax, r.by - r.ay
    length = dx * dx + dy * dy
    t = 0.0 if length == 0 else ((r.px - r.ax) * dx + (r.py - r.ay) * dy) / length
    t = max(0.0, min(1.0, t))
    return math.hypot(r.px - r.ax - t * dx, r.py - r.ay - t * dy)


@use("with_columns", "lat:f64[-90,90] lon:f64[-180,180]")
def geohash_cell(r: Any) -> Any:
    low_lat, high_lat = -90.0, 90.0
    low_lon, high_lon = -180.0, 180.0
    cell = 0
    for bit in range(30):
        cell <<= 1
        if bit % 2 == 0:
            middle = (low_lon + high_lon) / 2
            if r.lon >= middle:
                cell |= 1
                low_lon = middle
            else:
                high_lon = middle
        else:
            middle = (low_lat + high_lat) / 2
            if r.lat >= middle:
                cell |= 1
                low_lat = middle
            else:
                high_lat = middle
    return cell


use(
    "filter",
    "position:struct",
    "struct_field_east",
    refused="cannot be used inside a record function, only passed on",
)(lambda r: r.position["x"] > 0)


@use("filter", TWO_PLACES + " radius:f32[0,500]")
def within_radius(r: Any) -> Any:
    dy = (r.lat2 - r.lat1) * 111.2
    dx = (r.lon2 - r.lon1) * 111.2 * math.cos(math.radians(r.lat1))
    return dx * dx + dy * dy <= r.radius * r.radius


@use("with_columns", "lat:f64[-66,66] day:i16[1,365]")
def day_length_hours(r: Any) -> Any:
    declination = math.radians(-23.44) * math.cos(2 * math.pi / 365 * (r.day + 10))
    cosine = -math.tan(math.radians(r.lat)) * math.tan(declination)
    if cosine >= 1:
        return 0.0
    if cosine <= -1:
        return 24.0
    return 24 / math.pi * math.acos(cosine)
