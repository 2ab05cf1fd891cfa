"""What the compiled Parquet decoder knows of a column, and what its calls come back with.

The state of a column is one block of 64-bit values, so that decoding can stop after any row, even inside a page,
and go on later. The decoder itself is `dataflare.kernels.cpu.parquet_pages`.
"""

from __future__ import annotations

from typing import Final

from dataflare.kernels.cpu.parquet_runs import HybridStream
from dataflare.kernels.cpu.routine import Routine, Variable

__all__ = ["CODECS", "PROBLEMS", "SNAPPY_MOST_RATIO", "STATE", "STATE_SLOTS", "ColumnState", "Status"]

_FIELDS = (
    # The column chunk, and where in a file it is; without a file it is in memory already.
    "unread_bytes",
    "file",
    "file_offset",
    "position",  # of the next page's header
    "end",
    "codec",
    "optional",  # whether there are definition levels
    "stored_bytes",  # of a plain value
    "plain_kind",
    "gather_kind",
    "result_bytes",
    "entry_bytes",
    "dictionary_plain_kind",
    "dictionary",
    "dictionary_bytes",  # that there is room for
    "dictionary_count",
    "has_dictionary",
    # Of text: what it comes out as, the dictionary's page, and the memory for the texts of a batch.
    "text_kind",
    "dictionary_text",
    "dictionary_text_bytes",  # that there is room for
    "dictionary_number",  # of the page among the buffers that the views of a batch refer to
    "dictionary_longest",
    "dictionary_used",  # whether a view of the batch refers to the page
    "dictionary_not_ascii",  # bits of bytes over 127; those of a batch's other texts are in `not_ascii`
    "heap",
    "heap_bytes",  # that there is room for
    "heap_used",
    "heap_needed",  # room that there has to be
    "heap_number",
    "not_ascii",
    "scratch",
    "scratch_bytes",
    # What is wanted. `row` is where in the results the next one goes.
    "rows",
    "row",
    "out",
    "bitmap",
    "nulls",
    # The page's header.
    "kind",
    "body",
    "compressed_bytes",
    "uncompressed_bytes",
    "page_bytes",  # in the file, of what follows the header
    "page_rows",
    "encoding",
    "level_encoding",
    "level_bytes",  # of levels before what is compressed
    "has_separate_levels",  # version 2
    # The page's content, decompressed; 0 before there is one.
    "payload",
    "payload_end",
    # Rows of the page that are worked on: how many, of which so many are not null, of which so many are done.
    "step_rows",
    "step_valid",
    "step_done",
    # What is left of the page.
    "page_left",
    "is_indices",
    *(f"values_{name}" for name in ("position", "end", "width", "left", "packed", "value")),
    *(f"levels_{name}" for name in ("position", "end", "width", "left", "packed", "value")),
)
STATE: Final = {name: slot for slot, name in enumerate(_FIELDS)}
"""The place of each value in the state."""

STATE_SLOTS: Final = len(_FIELDS)

CODECS: Final = {"UNCOMPRESSED": 0, "SNAPPY": 1}
"""Codecs that are decompressed here; any other number is left to the caller."""

SNAPPY_MOST_RATIO: Final = 64
"""What a Snappy block grows by at most; a page that claims more is damaged."""


class Status:
    """What a call of the decoder came back with: `DONE`, what it waits for, or one of `PROBLEMS`."""

    DONE = 0
    END = 1
    """The chunk has no more pages."""
    DICTIONARY = 2
    """The memory of the dictionary is too small for the page whose header was read."""
    SCRATCH = 3
    """The scratch memory is too small for ``uncompressed_bytes``."""
    DECOMPRESS = 4
    """The caller shall decompress the page at ``body`` + ``level_bytes`` and set ``payload``."""
    FILE = 5
    """The file cannot be read, or ends early; ``unread_bytes`` says how much is missing."""
    HEAP = 6
    """The memory for texts has less than ``heap_needed`` bytes left."""
    HEADER = 16
    BEYOND = 17
    SNAPPY = 18
    ENCODING = 19
    LEVELS = 20
    VALUES = 21
    INDEX = 22
    NO_DICTIONARY = 23
    SIZES = 24
    NESTED = 25
    DICTIONARIES = 26


PROBLEMS: Final = {
    Status.HEADER: "a page header is damaged",
    Status.BEYOND: "a page reaches beyond the end of its column chunk",
    Status.SNAPPY: "a page cannot be decompressed",
    Status.ENCODING: "a page has an encoding that the column chunk does not name",
    Status.LEVELS: "the definition levels of a page are damaged",
    Status.VALUES: "a page has fewer values than it says",
    Status.INDEX: "a page refers to a value that its dictionary does not have",
    Status.NO_DICTIONARY: "a page needs a dictionary, and there is none before it",
    Status.SIZES: "the sizes in a page header do not fit together",
    Status.NESTED: "a page of a flat column has repetition levels",
    Status.DICTIONARIES: "there is a second dictionary",
}
"""What is wrong with the data, in words."""


class ColumnState:
    """A column's values as variables of a function whose first argument, ``state``, is where they are."""

    def __init__(self, f: Routine) -> None:
        self._f = f

    def __getattr__(self, name: str) -> Variable:
        return self._f.memory(self._f["state"] + 8 * STATE[name])

    def stream(self, name: str) -> HybridStream:
        """Return the stream of "values" or "levels"."""
        position, end, width, left, packed, value = (
            getattr(self, f"{name}_{part}")
            for part in ("position", "end", "width", "left", "packed", "value")
        )
        return HybridStream(position, end, width, left, packed, value)
