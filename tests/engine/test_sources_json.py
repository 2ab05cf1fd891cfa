"""NDJSON and JSON arrays as a source."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflare as flare
from dataflare.kernels.errors import MemoryLimitError, OptionError, ReadError
from dataflare.sources import text_blocks
from dataflare.sources.json import JsonSource


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(source: Any) -> list[dict[str, Any]]:
    return [
        row for part in source.partitions() for batch in part.read(lambda: 7) for row in batch.to_pylist()
    ]


def test_types_are_found_and_missing_fields_are_null(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a":1,"b":"x","c":{"d":[1,2]},"e":null}\n\n{"b":"ü","a":2.5}\n{}')
    source = JsonSource.open(path)
    assert source.schema.field("a").type == pa.float64()
    assert source.schema.field("e").type == pa.string()
    assert rows(source)[1:] == [{"a": 2.5, "b": "ü", "c": None, "e": None}, dict.fromkeys("abce")]
    assert rows(source.with_projection(["b"])) == [{"b": "x"}, {"b": "ü"}, {"b": None}]
    assert [b.num_rows for p in source.with_projection([]).partitions() for b in p.read(lambda: 9)] == [3]


def test_an_array_is_read_like_lines(tmp_path: Path) -> None:
    records = [{"a": 1, "b": "x\ny"}, {"a": 2, "b": None}]
    path = write(tmp_path / "a.json", "\n " + json.dumps(records, indent=2))
    assert rows(JsonSource.open(path)) == records


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_in_blocks_however_large_it_is(tmp_path: Path, indent: int | None) -> None:
    records = [{"a": n, "b": f"text ü {n}", "c": "]},{ [\\" * (n % 40)} for n in range(50_000)]
    path = write(tmp_path / "a.json", json.dumps(records, indent=indent, ensure_ascii=False))
    pipeline = flare.read_json(path).filter(lambda r: r.a < 10)
    assert path.stat().st_size > 8_000_000
    assert pipeline.to_arrow(memory_limit="8MB", workers=1).to_pylist() == records[:10]
    blocks = JsonSource.open(path).with_blocks(2**16)
    parts = [batch.num_rows for part in blocks.partitions() for batch in part.read(lambda: 100_000)]
    assert sum(parts) == len(records) and max(parts) < 2_000


def test_an_array_with_an_element_too_long_for_the_limit_is_refused(tmp_path: Path) -> None:
    longest = {"a": 1, "b": "x" * 600_000}
    path = write(tmp_path / "a.json", json.dumps([{"a": 0, "b": ""}, longest]))
    pipeline = flare.read_json(path).filter(lambda r: r.a >= 0)
    with pytest.raises(
        MemoryLimitError,
        match=r"a\.json, line 1: element 1 of the array .* memory_limit, or write one object",
    ):
        pipeline.count(memory_limit="16MB")
    assert pipeline.count(memory_limit="128MB") == 2


def test_elements_of_an_array_are_named_by_their_number(tmp_path: Path) -> None:
    text = json.dumps([{"a": n} for n in range(20_000)] + [{"a": "x"}])
    source = JsonSource.open(write(tmp_path / "a.json", text), schema={"a": pa.int64()})
    with pytest.raises(ReadError, match=r"line 20,001: "):
        rows(source.with_blocks(2**16))


def test_a_line_too_long_for_the_limit_of_a_run_is_refused_by_its_number(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"a":1,"b":"x"}\n' * 1_000_000 + f'{{"a":2,"b":"{"y" * 12_000_000}"}}\n'
    )
    pipeline = flare.read_json(path).filter(lambda r: r.a > 1)
    with pytest.raises(
        ReadError, match=r"a\.jsonl, line 1,000,001: .* 3\.8 MiB: raise memory_limit for longer"
    ):
        pipeline.count(memory_limit="64MB")
    assert pipeline.count(memory_limit="256MB") == 1


def test_a_schema_may_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"a":1}\n{"a":2,"t":"2020-01-02 03:04:05"}\n')
    source = JsonSource.open(path, schema={"a": pa.float32(), "t": pa.timestamp("s")})
    assert [str(kind) for kind in source.schema.types] == ["float", "timestamp[s]"]
    assert rows(source)[1]["t"].year == 2020


values = st.none() | st.integers(-99, 99) | st.text(max_size=5)
records = st.lists(
    st.fixed_dictionaries({"n": st.none() | st.integers(), "s": st.none() | st.text(max_size=6)})
)


@given(records)
def test_blocks_end_where_records_end(given_rows: list[dict[str, Any]]) -> None:
    given_rows = [row for row in given_rows if row["n"] is None or abs(row["n"]) < 2**63]
    begin = text_blocks.TextReader.__init__

    def begin_small(self: Any, file: Any, **options: Any) -> None:
        begin(self, file, **{**options, "bounds": text_blocks.TextBounds(16)})

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks.TextReader, "__init__", begin_small)
        path = write(
            Path(folder, "a.json"), "\n".join(json.dumps(row, ensure_ascii=False) for row in given_rows)
        )
        source = JsonSource.open(path, schema={"n": pa.int64(), "s": pa.string()})
        assert rows(source) == given_rows


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ('{"a":', {}, r"line 3: .*: '\{\"a\":'\. on_bad_rows='skip' leaves such records out"),
        (
            '{"a":"x"}',
            {},
            r"line 3: Column\(/a\) changed from number to string: .*others can be given with schema=",
        ),
        (
            '{"a":1,"z":2}',
            {},
            r"line 3: it has a field that the records before do not have: .*unknown_fields='ignore'",
        ),
        (b'{"s":"\xff"}', {}, r"line 3: is not UTF-8: byte 0xff at byte 7 of the line"),
    ],
)
def test_a_bad_record_is_named_by_its_line(
    tmp_path: Path, line: str | bytes, options: dict[str, Any], message: str
) -> None:
    bad = line.encode() if isinstance(line, str) else line
    content = b'{"a":1,"s":"x"}\n{"a":2,"s":"y"}\n' + bad + b'\n{"a":4}\n'
    path = write(tmp_path / "a.json", content)
    schema = {"a": pa.int64(), "s": pa.string()}
    with pytest.raises(ReadError, match=rf"a\.json, {message}"):
        rows(JsonSource.open(path, schema=schema, **options))
    source = JsonSource.open(path, schema=schema, on_bad_rows="skip")
    assert [row["a"] for row in rows(source)] == [1, 2, 4]
    assert source.bad_rows == 1


def test_unknown_fields_can_be_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"a":1,"z":2}\n')
    source = JsonSource.open(path, schema={"a": pa.int64()}, unknown_fields="ignore")
    assert rows(source) == [{"a": 1}]
    with pytest.raises(ReadError, match="has a field that the records before do not have"):
        rows(JsonSource.open(path, schema={"a": pa.int64(), "b": pa.int64()}).with_projection(["b"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.json: is empty: no record is there to tell the fields\. Give schema="),
        ("{}\n{}\n", "no record at its beginning has a field"),
        ("[1, 2]", r"element 0 of the array is no object: 1"),
        ('[{"a":1},\n{"a":2} 3]', r"is not an array in JSON: Expecting ',' or '\]' in line 2\."),
        ('[{"a":1}]\n[]', r"is not an array in JSON: something comes after its end in line 2\."),
        ('[{"a":1},', r"begins with '\[' but is not an array in JSON: .* For one object a line, no bracket"),
        ('{"a":1}\n{"a"\n', r"line 2: "),
    ],
)
def test_files_whose_beginning_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        JsonSource.open(write(tmp_path / "a.json", content))


def test_an_array_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"a":' + "[" * 200_000)
    with pytest.raises(ReadError, match=r"a\.json: .* values are nested too deeply in line 1\."):
        JsonSource.open(path)


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown_fields must be 'error' or 'ignore'"):
        JsonSource.open(tmp_path, unknown_fields="drop")  # type: ignore[arg-type]
