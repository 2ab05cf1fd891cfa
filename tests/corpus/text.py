"""Strings: codes, names, prefixes, categories, addresses."""

from __future__ import annotations

from typing import Any

from corpus.entry import use

VOWELS = "aeiou"
TITLES = {"Mr", "Mrs", "Dr", "Prof"}
CODES = {"new": 1, "open": 2, "closed": 3}

use("filter", "country:s{DE|FR|US|}", "is_german")(lambda r: r.country == "DE")
use("filter", "status:d{new|open|closed|lost}", "not_closed")(lambda r: r.status != "closed")
use("filter", "code:s{A12|B07|A99|}", "starts_with_a")(lambda r: r.code.startswith("A"))
use("filter", "file:s{a.txt|b.csv|c.parquet|x}", "is_a_table_file")(
    lambda r: r.file.endswith((".csv", ".parquet"))
)
use("filter", "name:s", "short_name")(lambda r: len(r.name) <= 3)
use("filter", "mail:s{a@x.org|bob|c@y.com}", "has_an_at_sign", single="text contains")(
    lambda r: "@" in r.mail
)
use("with_columns", "title:ls{Mr|Dr|Sir|}", "is_a_title")(lambda r: r.title in TITLES)
use("with_columns", "status:s{new|open|closed|lost}", "status_number")(lambda r: CODES[r.status])
use("with_columns", "first:s second:s", "alphabetically_first", single="text lt")(
    lambda r: min(r.first, r.second)
)
use("with_columns", "nick:s name:s", "display_name")(lambda r: r.nick or r.name or "anonymous")
use("filter", "a:s b:s", "same_text", single="text eq")(lambda r: r.a == r.b)
use("filter", "text:sv{|x|a long text that is not inline}", "not_empty")(lambda r: r.text != "")


@use("with_columns", "url:s{https://a.org|http://b|ftp://c|x}")
def scheme(r: Any) -> Any:
    if r.url.startswith("https://"):
        return "secure"
    elif r.url.startswith("http://"):
        return "plain"
    return "other"


@use("with_columns", "zip:s{10115|80331|1010|}", single="text lt")
def region_by_zip(r: Any) -> Any:
    if len(r.zip) != 5:
        return None
    if r.zip < "30000":
        return "east"
    return "north" if r.zip < "60000" else "south"


@use("with_columns", "name:s")
def length_class(r: Any) -> Any:
    n = len(r.name)
    return 0 if n == 0 else 1 if n < 5 else 2 if n < 12 else 3


@use("with_columns", "answer:s{yes|no|Y|N|maybe}")
def yes_no_flag(r: Any) -> Any:
    if r.answer in ("yes", "Y", "y", "true"):
        return True
    if r.answer in ("no", "N", "n", "false"):
        return False
    return None


@use("map", "name:s city:d{Rome|Oslo|Lima} age:i16")
def keep_and_label(r: Any) -> Any:
    return {"name": r.name, "city": r.city, "group": "adult" if r.age >= 18 else "minor"}


@use("filter", "sku:s{AB-1|CD-2|AB-3|}")
def sku_is_listed(r: Any) -> Any:
    return any(r.sku == listed for listed in ("AB-1", "AB-2", "AB-3"))


@use("with_columns", "line:s{ERROR disk|WARN cpu|INFO ok|DEBUG x}")
def severity(r: Any) -> Any:
    for level, prefix in enumerate(("DEBUG", "INFO", "WARN", "ERROR")):
        if r.line.startswith(prefix):
            return level
    return -1


use("with_columns", "code:s{DE123|FR9|U}", "country_prefix", refused="gets a part of a string")(
    lambda r: r.code[:2]
)
use(
    "with_columns",
    "code:s{DE123|FR9|U}",
    "last_character_is_digit",
    single="text matches",
)(lambda r: r.code[-1:].isdigit())
use("with_columns", "name:s", "trimmed", refused="gets what .strip\\(\\) makes")(lambda r: r.name.strip())
use(
    "filter",
    "city:s{ROME|rome|Oslo}",
    "city_without_case",
    single="text matches",
)(lambda r: r.city.lower() == "rome")
use(
    "with_columns",
    "mail:s{a@x.org|bob|c@y.com}",
    "place_of_at",
    single="text find",
)(lambda r: r.mail.find("@"))
use(
    "with_columns",
    "amount:s{12|-7|x| 5}",
    "text_to_integer",
    refused="int\\(\\) of a string is not available",
)(lambda r: int(r.amount))
use(
    "with_columns",
    "amount:s{1.5|-2e3|nan|abc}",
    "text_to_float",
    refused="float\\(\\) of a string is not available",
)(lambda r: float(r.amount))
use("with_columns", "name:s", "initials", refused="the string method .split")(
    lambda r: r.name.split(" ")[0][0]
)
use("with_columns", "price:s{$1.20|$3}", "without_dollar_sign", refused="the string method .replace")(
    lambda r: float(r.price.replace("$", ""))
)
use("with_columns", "first:s last:s", "full_name", refused="do not build new strings")(
    lambda r: r.first + " " + r.last
)


@use("with_columns", "word:s", refused="cannot be iterated over")
def count_vowels(r: Any) -> Any:
    return sum(1 for c in r.word if c in VOWELS)
