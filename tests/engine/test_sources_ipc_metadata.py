"""Metadata of Arrow IPC messages: records and bytes as PyArrow reads them, and damage that is noticed."""

from __future__ import annotations

import io
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.sample_data import every_type, sample_array
from dataflare.sources.ipc_metadata import FileLayout, decoded_bytes, file_layout, stream_layout

TYPES = every_type()


def written(table: pa.Table, batch_rows: int, compression: str | None, *, as_stream: bool) -> bytes:
    target = io.BytesIO()
    new: Any = pa.ipc.new_stream if as_stream else pa.ipc.new_file
    with new(target, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in table.to_batches(batch_rows):
            writer.write_batch(batch)
    return target.getvalue()


def layout_of(data: bytes, *, as_stream: bool) -> FileLayout:
    return stream_layout(pa.BufferReader(data)) if as_stream else file_layout(pa.BufferReader(data))


def read_back(data: bytes, *, as_stream: bool) -> list[pa.RecordBatch]:
    if as_stream:
        return list(pa.ipc.open_stream(pa.BufferReader(data)))
    reader = pa.ipc.open_file(pa.BufferReader(data))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def buffers_bytes(column: pa.Array[Any]) -> int:
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    if isinstance(storage, pa.DictionaryArray):
        storage = storage.indices
    return sum(buffer.size for buffer in storage.buffers() if buffer is not None)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_rows_and_bytes_are_those_of_the_batches(data: st.DataObject) -> None:
    types = data.draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    rows = data.draw(st.integers(0, 300))
    nulls = data.draw(st.booleans())
    names = [f"c{number}" for number in range(len(types))]
    columns = [sample_array(kind, rows, nulls=nulls) for kind in types]
    as_stream = data.draw(st.booleans())
    compression = data.draw(st.sampled_from([None, "lz4", "zstd"]))
    table = pa.Table.from_arrays(columns, names=names)
    file = written(table, data.draw(st.integers(1, 120)), compression, as_stream=as_stream)

    layout = layout_of(file, as_stream=as_stream)
    batches = read_back(file, as_stream=as_stream)
    assert layout.is_complete and layout.is_native
    assert [message.rows for message in layout.batches] == [batch.num_rows for batch in batches]
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    handle = pa.BufferReader(file)
    for message, batch in zip(layout.batches, batches, strict=True):
        size_bytes, stored_bytes = decoded_bytes(handle, message, table.schema, wanted)
        assert size_bytes == sum(buffers_bytes(batch[name]) for name in wanted)
        assert stored_bytes <= message.body_bytes
        assert message.is_compressed == (compression is not None)


@pytest.mark.parametrize("as_stream", [False, True])
def test_dictionaries_are_counted_whole(as_stream: bool) -> None:
    texts = pa.array([f"a text of some length, number {number}" for number in range(1_000)])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), texts)
    file = written(pa.table({"d": column}), 10, "zstd", as_stream=as_stream)
    (dictionary,) = layout_of(file, as_stream=as_stream).dictionaries
    assert dictionary.rows == 1_000
    schema = pa.schema([("d", column.type)])
    size_bytes, _ = decoded_bytes(pa.BufferReader(file), dictionary, schema, ["d"])
    assert size_bytes == buffers_bytes(texts)


def test_a_stream_that_is_cut_tells_what_came_before() -> None:
    whole = written(pa.table({"n": range(30)}), 10, None, as_stream=True)
    ends = [message.end for message in stream_layout(pa.BufferReader(whole)).batches]
    for cut in range(len(whole)):
        layout = stream_layout(pa.BufferReader(whole[:cut]))
        complete = [message for message in layout.batches if message.end <= cut]
        assert [message.end for message in complete] == [end for end in ends if end <= cut]
        try:
            read = sum(1 for _ in pa.ipc.open_stream(pa.BufferReader(whole[:cut])))
        except (OSError, pa.ArrowException):
            assert not layout.is_complete or not cut
        else:
            assert layout.is_complete and read == len(layout.batches)


def test_a_message_that_ends_before_it_begins_is_damage() -> None:
    file = written(pa.table({"n": range(30)}), 10, None, as_stream=True)
    body = struct.pack("<q", stream_layout(pa.BufferReader(file)).batches[0].body_bytes)
    assert file.count(body) >= 3
    layout = stream_layout(pa.BufferReader(file.replace(body, struct.pack("<q", -1_000))))
    assert not layout.is_complete


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), as_stream=st.booleans())
@settings(max_examples=400, deadline=None)
def test_damage_is_an_error_of_arrow_or_goes_unnoticed(place: int, value: int, as_stream: bool) -> None:
    table = pa.table(
        {
            "n": range(40),
            "s": [f"text {n}" for n in range(40)],
            "d": pa.array(["x", "y"] * 20).dictionary_encode(),
        }
    )
    file = bytearray(written(table, 20, "lz4", as_stream=as_stream))
    file[place % len(file)] = value
    handle = pa.BufferReader(bytes(file))
    try:
        layout = layout_of(bytes(file), as_stream=as_stream)
        for message in (*layout.dictionaries, *layout.batches):
            assert all(each >= 0 for each in decoded_bytes(handle, message, table.schema, ["s"]))
    except pa.ArrowInvalid as error:
        assert str(error)
