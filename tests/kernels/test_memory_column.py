"""`HostColumn`: Arrow's own addresses, slices that share memory at any offset, nothing copied either way."""

from __future__ import annotations

import gc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.errors import SchemaError
from dataflare.kernels.memory import HostColumn, HostPool
from dataflare.testing import every_type, sample_array

BY_NAME = {str(data_type): data_type for data_type in every_type()}
types = pytest.mark.parametrize("data_type", every_type(), ids=str)


def arrow_addresses(array):
    return tuple(0 if buffer is None else buffer.address for buffer in array.buffers())


def has_addresses(data_type):
    if isinstance(data_type, pa.BaseExtensionType) or pa.types.is_null(data_type):
        return False
    return data_type.num_fields == 0 or pa.types.is_dictionary(data_type)


@types
@pytest.mark.parametrize("nulls", [True, False])
def test_every_type_goes_in_and_out_without_copying(data_type, nulls):
    array = sample_array(data_type, 40, nulls=nulls)
    column = HostColumn.from_arrow(array)
    assert (column.type, column.length, len(column), column.offset) == (data_type, 40, 40, 0)
    assert column.to_arrow() is array
    assert column.null_count == array.null_count
    assert column.has_nulls == (array.null_count > 0)
    assert column.addresses == (arrow_addresses(array) if has_addresses(data_type) else ())


@given(
    name=st.sampled_from(sorted(BY_NAME)),
    rows=st.integers(0, 60),
    cut=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    again=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    nulls=st.booleans(),
    addresses_first=st.booleans(),
)
def test_slices_at_any_offset_share_memory(name, rows, cut, again, nulls, addresses_first):
    array = sample_array(BY_NAME[name], rows, nulls=nulls)[2:]  # Arrow offsets are kept too
    column = HostColumn.from_arrow(array)
    if addresses_first:
        assert isinstance(column.addresses, tuple)
    for start, length in (cut, again):
        start = min(start, len(array))
        length = min(length, len(array) - start)
        array, column = array.slice(start, length), column.slice(start, length)
    assert (column.length, column.offset) == (len(array), array.offset)
    assert column.addresses == (arrow_addresses(array) if has_addresses(array.type) else ())
    assert column.null_count == array.null_count
    assert arrow_addresses(column.to_arrow()) == arrow_addresses(array)
    assert column.to_arrow().to_pylist() == array.to_pylist() or array.equals(column.to_arrow())
    column.to_arrow().validate(full=True)


def test_addresses_of_string_views_include_the_data_buffers():
    words = ["short", "a long word that needs a data buffer", None]
    addresses = HostColumn.from_arrow(pa.array(words, pa.string_view())).addresses
    assert len(addresses) == 3
    assert all(addresses)


def test_the_dictionary_is_a_column_and_slices_share_it():
    array = pa.array(["a", "b", "a", None]).dictionary_encode()
    column = HostColumn.from_arrow(array)
    part = column.slice(1, 2)
    assert part.dictionary is column.dictionary
    assert column.dictionary.to_arrow().to_pylist() == ["a", "b"]
    assert column.dictionary.addresses == arrow_addresses(array.dictionary)
    assert column.addresses == arrow_addresses(array), "the indices"
    with pytest.raises(SchemaError, match="type int64 has no dictionary"):
        HostColumn.from_arrow(pa.array([1])).dictionary  # noqa: B018


def test_absent_validity_has_address_zero_and_no_nulls():
    column = HostColumn.from_arrow(pa.array([1, 2, 3]))
    assert column.addresses[0] == 0
    assert not column.has_nulls


@pytest.mark.parametrize("null_count", [2, -1])
def test_a_kernels_output_becomes_an_arrow_array_over_its_blocks(null_count):
    pool = HostPool()
    data, validity = pool.acquire(100 * 8), pool.acquire(13)
    np.asarray(data).view(np.int64)[:] = np.arange(100)
    np.asarray(validity)[:] = 0xFF
    np.asarray(validity)[0] = 0b11101110
    column = HostColumn.from_block(
        pa.int64(), 100, validity.address, data.address, null_count, (data, validity)
    )
    assert column.null_count == 2
    assert column.addresses == (validity.address, data.address)
    address = data.address
    del data, validity
    array = column.to_arrow()
    assert column.to_arrow() is array, "made once"
    array.validate(full=True)
    assert array.to_pylist() == [None if row in (0, 4) else row for row in range(100)]
    assert array.buffers()[1].address == address
    part = column.slice(3, 5)
    del column, array
    gc.collect()
    assert part.to_arrow().to_pylist() == [3, None, 5, 6, 7]
    del part
    assert pool.statistics().in_use_bytes == 0


def test_bools_offsets_and_dictionaries_from_blocks():
    pool = HostPool()
    bits = pool.acquire(2)
    np.asarray(bits)[:] = [0b00000101, 0b11]
    flags = HostColumn.from_block(pa.bool_(), 9, 0, bits.address, 5, bits, offset=1)
    assert flags.null_count == 0, "no bitmap, no nulls"
    assert flags.to_arrow().to_pylist() == [False, True, False, False, False, False, False, True, True]

    codes = pool.acquire(3)
    np.asarray(codes)[:] = [1, 0, 1]
    words = HostColumn.from_arrow(pa.array(["x", "y"]))
    data_type = pa.dictionary(pa.int8(), pa.string())
    column = HostColumn.from_block(data_type, 3, 0, codes.address, 0, codes, dictionary=words)
    assert column.dictionary is words
    assert column.to_arrow().to_pylist() == ["y", "x", "y"]
    assert column.slice(1, 2).to_arrow().to_pylist() == ["x", "y"]


@pytest.mark.parametrize("data_type", list(filter(has_addresses, every_type())), ids=str)
def test_columns_can_be_described_by_addresses_of_all_their_buffers(data_type):
    array = sample_array(data_type, 30)[3:]
    source = HostColumn.from_arrow(array)
    sizes = [0 if buffer is None else buffer.size for buffer in array.buffers()]
    dictionary = source.dictionary if pa.types.is_dictionary(data_type) else None
    column = HostColumn.from_buffers(
        data_type, 27, source.addresses, sizes, -1, source, offset=3, dictionary=dictionary
    )
    del source
    column.to_arrow().validate(full=True)
    assert column.to_arrow().equals(array)
    assert column.addresses == arrow_addresses(array)


@types
def test_bytes_of_a_slice_are_those_of_its_rows(data_type):
    column = HostColumn.from_arrow(sample_array(data_type, 400))
    part = column.slice(100, 100)
    assert 0 <= part.nbytes <= column.nbytes
    if (
        data_type.num_fields == 0
        and not pa.types.is_null(data_type)
        and not pa.types.is_dictionary(data_type)
    ):
        assert column.nbytes / 5 < part.nbytes < column.nbytes / 3


def test_bytes_by_hand():
    assert HostColumn.from_arrow(pa.array([1, 2, 3])).nbytes == 24
    assert HostColumn.from_arrow(pa.array([1, None, 3])).nbytes == 25
    assert HostColumn.from_arrow(pa.array([True] * 9)).nbytes == 2
    assert HostColumn.from_arrow(pa.array(["x" * 12, "y" * 13], pa.string_view())).nbytes == 32 + 13
    assert HostColumn.from_arrow(pa.array([], pa.string_view())).nbytes == 0
    long = pa.array(["x" * 100, "y" * 200], pa.string_view()).buffers()
    again = pa.Array.from_buffers(
        pa.string_view(), 8, [None, pa.py_buffer(long[1].to_pybytes() * 4), long[2]]
    )
    assert HostColumn.from_arrow(again).nbytes == 8 * 16 + 300
    assert HostColumn.from_arrow(again.slice(2, 1)).nbytes == 16 + 100
    two = pa.concat_arrays(
        [pa.array(["x" * 100], pa.string_view()), pa.array(["z" * 50, None], pa.string_view())]
    )
    assert len(two.buffers()) == 4
    assert HostColumn.from_arrow(two.slice(1)).nbytes == 1 + 2 * 16 + 50


def test_repr_says_type_rows_and_nulls():
    column = HostColumn.from_arrow(pa.array([1, None, 3]))
    assert repr(column) == "<HostColumn int64: 3 rows from 0, nulls not counted>"
    assert column.has_nulls
    assert repr(column.slice(0, 3)) == "<HostColumn int64: 3 rows from 0, 1 nulls>"


def test_slices_of_a_column_without_nulls_know_it_without_an_arrow_array(monkeypatch):
    column = HostColumn.from_arrow(pa.array([1, 2, 3]))
    part = column.slice(1, 1)
    assert column.null_count == 0
    monkeypatch.setattr(HostColumn, "to_arrow", lambda self: pytest.fail("an Arrow array was made"))
    assert part.null_count == 0
    assert not part.slice(0, 1).has_nulls
