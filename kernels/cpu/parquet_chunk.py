"""Decodes the column chunks of one Parquet row group after the other into memory of the caller's.

Covers which values the compiled decoder (`dataflare.kernels.cpu.parquet_pages`) takes, and its calls: it asks for
memory and for pages in codecs that it has not. Does not cover footers, nor opening files.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataflare.kernels.cpu.jit import LoadedObject
from dataflare.kernels.cpu.objects import load_or_compile
from dataflare.kernels.cpu.parquet_pages import decoder_text
from dataflare.kernels.cpu.parquet_state import CODECS, PROBLEMS, STATE, STATE_SLOTS, Status
from dataflare.kernels.cpu.parquet_texts import LENGTHS, LONGEST_INLINE_BYTES, NO_TEXT, VIEWS
from dataflare.kernels.cpu.parquet_values import BIG_ENDIAN, GATHERS, PLAINS
from dataflare.kernels.cpu.snappy import SNAPPY_SLACK_BYTES
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.pool import SLACK_BYTES, HostBlock, default_pool

__all__ = [
    "ChunkEndError",
    "ColumnDecoder",
    "DamagedChunkError",
    "Decompress",
    "RowGroupDecoder",
    "TextBuffer",
    "TextColumnDecoder",
    "TextTooLongError",
    "ValueLayout",
    "check_text",
]

Decompress = Callable[[int, int, int], pa.Buffer]
"""Decompresses what is at an address: address, bytes, bytes of the result. Raises `DamagedChunkError`."""

_LEFT_TO_CALLER = max(CODECS.values()) + 1
_VIEW_BYTES = 16
_FURTHER_HEAPS = 4
_MOST_EXPECTED_BYTES = 64 * 2**20  # whatever a footer says
_MOST_OFFSET = (1 << 31) - 1  # of 4 bytes
_PHYSICAL_BYTES = {"INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}


class DamagedChunkError(ValueError):
    """The bytes of a column chunk are not what they should be; the message says in what way."""


@dataclass(frozen=True)
class ValueLayout:
    """How a column's values are stored, and as what they come out."""

    stored_bytes: int
    """Of one plain value; of text those of its length."""
    result_bytes: int
    """Of one row, beside the texts."""
    entry_bytes: int
    """Of a dictionary's entry in memory, which may be narrower than the result."""
    plain_kind: int
    gather_kind: int
    dictionary_plain_kind: int
    text_kind: int = NO_TEXT

    @classmethod
    def of_text(cls, physical_type: str, data_type: pa.DataType) -> ValueLayout | None:
        """Return the layout for an Arrow type of text or bytes; None when it is another, or not stored as such."""
        if physical_type != "BYTE_ARRAY":
            return None
        types = pa.types
        if types.is_string_view(data_type) or types.is_binary_view(data_type):
            return cls(4, _VIEW_BYTES, _VIEW_BYTES, -1, -1, -1, VIEWS)
        if types.is_string(data_type) or types.is_binary(data_type):
            return cls(4, 4, _VIEW_BYTES, -1, -1, -1, LENGTHS)
        if types.is_large_string(data_type) or types.is_large_binary(data_type):
            return cls(4, 8, _VIEW_BYTES, -1, -1, -1, LENGTHS)
        return None

    @classmethod
    def of(cls, physical_type: str, length: int, data_type: pa.DataType) -> ValueLayout | None:
        """Return the layout for a physical type of Parquet and an Arrow type; None when there is no decoder.

        Parameters
        ----------
        length
            Bytes of a FIXED_LEN_BYTE_ARRAY's values, which must be decimals.
        data_type
            Has the meaning that the file gives to the values: only widths are looked at.
        """
        if pa.types.is_decimal128(data_type):
            if physical_type == "FIXED_LEN_BYTE_ARRAY" and 1 <= length <= 16:
                return cls._layout(length, BIG_ENDIAN, 8 if length <= 8 else 16, 16)
            if physical_type in ("INT32", "INT64"):
                stored_bytes = _PHYSICAL_BYTES[physical_type]
                return cls._layout(stored_bytes, stored_bytes, stored_bytes, 16)
            return None
        stored_bytes = _PHYSICAL_BYTES.get(physical_type, 0)
        result_bytes = data_type.bit_width // 8
        if not stored_bytes or (stored_bytes, result_bytes) not in PLAINS:
            return None
        return cls._layout(stored_bytes, stored_bytes, result_bytes, result_bytes)

    @classmethod
    def _layout(cls, stored_bytes: int, stored: int, entry_bytes: int, result_bytes: int) -> ValueLayout:
        return cls(
            stored_bytes,
            result_bytes,
            entry_bytes,
            PLAINS.index((stored, result_bytes)),
            GATHERS.index((entry_bytes, result_bytes)),
            PLAINS.index((stored, entry_bytes)),
        )


class ChunkEndError(DamagedChunkError):
    """The file that a chunk is in cannot be read to the chunk's end.

    Attributes
    ----------
    offset
        The first byte that is missing.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"the file cannot be read from byte {offset:,} on")
        self.offset = offset


class TextTooLongError(ValueError):
    """The texts of one batch are more than its offsets can count."""


class ColumnDecoder:
    """One column: where its chunk is, and the memory that decoding it takes."""

    def __init__(self, layout: ValueLayout, *, optional: bool) -> None:
        self.layout = layout
        self.optional = optional
        self.state = memoryview(b"")  # given by the `RowGroupDecoder`
        self._chunk: HostBlock | None = None
        self._dictionary: HostBlock | None = None
        self._scratch: HostBlock | None = None
        self._payload: pa.Buffer | None = None
        self._decompress: Decompress | None = None

    def begin(
        self, size_bytes: int, codec: str, decompress: Decompress, *, file: int | None, offset: int
    ) -> HostBlock:
        """Go to the start of a chunk; return the memory it is in, to be filled by the caller where `file` is None.

        Parameters
        ----------
        size_bytes
            Of its pages, from the dictionary's on where there is one.
        codec
            As pyarrow's metadata calls it.
        decompress
            What decompresses pages where the codec is not one of `parquet_state.CODECS`.
        file, offset
            A descriptor, and where in that file the chunk begins.
        """
        state = self.state
        if self._chunk is None or self._chunk.nbytes < size_bytes:
            self._chunk = None  # so that the pool may hand it out again
            self._chunk = default_pool().acquire(size_bytes)
        address = self._chunk.address
        self._payload = None
        self._decompress = decompress
        for slot in _PER_CHUNK:
            state[slot] = 0
        state[_POSITION] = address
        state[_END] = address + size_bytes
        state[_CODEC] = CODECS.get(codec, _LEFT_TO_CALLER)
        if file is not None:
            state[_UNREAD] = size_bytes
            state[_FILE] = file
            state[_OFFSET] = offset
        return self._chunk

    def want(self, out_address: int, bitmap_address: int) -> None:
        """Set the memory for the next rows; see `RowGroupDecoder.read`."""
        state = self.state
        state[_ROW] = 0
        state[_OUT] = out_address
        state[_BITMAP] = bitmap_address
        state[_NULLS] = 0

    @property
    def nulls(self) -> int:
        """Nulls among the rows since `want`."""
        return self.state[_NULLS]

    def check_end(self) -> None:
        """Check that all rows of the chunk were read.

        Raises
        ------
        DamagedChunkError
            Its last page has more.
        """
        if self.state[_PAGE_LEFT]:
            raise DamagedChunkError("its pages have more values than the row group has rows")

    def serve(self, status: int) -> None:
        """Give the decoder what it asked for, or raise `DamagedChunkError`."""
        state = self.state
        if status == Status.SCRATCH:
            self._scratch = default_pool().acquire(state[STATE["uncompressed_bytes"]] + SNAPPY_SLACK_BYTES)
            state[STATE["scratch"]] = self._scratch.address
            state[STATE["scratch_bytes"]] = self._scratch.capacity_bytes
        elif status == Status.DICTIONARY:
            entries_bytes = state[STATE["page_rows"]] * self.layout.entry_bytes
            page_bytes = state[STATE["uncompressed_bytes"]] + SNAPPY_SLACK_BYTES
            self._dictionary = default_pool().acquire(max(entries_bytes, page_bytes))
            state[STATE["dictionary"]] = self._dictionary.address
            state[STATE["dictionary_bytes"]] = self._dictionary.capacity_bytes
        elif status == Status.DECOMPRESS:
            assert self._decompress is not None  # given with the chunk
            size_bytes = state[STATE["uncompressed_bytes"]]
            place = state[STATE["body"]] + state[STATE["level_bytes"]]
            self._payload = self._decompress(place, state[STATE["compressed_bytes"]], size_bytes)
            state[STATE["payload"]] = self._payload.address
            state[STATE["payload_end"]] = self._payload.address + size_bytes
        elif status == Status.FILE:
            raise ChunkEndError(state[_OFFSET])
        elif status == Status.END:
            raise DamagedChunkError("its pages have fewer values than the row group has rows")
        else:
            raise DamagedChunkError(PROBLEMS[status])


@dataclass
class TextBuffer:
    """Memory that the views of a batch refer to: a heap, or a dictionary's page."""

    block: HostBlock
    size_bytes: int
    """Of the texts, or of a page with texts in it."""
    is_page: bool
    is_used: bool = False
    """Whether the batch has a text in it that is not in its view already."""


class TextColumnDecoder(ColumnDecoder):
    """A column of text or bytes: also where the texts of a batch are.

    Views refer to several buffers, among them the dictionary's page, which batches share. Of lengths the texts are
    in one, which is copied when it turns out to be too small.
    """

    def __init__(self, layout: ValueLayout, *, optional: bool) -> None:
        super().__init__(layout, optional=optional)
        self._are_views = layout.text_kind == VIEWS
        self._page: HostBlock | None = None
        self._page_bytes = 0
        self._buffers: list[TextBuffer] = []
        self._of_page: TextBuffer | None = None
        self._heap: TextBuffer | None = None
        self._expected_bytes = 0

    def begin(
        self, size_bytes: int, codec: str, decompress: Decompress, *, file: int | None, offset: int
    ) -> HostBlock:
        """See `ColumnDecoder.begin`."""
        if self._are_views:
            self._settle_page()
            self._page = self._of_page = None
            # Batches keep the page, so each has memory of its own.
            self.state[STATE["dictionary_text_bytes"]] = 0
        return super().begin(size_bytes, codec, decompress, file=file, offset=offset)

    def expect(self, text_bytes: int) -> None:
        """Begin a batch, after `want`; it may have so many bytes of text beside the dictionary's."""
        state = self.state
        self._expected_bytes = min(text_bytes, _MOST_EXPECTED_BYTES)
        self._heap = self._of_page = None
        self._buffers = []
        for name in ("heap", "heap_bytes", "heap_used", "not_ascii"):
            state[STATE[name]] = 0
        if self._page is not None and self._are_views:
            self._refer_to_page(self._page)

    def check_dictionary(self) -> None:
        """Check that the texts of the dictionary are UTF-8.

        Raises
        ------
        DamagedChunkError
            One is not.
        """
        state = self.state
        if state[STATE["dictionary_not_ascii"]]:
            state[STATE["dictionary_not_ascii"]] = 0  # once is enough
            count = state[STATE["dictionary_count"]]
            entries = pa.foreign_buffer(state[STATE["dictionary"]], _VIEW_BYTES * count)
            page = pa.foreign_buffer(state[STATE["dictionary_text"]], state[STATE["dictionary_text_bytes"]])
            check_text(pa.Array.from_buffers(pa.string_view(), count, [None, entries, page]))

    @property
    def may_be_no_text(self) -> bool:
        """Whether there are bytes in the batch, beside the dictionary's, that are not ASCII."""
        return self.state[STATE["not_ascii"]] != 0

    def take_buffers(self) -> list[TextBuffer]:
        """Return what the views of the batch refer to, in the order of their numbers; of lengths, one heap at most."""
        self._settle_page()
        self._settle_heap()
        buffers = self._buffers
        self._buffers, self._heap, self._of_page = [], None, None
        while buffers and not buffers[-1].is_used:
            buffers.pop()
        return buffers

    def write_offsets(self, rows: int, address: int) -> None:
        """Turn the lengths at the end of the memory of `rows` + 1 offsets into offsets."""
        width = self.layout.result_bytes
        _functions().text_offsets(address + (rows + 1) * width - 4 * rows, rows, address, width)

    def serve(self, status: int) -> None:
        """See `ColumnDecoder.serve`."""
        if status == Status.HEAP:
            self._serve_heap()
        elif status == Status.DICTIONARY:
            self._serve_dictionary()
        else:
            super().serve(status)

    def _serve_dictionary(self) -> None:
        state = self.state
        entries_bytes = state[STATE["page_rows"]] * _VIEW_BYTES
        if entries_bytes > state[STATE["dictionary_bytes"]]:
            self._dictionary = default_pool().acquire(entries_bytes)
            state[STATE["dictionary"]] = self._dictionary.address
            # Without the slack, since short texts are copied from their entries in steps.
            state[STATE["dictionary_bytes"]] = self._dictionary.capacity_bytes - SLACK_BYTES
        self._page_bytes = state[STATE["uncompressed_bytes"]]
        wanted_bytes = self._page_bytes + SNAPPY_SLACK_BYTES
        if wanted_bytes > state[STATE["dictionary_text_bytes"]]:
            page = self._page = default_pool().acquire(wanted_bytes)
            state[STATE["dictionary_text"]] = page.address
            state[STATE["dictionary_text_bytes"]] = page.capacity_bytes
            if self._are_views:
                self._refer_to_page(page)

    def _serve_heap(self) -> None:
        state = self.state
        self._settle_heap()
        before = None if self._are_views else self._heap
        used_bytes = 0 if before is None else before.size_bytes
        least_bytes = used_bytes + state[STATE["heap_needed"]]
        size_bytes = max(least_bytes, self._expected_bytes, used_bytes + used_bytes // 2)
        self._expected_bytes //= _FURTHER_HEAPS  # it was wrong: what is still to come may be little
        if self._are_views or self.layout.result_bytes == 4:
            if least_bytes > _MOST_OFFSET:
                raise TextTooLongError
            size_bytes = min(size_bytes, _MOST_OFFSET)
        block = default_pool().acquire(size_bytes)
        if before is not None:
            ctypes.memmove(block.address, before.block.address, used_bytes)
            self._buffers.clear()
        self._heap = TextBuffer(block, used_bytes, is_page=False)
        state[STATE["heap_number"]] = len(self._buffers)
        self._buffers.append(self._heap)
        state[STATE["heap"]] = block.address
        state[STATE["heap_bytes"]] = size_bytes
        state[STATE["heap_used"]] = used_bytes

    def _refer_to_page(self, page: HostBlock) -> None:
        self.state[STATE["dictionary_number"]] = len(self._buffers)
        self.state[STATE["dictionary_used"]] = 0
        self._of_page = TextBuffer(page, self._page_bytes, is_page=True)
        self._buffers.append(self._of_page)

    def _settle_heap(self) -> None:
        if self._heap is not None:
            self._heap.size_bytes = self.state[STATE["heap_used"]]
            self._heap.is_used = self._heap.size_bytes > 0

    def _settle_page(self) -> None:
        if self._of_page is not None:
            state = self.state
            is_long = state[STATE["dictionary_longest"]] > LONGEST_INLINE_BYTES
            self._of_page.is_used = is_long and state[STATE["dictionary_used"]] != 0


def check_text(array: pa.Array[Any]) -> None:
    """Check that an array of text is UTF-8.

    Raises
    ------
    DamagedChunkError
        It is not.
    """
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DamagedChunkError("a text is not UTF-8") from error


class RowGroupDecoder:
    """Decodes some columns of a row group, all with one call. Belongs to one thread at a time.

    Parameters
    ----------
    columns
        Each has begun a chunk of the same row group before `read`.
    """

    def __init__(self, columns: Sequence[ColumnDecoder]) -> None:
        self._read_columns = _functions().read_columns
        self._columns = columns
        states = (ctypes.c_int64 * (STATE_SLOTS * len(columns)))()
        view = memoryview(states).cast("B").cast("q")
        self._states = states
        self._address = ctypes.addressof(states)
        for number, column in enumerate(columns):
            state = column.state = view[number * STATE_SLOTS : (number + 1) * STATE_SLOTS]
            layout = column.layout
            state[STATE["optional"]] = column.optional
            state[STATE["stored_bytes"]] = layout.stored_bytes
            state[STATE["result_bytes"]] = layout.result_bytes
            state[STATE["entry_bytes"]] = layout.entry_bytes
            state[STATE["plain_kind"]] = layout.plain_kind
            state[STATE["gather_kind"]] = layout.gather_kind
            state[STATE["dictionary_plain_kind"]] = layout.dictionary_plain_kind
            state[STATE["text_kind"]] = layout.text_kind
            if layout.text_kind == LENGTHS:
                state[STATE["result_bytes"]] = 4

    def read(self, rows: int) -> None:
        """Decode the next rows of all columns, after those that were decoded since `ColumnDecoder.want`.

        Their memory has room for them: values at the address of the results; bits of validity, where the column
        is optional, at that of the bitmap, where 8 bytes more than they take may be written.

        Raises
        ------
        DamagedChunkError
            A chunk cannot be decoded, or ends before so many rows; `failed` is its column.
        """
        columns = self._columns
        for column in columns:
            column.state[_ROWS] = rows
        while status := self._read_columns(self._address, len(columns)):
            self.failed.serve(status)

    @property
    def failed(self) -> ColumnDecoder:
        """The first column that still has rows to decode."""
        return next(column for column in self._columns if column.state[_ROWS])


_PER_CHUNK = tuple(
    STATE[name] for name in ("unread_bytes", "has_dictionary", "payload", "page_left", "rows", "step_rows")
)
_UNREAD, _FILE, _OFFSET, _POSITION, _END, _CODEC, _ROWS, _ROW, _OUT, _BITMAP, _NULLS, _PAGE_LEFT = (
    STATE[name]
    for name in (
        *("unread_bytes", "file", "file_offset", "position", "end", "codec"),
        *("rows", "row", "out", "bitmap", "nulls", "page_left"),
    )
)


@dataclass(frozen=True)
class _Functions:
    code: LoadedObject
    read_columns: Callable[[int, int], int]
    text_offsets: Callable[[int, int, int, int], int]


_OFFSETS_PROTOTYPE = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
)
_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
_lock = threading.Lock()
_loaded: list[_Functions] = []


def is_loaded() -> bool:
    """Whether the compiled decoder is in this process already, so that using it costs nothing first."""
    return bool(_loaded)


def _functions() -> _Functions:
    """Return the decoder as machine code of this process."""
    with _lock:
        if not _loaded:
            _loaded.append(_load(host_target()))
        return _loaded[0]


def _load(target: Target) -> _Functions:
    code, _ = load_or_compile(decoder_text(target), target)
    return _Functions(
        code, code.function("read_columns", _PROTOTYPE), code.function("text_offsets", _OFFSETS_PROTOTYPE)
    )
