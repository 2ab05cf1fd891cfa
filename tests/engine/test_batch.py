"""`SharedDataBatch`: what it holds, how it is cut, merged and compared, and who keeps its memory."""

from __future__ import annotations

import copy
import gc
import os
import sys
import threading
import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflare as flare
from dataflare import SharedDataBatch
from dataflare.kernels.errors import (
    ColumnNotFoundError,
    OptionError,
    SchemaError,
)
from dataflare.kernels.memory import HostColumn, HostPool
from dataflare.sample_data import every_type, sample_array

BY_NAME = {str(data_type): data_type for data_type in every_type()}


@pytest.fixture
def batch():
    return SharedDataBatch.from_pydict({"a": list(range(10)), "b": [f"word {row}" for row in range(10)]})


def addresses(array):
    return [None if buffer is None else buffer.address for buffer in array.buffers()]


def test_what_a_batch_knows(batch):
    assert len(batch) == batch.num_rows == 10
    assert batch.schema == pa.schema([("a", pa.int64()), ("b", pa.string())])
    assert batch.column_names == ["a", "b"]
    assert batch.nbytes == 10 * 8 + 10 * 4 + 60
    assert batch.device == "cpu"
    assert batch.watermark is None
    assert batch.metadata == {}
    assert "a" in batch
    assert "z" not in batch
    assert flare.SharedDataBatch is SharedDataBatch


def test_batches_are_not_made_by_the_constructor():
    with pytest.raises(TypeError, match="from_arrow, from_pydict"):
        SharedDataBatch()


def test_a_batch_cannot_be_changed(batch):
    for name in ("num_rows", "schema", "watermark", "metadata", "anything"):
        with pytest.raises(AttributeError):
            setattr(batch, name, 1)
    with pytest.raises(TypeError):
        batch.metadata["key"] = 1


def test_id_is_unique_stable_and_the_hash(batch):
    other = SharedDataBatch.from_arrow(batch.to_arrow())
    assert batch.id == batch.id
    assert len({batch.id, other.id, batch[:5].id}) == 3
    assert batch == batch
    assert batch != other
    assert batch != "batch"
    assert len({batch, batch, other}) == 2
    assert batch.equals(other)


def test_threads_that_ask_first_read_one_id():
    for _ in range(50):
        batch = SharedDataBatch.from_pydict({"a": [1]})
        start = threading.Barrier(4)
        seen = []

        def ask(batch=batch, start=start, seen=seen):
            start.wait()
            seen.append(batch.id)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(seen)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_batches_made_after_a_fork_have_their_own_ids():
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, SharedDataBatch.from_pydict({"a": [1]}).id.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        theirs = answer.read()
    os.waitpid(child, 0)
    assert len(theirs) == 36
    assert theirs != SharedDataBatch.from_pydict({"a": [1]}).id


def test_age_is_seconds_since_the_batch_was_made(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("dataflare.shared_columns._clock", lambda: now[0])
    batch = SharedDataBatch.from_pydict({"a": [1]})
    assert batch.age() == 0.0
    now[0] = 102.5
    assert batch.age() == 2.5


def test_metadata_and_watermark_make_new_batches_over_the_same_columns(batch):
    marked = batch.with_metadata("source", "file").with_metadata("part", 3).with_watermark(17)
    assert dict(marked.metadata) == {"source": "file", "part": 3}
    assert marked.watermark == 17
    assert (dict(batch.metadata), batch.watermark) == ({}, None)
    assert addresses(marked["a"]) == addresses(batch["a"])
    assert marked.with_watermark(None).watermark is None
    for derived in (marked[2:4], marked.select("a"), marked[2:4].select("a")[1:]):
        assert dict(derived.metadata) == {"source": "file", "part": 3}
        assert derived.watermark == 17


@pytest.mark.parametrize("watermark", [1.5, "1", True])
def test_a_watermark_is_an_int(batch, watermark):
    with pytest.raises(OptionError, match="a watermark is an int"):
        batch.with_watermark(watermark)


bounds = st.one_of(st.none(), st.integers(-15, 15))


@given(start=bounds, stop=bounds, again=st.tuples(bounds, bounds), load_first=st.booleans())
def test_slices_clamp_and_count_as_python_slices_do(start, stop, again, load_first):
    rows = list(range(10))
    batch = SharedDataBatch.from_pydict({"a": rows})
    if load_first:
        assert batch["a"].to_pylist() == rows
    part = batch[start:stop]
    assert part["a"].to_pylist() == rows[start:stop]
    assert len(part) == len(rows[start:stop])
    assert part.slice(*again)["a"].to_pylist() == rows[start:stop][slice(*again)]
    assert part.slice(*again).to_arrow().num_rows == len(part.slice(*again))


@given(
    name=st.sampled_from(sorted(BY_NAME)),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=3),
    by_columns=st.booleans(),
)
def test_slices_of_any_type_share_memory(name, cuts, by_columns):
    array = sample_array(BY_NAME[name], 40)[1:]
    batch = SharedDataBatch.from_arrow(pa.record_batch({"x": array}))
    if by_columns:
        batch = SharedDataBatch._from_columns(batch.schema, batch._columns, len(batch))
    expected = array
    for start, stop in cuts:
        batch, expected = batch[start:stop], expected[start:stop]
    for found in (batch["x"], batch.to_arrow().column(0)):
        found.validate(full=True)
        assert found.equals(expected)
        assert addresses(found) == addresses(expected)
        assert found.offset == expected.offset


def test_a_slice_of_everything_is_the_batch_itself(batch):
    assert batch[:] is batch
    assert batch[-50:50] is batch


def test_slices_have_no_step_and_batches_no_row_index(batch):
    assert len(batch[2:4:1]) == 2
    with pytest.raises(OptionError, match=r"no step 2.*take"):
        batch[::2]
    with pytest.raises(TypeError, match="column name or a slice of rows, not by int"):
        batch[0]
    with pytest.raises(TypeError, match="to_pylist"):
        list(batch)


def test_a_column_by_name(batch):
    assert batch["a"].to_pylist() == list(range(10))
    with pytest.raises(ColumnNotFoundError, match=r"no column 'A'\. Did you mean 'a'"):
        batch["A"]


def test_select_takes_columns_in_order_without_copying(batch):
    picked = batch.select("b", "a")
    assert picked.column_names == ["b", "a"]
    assert addresses(picked["b"]) == addresses(batch["b"])
    assert batch.select("a").to_arrow().schema.names == ["a"]
    assert batch[3:5].select("a").to_pylist() == [{"a": 3}, {"a": 4}]
    with pytest.raises(ColumnNotFoundError, match="select: there is no column 'c'"):
        batch.select("a", "c")
    with pytest.raises(SchemaError, match="'a' more than once"):
        batch.select("a", "b", "a")
    with pytest.raises(OptionError, match="at least one"):
        batch.select()


def test_select_keeps_arrows_own_metadata():
    schema = pa.schema(
        [pa.field("a", pa.int64(), metadata={"unit": "m"}), ("b", pa.int64())], {"origin": "x"}
    )
    batch = SharedDataBatch.from_pydict({"a": [1], "b": [2]}, schema)
    assert batch.select("a").to_arrow().schema.equals(pa.schema([schema.field(0)], {"origin": "x"}), True)


@pytest.mark.parametrize("data_type", every_type(), ids=str)
def test_merge_makes_one_contiguous_batch_of_any_type(data_type):
    whole = SharedDataBatch.from_arrow(pa.record_batch({"x": sample_array(data_type, 30)}))
    merged = SharedDataBatch.merge([whole[:11], whole[11:11], whole[11:]])
    merged.to_arrow().validate(full=True)
    assert merged.to_pylist() == whole.to_pylist()
    assert len(merged) == 30


def test_merge_of_one_copies_nothing(batch):
    assert SharedDataBatch.merge([batch]) is batch
    empty = SharedDataBatch.empty(batch.schema)
    merged = SharedDataBatch.merge([empty, batch, empty])
    assert addresses(merged["a"]) == addresses(batch["a"])
    assert len(SharedDataBatch.merge([empty, empty])) == 0


@pytest.mark.parametrize(
    ("marks", "way", "expected"),
    [
        ((3, 1, 2), "min", 1),
        ((3, None, 2), "min", None),
        ((3, 1, 2), "max", 3),
        ((3, None, 2), "max", 3),
        ((None, None), "max", None),
        ((0, -5), "min", -5),
    ],
)
def test_merged_watermarks_keep_their_promise(batch, marks, way, expected):
    parts = [batch.with_watermark(mark) for mark in marks]
    assert SharedDataBatch.merge(parts, watermark=way).watermark == expected


def test_the_later_batchs_metadata_wins(batch):
    first = batch.with_metadata("a", 1).with_metadata("b", 1)
    second = batch.with_metadata("b", 2).with_metadata("c", 2)
    assert dict(SharedDataBatch.merge([first, second]).metadata) == {"a": 1, "b": 2, "c": 2}


def test_nulls_of_one_part_make_the_merged_field_nullable():
    strict = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    parts = [
        SharedDataBatch.from_pydict({"a": [1]}, strict),
        SharedDataBatch.from_pydict({"a": [None, 2]}, {"a": pa.int64()}),
    ]
    merged = SharedDataBatch.merge(parts)
    assert merged.schema.field("a").nullable
    assert merged.map(lambda r: {"x": r.a + 1}).to_pylist() == [{"x": 2}, {"x": None}, {"x": 3}]


def test_merge_unifies_dictionaries():
    parts = [
        SharedDataBatch.from_arrow(pa.record_batch({"x": pa.array(words).dictionary_encode()}))
        for words in (["a", "b"], ["b", "c"])
    ]
    assert SharedDataBatch.merge(parts)["x"].to_pylist() == ["a", "b", "b", "c"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": [1]}, "batch 1 does not fit batch 0: column 'b' is missing"),
        ({"a": [1], "b": ["x"], "c": [1]}, "column 'c' of type int64 is not expected"),
        ({"a": [1.5], "b": ["x"]}, "column 'a' is double where int64 is expected"),
        ({"b": ["x"], "a": [1]}, "column 1 is 'b' where 'a' is expected: the same columns in another order"),
        ({"a": [1], "bb": ["x"]}, "column 'b' is missing. Did you mean 'bb'?"),
    ],
)
def test_schemas_that_do_not_agree_name_the_column(batch, other, message):
    with pytest.raises(SchemaError) as caught:
        SharedDataBatch.merge([batch, SharedDataBatch.from_pydict(other)])
    assert message in str(caught.value)


def test_merge_refuses_nonsense(batch):
    with pytest.raises(OptionError, match="at least one batch"):
        SharedDataBatch.merge([])
    with pytest.raises(OptionError, match="use 'min' or 'max'"):
        SharedDataBatch.merge([batch], watermark="mean")
    with pytest.raises(SchemaError, match="item 1 is none: use from_arrow"):
        SharedDataBatch.merge([batch, pa.table(batch)])


def test_equals_compares_content(batch):
    assert batch.equals(SharedDataBatch.from_pydict(batch.to_arrow().to_pydict()))
    assert not batch.equals(batch[1:])
    assert not batch.equals(batch.select("b", "a"))
    assert not batch.equals(SharedDataBatch.from_pydict({"a": [0] * 10, "b": ["x"] * 10}))


def test_copies_are_the_batch(batch):
    assert copy.copy(batch) is batch
    assert copy.deepcopy({"key": [batch]})["key"][0] is batch


def test_devices(batch):
    assert batch.to_device("cpu") is batch
    assert batch.to_host() is batch
    assert batch.device == "cpu"
    with pytest.raises(OptionError, match="'gpu' is not known"):
        batch.to_device("gpu")


@pytest.mark.parametrize("data_type", every_type(), ids=str)
def test_empty_batches_of_any_type(data_type):
    batch = SharedDataBatch.empty({"x": data_type})
    assert (len(batch), batch.schema.field("x").type) == (0, data_type)
    batch.to_arrow().validate(full=True)
    assert batch.to_pylist() == []


def test_rows_without_columns_keep_their_count():
    batch = SharedDataBatch.from_records([{}, {}, {}])
    assert len(batch) == len(batch.to_arrow()) == len(SharedDataBatch.from_arrow(batch.to_arrow())) == 3
    assert len(batch[1:].to_arrow()) == 2


class Owner:
    """Owns the memory under a buffer, and can be seen to go."""

    def __init__(self, rows):
        self.values = np.arange(rows)


def test_memory_goes_with_the_last_of_ten_thousand_batches():
    owner = Owner(20_000)
    buffer = pa.foreign_buffer(owner.values.ctypes.data, owner.values.nbytes, base=owner)
    column = pa.Array.from_buffers(pa.int64(), 20_000, [None, buffer])
    gone = weakref.ref(owner)
    references = sys.getrefcount(owner)
    whole = SharedDataBatch.from_arrow(pa.record_batch({"x": column}))
    del owner, buffer, column
    batches = []
    for row in range(2500):
        part = whole[row : 20_000 - row]
        batches += [
            part,
            part.select("x"),
            part.with_metadata("row", row),
            SharedDataBatch.from_arrow(part.to_arrow()),
        ]
    batches[7]["x"].buffers()
    assert len(batches) == 10_000
    assert sys.getrefcount(gone()) == references, "one buffer, whatever is made of it"
    del whole, part
    last = batches.pop()
    batches.clear()
    assert gone() is not None
    assert last["x"][0].as_py() == 2499
    del last
    assert gone() is None, "by reference counts alone, no garbage collection needed"


def test_pool_memory_returns_with_the_last_batch():
    pool = HostPool()
    batches = []
    for row in range(10_000):
        block = pool.acquire(80)
        column = HostColumn.from_block(pa.int64(), 10, 0, block.address, 0, block)
        batch = SharedDataBatch._from_columns(pa.schema([("x", pa.int64())]), [column], 10)
        if row % 3 == 0:
            batch.to_arrow()
        batches.append(batch[2:8] if row % 2 else batch)
    del block, column, batch
    assert pool.statistics().in_use_bytes == 10_000 * 256
    batches = batches[:1]
    assert pool.statistics().in_use_bytes == 256
    batches.clear()
    gc.collect()
    now = pool.statistics()
    assert (now.in_use_bytes, now.acquisitions) == (0, 10_000)
