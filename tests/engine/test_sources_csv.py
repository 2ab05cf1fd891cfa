"""CSV files as a source: values, types, bad rows with their line, encodings, blocks."""

from __future__ import annotations

import csv
import gzip
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflare as flare
from dataflare.kernels.errors import OptionError, ReadError, SchemaError, SchemaMismatchError
from dataflare.sources import text_blocks
from dataflare.sources.csv import CsvSource


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(source: Any, batch_rows: int = 1_000) -> list[dict[str, Any]]:
    return [
        row
        for part in source.partitions()
        for batch in part.read(lambda: batch_rows)
        for row in batch.to_pylist()
    ]


def test_values_types_and_nulls(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        'n,x,s,"a,b",d\r\n1,2.5,"say ""hi""",true,2020-01-02\r\n,,"",,\r\n-3,nan,"two\r\nlines",false,\r\n',
    )
    source = CsvSource.open(path)
    assert [str(kind) for kind in source.schema.types] == ["int64", "double", "string", "bool", "date32[day]"]
    first, second, third = rows(source)
    assert first["s"] == 'say "hi"'
    assert second == {"n": None, "x": None, "s": "", "a,b": None, "d": None}
    assert math.isnan(third["x"])
    assert third["s"] == "two\r\nlines"
    assert source.description == f"CSV {path}: 5 of 5 columns"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_options(tmp_path: Path, suffix: str) -> None:
    content = "1;NA;'x;y'\n2;3;NA\n"
    data = gzip.compress(content.encode()) if suffix else content.encode()
    path = write(tmp_path / f"a.csv{suffix}", data)
    source = CsvSource.open(
        path,
        delimiter=";",
        header=False,
        column_names=["a", "b", "c"],
        column_types={"a": pa.int8()},
        null_values=["NA"],
        quote="'",
    )
    assert source.schema == pa.schema([("a", pa.int8()), ("b", pa.int64()), ("c", pa.string())])
    assert rows(source) == [{"a": 1, "b": None, "c": "x;y"}, {"a": 2, "b": 3, "c": None}]


def test_tabs_are_seen_from_the_suffix_and_marks_are_no_text(tmp_path: Path) -> None:
    assert rows(CsvSource.open(write(tmp_path / "a.tsv", "a\tb\n1\tx\n"))) == [{"a": 1, "b": "x"}]
    assert rows(CsvSource.open(write(tmp_path / "b.csv", b"\xef\xbb\xbfa,b\n1,x"))) == [{"a": 1, "b": "x"}]


def test_text_that_looks_like_null_stays_text(tmp_path: Path) -> None:
    assert rows(CsvSource.open(write(tmp_path / "a.csv", "country\nNA\nnull\n"))) == [
        {"country": "NA"},
        {"country": "null"},
    ]


def test_a_column_without_values_is_text_and_one_column_keeps_its_nulls(tmp_path: Path) -> None:
    source = CsvSource.open(write(tmp_path / "a.csv", "a,b\n1,\n2,\n"))
    assert source.schema.field("b").type == pa.string()
    assert rows(CsvSource.open(write(tmp_path / "b.csv", "a\n1\n\n3\n"))) == [{"a": 1}, {"a": None}, {"a": 3}]


def test_header_only_and_projection(tmp_path: Path) -> None:
    assert rows(CsvSource.open(write(tmp_path / "h.csv", "a,b\n"))) == []
    source = CsvSource.open(write(tmp_path / "a.csv", "a,b\n1,x\n2,y\n"))
    assert rows(source.with_projection(["b"])) == [{"b": "x"}, {"b": "y"}]
    none = source.with_projection([])
    assert [batch.num_rows for part in none.partitions() for batch in part.read(lambda: 1)] == [1, 1]


def read_in_blocks_of(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = text_blocks.TextReader.__init__

    def begin_small(self: Any, file: Any, **options: Any) -> None:
        begin(self, file, **{**options, "bounds": text_blocks.TextBounds(block_bytes)})

    monkeypatch.setattr(text_blocks.TextReader, "__init__", begin_small)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_blocks_of(16, monkeypatch)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


@pytest.mark.usefixtures("small_blocks")
@given(st.lists(st.tuples(cells, st.integers(-99, 99)), max_size=30), st.booleans())
def test_blocks_end_where_records_end(records: list[tuple[str, int]], final_newline: bool) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["s", "n"])
    writer.writerows(records)
    content = text.getvalue() if final_newline else text.getvalue().rstrip("\n")
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.csv"), content)
        source = CsvSource.open(path, column_types={"s": pa.string(), "n": pa.int64()})
        assert [(row["s"], row["n"]) for row in rows(source)] == records


@pytest.mark.parametrize("blocks", ["one block", "small blocks"])
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("7", r"line 9: Expected 3 columns, got 1: '7'\. on_bad_rows='skip' leaves such rows out\."),
        ("7,8,9,10", r"line 9: Expected 3 columns, got 4: '7,8,9,10'\."),
        (
            "x,8,t",
            r"line 9: column 'a': conversion error to int64: invalid value 'x': 'x,8,t'\. If 'a' is no int64, say "
            r"column_types=\{'a': \.\.\.\}; on_bad_rows='skip'",
        ),
        (
            b"7,8,\xff\xfe",
            r"line 9: is not UTF-8: byte 0xff at byte 5 of the line \(byte \d+ of the file\)\. "
            r"If the file has another encoding, name it: encoding='latin-1'",
        ),
        (
            '7,8,"t',
            r"line 9: in this row or one before it a quote opens that is never closed: '7,8,\"t'\. If quotes have no "
            r"meaning here, say quote=None\.",
        ),
    ],
)
def test_a_broken_row_is_named_by_its_line(
    tmp_path: Path, request: pytest.FixtureRequest, blocks: str, broken: str | bytes, message: str
) -> None:
    if blocks == "small blocks":
        request.getfixturevalue("small_blocks")
    good = b'1,2,"a\nb"\n3,4,"c"\n5,6,d\n' * 2
    bad = broken.encode() if isinstance(broken, str) else broken
    path = write(tmp_path / "a.csv", b"a,b,c\n" + good[:-6] + bad + b"\n" + b"1,2,x\n" * 9)
    types = {"a": pa.int64(), "b": pa.int64(), "c": pa.string()}
    with pytest.raises(ReadError, match=rf"a\.csv, {message}"):
        rows(CsvSource.open(path, column_types=types))


@pytest.mark.parametrize("block_bytes", [16, 2**20])
def test_bad_rows_can_be_skipped_and_are_counted(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in_blocks_of(block_bytes, monkeypatch)
    lines = ["a,b"]
    for number in range(50):
        lines.append(
            {10: "1", 20: "x,1", 30: "1,2,3", 40: "5,y", 41: "6,z"}.get(number, f"{number},{number}")
        )
    path = write(tmp_path / "a.csv", "\n".join(lines))
    source = CsvSource.open(path, column_types={"a": pa.int64(), "b": pa.int64()}, on_bad_rows="skip")
    projected = source.with_projection(["a"])
    assert [row["a"] for row in rows(source)] == [i for i in range(50) if i not in (10, 20, 30, 40, 41)]
    assert source.bad_rows == projected.bad_rows == 5


def test_other_encodings(tmp_path: Path) -> None:
    latin = write(tmp_path / "l.csv", "a,b\nä,1\n".encode("latin-1"))
    with pytest.raises(ReadError, match=r"l\.csv, line 2: is not UTF-8: byte 0xe4 at byte 1 of the line"):
        CsvSource.open(latin)
    assert rows(CsvSource.open(latin, encoding="latin-1")) == [{"a": "ä", "b": 1}]
    wide = write(tmp_path / "w.csv", "a,b\nä,1\n".encode("utf-16"))
    with pytest.raises(ReadError, match=r"w\.csv: is UTF-16 by its first bytes\. Say encoding='utf-16'"):
        CsvSource.open(wide)
    assert rows(CsvSource.open(wide, encoding="utf-16")) == [{"a": "ä", "b": 1}]
    with pytest.raises(ReadError, match=r"l\.csv: is not ascii: ordinal not in range"):
        CsvSource.open(latin, encoding="ascii")
    with pytest.raises(ReadError, match=r"line 1: is not UTF-8"):
        CsvSource.open(write(tmp_path / "h.csv", b"a,\xff\n1,2\n"))


def test_files_may_have_their_columns_in_another_order(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "a,b\n1,x\n")
    write(tmp_path / "2.csv", "b,a\ny,2\n")
    assert rows(CsvSource.open(tmp_path)) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    renamed = CsvSource.open(tmp_path / "1.csv", column_names=["u", "v"])
    assert rows(renamed) == [{"u": 1, "v": "x"}]


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (
            "a,bb\n1,x\n",
            SchemaMismatchError,
            r"2\.csv: has no column 'b', which .*1\.csv has as string\. Did you mean 'bb'\?",
        ),
        ("a,b,c\n1,x,2\n", SchemaMismatchError, r"2\.csv: has the column 'c', which .*1\.csv has not"),
        (
            "a,b\n1.5,x\n",
            ReadError,
            r"2\.csv, line 2: column 'a': conversion error to int64: invalid value '1\.5'",
        ),
    ],
)
def test_a_change_of_schema_between_files(
    tmp_path: Path, second: str, error: type[Exception], message: str
) -> None:
    write(tmp_path / "1.csv", "a,b\n1,x\n")
    write(tmp_path / "2.csv", second)
    with pytest.raises(error, match=message):
        rows(CsvSource.open(tmp_path))


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        ("", {}, ReadError, "is empty, not even a header is there"),
        (
            "a,a\n1,2\n",
            {},
            SchemaError,
            "line 1: the name 'a' is there 2 times. Give other names with column_names",
        ),
        ("a,\n1,2\n", {}, ReadError, "line 1: column 2 has no name: 'a,'"),
        (
            "a\n1\n",
            {"column_types": {"b": pa.int8()}},
            OptionError,
            r"column_types: .*a\.csv has no column 'b'",
        ),
        (
            "a,b\n1,2\n",
            {"column_names": ["x"]},
            OptionError,
            r"column_names has 1 names, but .* has 2 columns",
        ),
        ("1\n", {"header": False}, OptionError, "without a header the columns need names"),
        ("a\n", {"delimiter": ";;"}, OptionError, "delimiter must be one ASCII character, not ';;'"),
        ("a\n", {"on_bad_rows": "drop"}, OptionError, "on_bad_rows must be 'error' or 'skip', not 'drop'"),
        ("a\n", {"encoding": "utf8000"}, OptionError, "Python knows no encoding 'utf8000'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    tmp_path: Path, content: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(error, match=message):
        CsvSource.open(path, **options)


def test_compressions(tmp_path: Path) -> None:
    with pytest.raises(
        ReadError, match=r"a\.csv\.zip: \.zip files cannot be read\. Unpack it, or compress it as \.gz"
    ):
        CsvSource.open(write(tmp_path / "a.csv.zip", "PK"))
    with pytest.raises(ReadError, match=r"b\.csv\.gz: cannot be read: "):
        CsvSource.open(write(tmp_path / "b.csv.gz", "no gzip at all"))


def test_a_quote_that_is_never_closed_does_not_take_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_blocks, "_LONGEST_RECORD_BYTES", 1_000)
    read_in_blocks_of(64, monkeypatch)
    path = write(tmp_path / "a.csv", 'a,b\n1,2\n3,"' + "x\n" * 10_000)
    with pytest.raises(
        ReadError, match=r"a\.csv, line 3: no record ends within [\d,]+ bytes\. Is a quote never closed"
    ):
        rows(CsvSource.open(path, column_types={"a": pa.int64(), "b": pa.string()}))


def test_rows_of_megabytes_are_read_like_others(tmp_path: Path) -> None:
    long = "y" * 5_000_000
    path = write(tmp_path / "a.csv", f"a,b\n0\n1,x\n2,{long}\n3\n4,z\n")
    source = CsvSource.open(path, on_bad_rows="skip")
    assert [(row["a"], row["b"]) for row in rows(source)] == [(1, "x"), (2, long), (4, "z")]
    assert source.bad_rows == 2


def test_smaller_blocks_hold_less_and_refuse_a_record_longer_than_they_allow(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\n" + "".join(f"{n},text {n}\n" for n in range(20_000)))
    source = CsvSource.open(path)
    small = source.with_blocks(2**16)
    assert small.reading_bytes == source.reading_bytes // 128
    assert rows(small) == rows(source)
    long = write(tmp_path / "long.csv", f"a,b\n1,x\n2,{'y' * 2**20}\n")
    assert rows(CsvSource.open(long))[1]["b"] == "y" * 2**20
    with pytest.raises(
        ReadError, match=r"long\.csv, line 3: no record ends within .* 64.0 KiB: raise memory_limit"
    ):
        rows(CsvSource.open(long).with_blocks(2**16).with_reading_bound(2**18))
    assert rows(CsvSource.open(long).with_blocks(2**16)) == rows(
        CsvSource.open(long)
    )  # nobody has set a limit


def test_a_row_too_long_for_the_limit_of_a_run_is_refused_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "long.csv", "a,b\n" + "1,x\n" * 1_500_000 + f"2,{'y' * 12_000_000}\n")
    pipeline = flare.read_csv(path).filter(lambda r: r.a > 1).write_parquet(tmp_path / "out.parquet")
    with pytest.raises(
        ReadError, match=r"long\.csv, line 1,500,002: .* 3\.8 MiB: raise memory_limit for longer"
    ):
        pipeline.run(memory_limit="64MB")
    assert list(tmp_path.iterdir()) == [path]
    assert pipeline.run(memory_limit="256MB").rows_out == 1
