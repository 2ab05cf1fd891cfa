"""The decoder of Parquet column chunks as LLVM code: pages, their decompression, levels and values.

Covers flat columns of numbers, text and bytes in data pages of both versions, with the encodings PLAIN and
dictionary; Snappy and no compression, other codecs by asking the caller for the decompressed page. Everything that
the bytes say is checked before it is believed: lengths against the end of what they are part of, indices against the
dictionary.
Its values between calls are in `parquet_state`; `parquet_chunk` calls it.
"""

from __future__ import annotations

from dataflare.kernels.cpu.parquet_header import (
    DATA_PAGE_V2,
    DICTIONARY_PAGE,
    INDEX_PAGE,
    LEVELS_ENCODING,
    header_routines,
)
from dataflare.kernels.cpu.parquet_runs import (
    NO_RESULT,
    TILE_ROWS,
    HybridStream,
    StreamOf,
    hybrid_globals,
    hybrid_routines,
)
from dataflare.kernels.cpu.parquet_state import CODECS, SNAPPY_MOST_RATIO, STATE_SLOTS, ColumnState, Status
from dataflare.kernels.cpu.parquet_texts import LENGTHS, NO_TEXT, VIEWS, text_routines
from dataflare.kernels.cpu.parquet_values import (
    COPIED_PLAINS,
    call_gather,
    call_plain,
    call_spread,
    value_routines,
)
from dataflare.kernels.cpu.routine import DECLARATIONS, Operand, Routine
from dataflare.kernels.cpu.snappy import SNAPPY_SLACK_BYTES, snappy_routine
from dataflare.kernels.llvm.target import Target

__all__ = ["decoder_text"]

_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8


def decoder_text(target: Target) -> str:
    """Return the LLVM module with ``read_columns``, which takes the address of some states and their number."""
    return "\n\n".join(
        [
            f'target triple = "{target.triple}"',
            "\n".join(hybrid_globals(target)),
            DECLARATIONS,
            *hybrid_routines(target, _stream_of("values"), _stream_of("levels")),
            *value_routines(),
            *text_routines(),
            snappy_routine("snappy", Status.SNAPPY, pairs=True),
            snappy_routine("snappy_text", Status.SNAPPY, pairs=False),
            *header_routines(),
            _next_page(),
            _begin_page(),
            _values(),
            _load_dictionary(),
            _read_file(),
            _read(),
            _read_columns(),
        ]
    )


def _stream_of(name: str) -> StreamOf:
    return lambda f: ColumnState(f).stream(name)


def _next_page() -> str:
    """Build ``next_page(state)``: goes on to the next page that has content, and decompresses that."""
    f = Routine("next_page", ("state",))
    state = ColumnState(f)
    looking = f.variable(1)
    with f.loop(lambda: looking.differs(0)) as again:
        f.finish_when(state.position >= state.end, Status.END)
        state.payload.set(0)
        status = f.call("header", f["state"])
        f.finish_when(status.differs(0), status)
        with f.when(state.kind.equals(INDEX_PAGE) | (state.kind > DATA_PAGE_V2)):
            state.position.set(state.body + state.page_bytes)  # what only a later version knows, too
            f.go_on(again)
        looking.set(0)
    content = state.body + state.level_bytes
    is_dictionary = state.kind.equals(DICTIONARY_PAGE)
    is_text = state.text_kind.differs(NO_TEXT)
    with f.when(is_dictionary):
        f.finish_when(state.has_dictionary.differs(0), Status.DICTIONARIES)
        size_bytes = state.page_rows * state.stored_bytes
        f.finish_when(size_bytes > state.uncompressed_bytes, Status.VALUES)
    is_snappy = state.codec.equals(CODECS["SNAPPY"])
    f.finish_when(
        is_snappy & (state.uncompressed_bytes > state.compressed_bytes * SNAPPY_MOST_RATIO), Status.SNAPPY
    )
    with f.when(is_dictionary):
        entries_bytes = state.page_rows * state.entry_bytes
        f.finish_when(entries_bytes > state.dictionary_bytes, Status.DICTIONARY)
        page_room = f.chosen(is_text, state.dictionary_text_bytes, state.dictionary_bytes)
        f.finish_when(state.uncompressed_bytes + SNAPPY_SLACK_BYTES > page_room, Status.DICTIONARY)
    f.finish_when(state.payload.differs(0), 0)
    with f.when(state.uncompressed_bytes.equals(0)):  # nulls only: some writers then compress nothing
        state.payload.set(content)
        state.payload_end.set(content)
        f.finish(0)
    with f.when(state.codec.equals(CODECS["UNCOMPRESSED"])):
        f.finish_when(state.compressed_bytes.differs(state.uncompressed_bytes), Status.SIZES)
        state.payload.set(content)
        state.payload_end.set(content + state.compressed_bytes)
        f.finish(0)
    f.finish_when(state.codec.differs(CODECS["SNAPPY"]), Status.DECOMPRESS)
    # What is used as it is stored is decompressed in place, whatever else is on the dictionary's page.
    in_place = is_dictionary & (is_text | (state.dictionary_plain_kind < COPIED_PLAINS))
    place = f.chosen(is_text, state.dictionary_text, state.dictionary)
    has_no_room = state.uncompressed_bytes + SNAPPY_SLACK_BYTES > state.scratch_bytes
    f.finish_when(f.opposite(in_place) & has_no_room, Status.SCRATCH)
    target = f.chosen(in_place, place, state.scratch)
    end, size_bytes = content + state.compressed_bytes, state.uncompressed_bytes.now
    with f.when(is_text):
        status = f.call("snappy_text", content, end, target, size_bytes)
        f.finish_when(status.differs(0), status)
    with f.when(f.opposite(is_text)):
        status = f.call("snappy", content, end, target, size_bytes)
        f.finish_when(status.differs(0), status)
    state.payload.set(target)
    state.payload_end.set(target + state.uncompressed_bytes)
    return f.build()


def _load_dictionary() -> str:
    """Build ``load_dictionary(state)``: the values in the payload become the dictionary's entries."""
    f = Routine("load_dictionary", ("state",))
    state = ColumnState(f)
    payload = state.payload.now
    state.payload.set(0)
    state.position.set(state.body + state.page_bytes)
    f.finish_when(state.encoding.differs(_PLAIN) & state.encoding.differs(_PLAIN_DICTIONARY), Status.ENCODING)
    with f.when(state.text_kind.differs(NO_TEXT)):
        text, size_bytes = state.dictionary_text.now, state.payload_end - payload
        with f.when(payload.differs(text)):
            f.copy(text, payload, size_bytes)
        status = f.call("text_entries", f["state"], text + size_bytes)
        f.finish_when(status.differs(0), status)
    with f.when(state.text_kind.equals(NO_TEXT) & payload.differs(state.dictionary)):
        call_plain(
            f,
            state.dictionary_plain_kind.now,
            payload,
            state.page_rows.now,
            state.dictionary.now,
            state.stored_bytes.now,
        )
    state.dictionary_count.set(state.page_rows)
    state.has_dictionary.set(1)
    return f.build()


def _begin_page() -> str:
    """Build ``begin_page(state)``: finds the levels and the values in the payload."""
    f = Routine("begin_page", ("state",))
    state = ColumnState(f)
    position, end = f.variable(state.payload), state.payload_end.now
    state.payload.set(0)
    state.position.set(state.body + state.page_bytes)
    with f.when(state.optional.differs(0)):
        f.finish_when(state.level_encoding.differs(LEVELS_ENCODING), Status.ENCODING)
        state.levels_position.set(state.body)
        state.levels_end.set(state.body + state.level_bytes)
        with f.when(state.has_separate_levels.equals(0)):
            f.finish_when(end - position < 4, Status.LEVELS)
            length = f.load(position, 32)
            position.advance(4)
            f.finish_when(length > (end - position), Status.LEVELS)
            state.levels_position.set(position)
            position.advance(length)
            state.levels_end.set(position)
        state.levels_width.set(1)
        state.levels_left.set(0)
        state.levels_packed.set(0)
    state.is_indices.set(0)
    encoding = state.encoding.now
    with f.when(encoding.differs(_PLAIN)):
        f.finish_when(
            encoding.differs(_PLAIN_DICTIONARY) & encoding.differs(_RLE_DICTIONARY), Status.ENCODING
        )
        f.finish_when(state.has_dictionary.equals(0), Status.NO_DICTIONARY)
        state.is_indices.set(1)
        state.values_width.set(0)
        with f.when(position < end):  # a page of nulls only may have no values at all
            state.values_width.set(f.load(position, 8))
            position.advance(1)
        f.finish_when(state.values_width > 32, Status.VALUES)
        state.values_left.set(0)
        state.values_packed.set(0)
    state.values_position.set(position)
    state.values_end.set(end)
    state.page_left.set(state.page_rows)
    return f.build()


def _values() -> str:
    """Build ``values(state)``: the values of the step that are not done yet, to where the step's rows begin.

    May come back for room on the heap; then it goes on where it stopped.
    """
    f = Routine("values", ("state",))
    state = ColumnState(f)
    text_kind, result_bytes = state.text_kind.now, state.result_bytes.now
    out = f.variable(state.out + (state.row + state.step_done) * result_bytes)
    left = f.variable(state.step_valid - state.step_done)
    with f.when(state.is_indices.equals(0) & text_kind.differs(NO_TEXT)):
        with f.when(state.values_end - state.values_position > state.heap_bytes - state.heap_used):
            _ask_for_room(f, state, f.call("plain_bytes", f["state"], left))
        with f.when(text_kind.equals(VIEWS)):
            f.finish(f.call("plain_views", f["state"], left, out))
        f.finish(f.call("plain_lengths", f["state"], left, out))
    with f.when(state.is_indices.equals(0)):
        size_bytes = left * state.stored_bytes
        f.finish_when(size_bytes > (state.values_end - state.values_position), Status.VALUES)
        call_plain(
            f, state.plain_kind.now, state.values_position.now, left.now, out.now, state.stored_bytes.now
        )
        state.values_position.advance(size_bytes)
        f.finish(0)
    tile = f.stack(4 * (TILE_ROWS + 8))
    with f.loop(lambda: left.differs(0)):
        take = left.least(TILE_ROWS)
        stream = state.stream("values").saved()
        f.finish_when(f.call("indices", f["state"], take, tile).equals(NO_RESULT), Status.VALUES)
        f.finish_when(f.call("highest", f.pointer(tile), take) >= state.dictionary_count, Status.INDEX)
        with f.when(text_kind.equals(NO_TEXT)):
            call_gather(f, state.gather_kind.now, tile, take, state.dictionary.now, out.now)
        with f.when(text_kind.equals(VIEWS)):
            dictionary = f.pointer(state.dictionary)
            f.call("gather_views", f.pointer(tile), take, dictionary, f.pointer(out), state.dictionary_number)
            state.dictionary_used.set(1)
        with f.when(text_kind.equals(LENGTHS)):
            needed = f.call("entry_bytes", f.pointer(tile), take, f.pointer(state.dictionary))
            with f.when(needed > state.heap_bytes - state.heap_used):
                HybridStream.restore(stream)
            _ask_for_room(f, state, needed)
            f.call("gather_lengths", f["state"], tile, take, out)
        left.advance(0 - take)
        state.step_done.advance(take)
        out.advance(take * result_bytes)
    return f.build()


def _ask_for_room(f: Routine, state: ColumnState, needed_bytes: Operand) -> None:
    """Return from the function for room on the heap, where there is not enough."""
    state.heap_needed.set(needed_bytes)
    f.finish_when(needed_bytes > state.heap_bytes - state.heap_used, Status.HEAP)


def _read_file() -> str:
    """Build ``read_file(state)``: reads the chunk from its file, in as many goes as the system wants."""
    f = Routine("read_file", ("state",))
    state = ColumnState(f)
    with f.loop(lambda: state.unread_bytes.differs(0)):
        got = f.call(
            "pread_at", state.file, state.end - state.unread_bytes, state.unread_bytes, state.file_offset
        )
        f.finish_when((got - 1) >= state.unread_bytes, Status.FILE)  # 0 at its end, -1 for an error
        state.file_offset.advance(got)
        state.unread_bytes.advance(0 - got)
    return f"{_PREAD}\n\n{f.build()}"


_PREAD = """\
declare i64 @pread(i32, ptr, i64, i64)

define internal i64 @pread_at(i64 %file, i64 %address, i64 %size, i64 %offset) nounwind {
  %descriptor = trunc i64 %file to i32
  %memory = inttoptr i64 %address to ptr
  %got = call i64 @pread(i32 %descriptor, ptr %memory, i64 %size, i64 %offset)
  ret i64 %got
}"""


def _read() -> str:
    """Build ``read(state)``: decodes until `rows` is 0, or something is needed or wrong."""
    f = Routine("read", ("state",))
    state = ColumnState(f)
    status = f.call("read_file", f["state"])
    f.finish_when(status.differs(0), status)
    with f.loop(lambda: state.rows.differs(0)) as again:
        with f.when(state.page_left.equals(0)):
            with f.when(state.payload.equals(0)):
                status = f.call("next_page", f["state"])
                f.finish_when(status.differs(0), status)
            with f.when(state.kind.equals(DICTIONARY_PAGE)):
                status = f.call("load_dictionary", f["state"])
                f.finish_when(status.differs(0), status)
                f.go_on(again)
            status = f.call("begin_page", f["state"])
            f.finish_when(status.differs(0), status)
            f.go_on(again)
        with f.when(state.step_rows.equals(0)):
            rows = state.rows.least(state.page_left)
            state.step_valid.set(rows)
            with f.when(state.optional.differs(0)):
                valid = f.call("levels", f["state"], rows, state.bitmap, state.row)
                f.finish_when(valid.equals(NO_RESULT), Status.LEVELS)
                state.step_valid.set(valid)
            state.step_done.set(0)
            state.step_rows.set(rows)
        status = f.call("values", f["state"])
        f.finish_when(status.differs(0), status)
        count, valid = state.step_rows.now, state.step_valid.now
        state.step_rows.set(0)
        with f.when(valid.differs(count)):
            result_bytes = state.result_bytes.now
            out = state.out + state.row * result_bytes
            call_spread(f, result_bytes, out, valid, count, state.bitmap.now, state.row.now)
            state.nulls.advance(count - valid)
        state.row.advance(count)
        state.page_left.advance(0 - count)
        state.rows.advance(0 - count)
    return f.build()


def _read_columns() -> str:
    """Build ``read_columns(states, count)``: `read` for one column after the other, as far as it goes.

    One call for all, because between calls threads wait for each other: as long as a page takes to decode.
    """
    f = Routine("read_columns", ("states", "count"), exported=True)
    state, left = f.variable(f["states"]), f.variable(f["count"])
    with f.loop(lambda: left.differs(0)):
        status = f.call("read", state)
        f.finish_when(status.differs(0), status)
        state.advance(8 * STATE_SLOTS)
        left.advance(-1)
    return f.build()
