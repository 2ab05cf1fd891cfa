"""The argument block of a compiled program: one array of int64 that holds every address and bit offset.

Slot 0 is the number of records, slot 1 the address of the counters; then come the slots of each input column in
the order of ``RecordProgram.columns``, then those of the results. ``fused`` fills it, ``codegen`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import pyarrow as pa

from dataflare.kernels.dtypes import is_string, value_type
from dataflare.kernels.udf.ir import StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, Output, RecordProgram

__all__ = [
    "ColumnForm",
    "ColumnLayout",
    "OutputLayout",
    "ProgramLayout",
    "fixed_width_bytes",
    "is_view",
    "layout_of",
    "stored_bytes",
]

HEADER_SLOTS = 2


class ColumnForm(Enum):
    """How a column lies in memory, as far as generated code reads it."""

    FIXED = "fixed"
    BITS = "bits"
    STRING32 = "string"
    STRING64 = "large_string"
    VIEW = "string_view"
    DICTIONARY = "dictionary"
    NONE = "not read"


@dataclass(frozen=True)
class ColumnLayout:
    """The slots of one input column: ``validity`` (address, bit offset), then those of its form.

    FIXED: address. BITS: address, bit offset. STRING: offsets, bytes. VIEW: views, table of buffer addresses.
    DICTIONARY: indices, then one table of results for each string operation: int64, or flags, which are bits in words
    of 32 on the CPU and bytes on CUDA.
    """

    number: int
    type: Any  # a pa.DataType; the stubs know the attributes of dictionary and decimal types only by class
    form: ColumnForm
    slot: int
    slots: int
    tables: tuple[StringOp, ...] = ()

    @property
    def validity(self) -> int:
        """The slot of the address of the validity bitmap; its bit offset is in the next one."""
        return self.slot

    @property
    def data(self) -> int:
        """The first slot after the validity."""
        return self.slot + 2


@dataclass(frozen=True)
class OutputLayout:
    """The slots of one result column: data, then validity; ``counter`` counts the valid values of a nullable one."""

    output: Output
    slot: int
    width_bytes: int
    counter: int | None
    has_validity: bool

    @property
    def is_bits(self) -> bool:
        """Whether values are single bits."""
        return self.width_bytes == 0


@dataclass(frozen=True)
class ProgramLayout:
    """Where everything is in the argument block of one variant of a program."""

    columns: dict[int, ColumnLayout]
    outputs: tuple[OutputLayout, ...]
    selection: int | None
    slots: int
    counters: int


def fixed_width_bytes(data_type: pa.DataType) -> int | None:
    """Return the bytes of a value, 0 for single bits, None where values have no fixed width of 1 2 4 8 16 bytes.

    String and binary views count: their 16 bytes move, what they point to stays.
    """
    if pa.types.is_boolean(data_type):
        return 0
    if is_view(data_type):
        return 16
    if pa.types.is_dictionary(data_type) or isinstance(data_type, pa.BaseExtensionType):
        return None
    try:
        bits = data_type.bit_width
    except ValueError:
        return None
    return bits // 8 if bits in (8, 16, 32, 64, 128) else None


def is_view(data_type: pa.DataType) -> bool:
    """Return whether values are 16-byte views into other buffers."""
    return bool(pa.types.is_string_view(data_type) or pa.types.is_binary_view(data_type))


def stored_bytes(data_type: Any) -> int | None:
    """Return `fixed_width_bytes`, or the bytes of an index into a dictionary."""
    if pa.types.is_dictionary(data_type):
        return int(data_type.index_type.bit_width) // 8
    return fixed_width_bytes(data_type)


def layout_of(program: RecordProgram, lowered: Lowered, *, moves_indices: bool = False) -> ProgramLayout:
    """Return the argument block of one variant.

    ``moves_indices`` says that the code of a filter moves dictionary columns that are carried along, as it does
    values; otherwise they are left to Arrow.
    """
    ops = string_ops(lowered)
    moved = {o.carried for o in lowered.outputs} if moves_indices and lowered.keep is not None else set()
    columns: dict[int, ColumnLayout] = {}
    slot = HEADER_SLOTS
    for number in program.columns:
        data_type = program.input_schema.field(number).type
        form, tables = _form(data_type, number, ops)
        if form is ColumnForm.NONE and number in moved and pa.types.is_dictionary(data_type):
            form = ColumnForm.DICTIONARY
        size = 2 + {ColumnForm.FIXED: 1, ColumnForm.DICTIONARY: 1 + len(tables), ColumnForm.NONE: 0}.get(
            form, 2
        )
        columns[number] = ColumnLayout(number, data_type, form, slot, size, tables)
        slot += size
    outputs: list[OutputLayout] = []
    counter = len(lowered.null_drops)
    selection = None
    for output in lowered.outputs:
        if output.carried is not None:
            if lowered.keep is None:
                continue  # handed on as it is
            is_moved = output.carried in moved and columns[output.carried].form is ColumnForm.DICTIONARY
            width = stored_bytes(output.type) if is_moved else fixed_width_bytes(output.type)
            if width is None:
                selection = -1
                continue
            has_validity = lowered is program.nullable and program.input_schema.field(output.carried).nullable
        else:
            width = 4 if output.sources else fixed_width_bytes(output.type)
            assert width is not None
            has_validity = output.valid is not None
            if any(leaf.column is not None for leaf in output.sources) and lowered.keep is not None:
                selection = -1
        outputs.append(OutputLayout(output, slot, width, counter if has_validity else None, has_validity))
        counter += has_validity
        slot += 2
    if selection is not None:
        selection = slot
        slot += 1
    return ProgramLayout(columns, tuple(outputs), selection, slot, counter)


def string_ops(lowered: Lowered) -> tuple[StringOp, ...]:
    """Return the string operations of a variant, each once, in order of first use."""
    found = dict.fromkeys(
        node.attr for node in nodes_of(n for _, n in lowered.roots) if node.op == "string_op"
    )
    return tuple(found)


def _form(
    data_type: pa.DataType, number: int, ops: tuple[StringOp, ...]
) -> tuple[ColumnForm, tuple[StringOp, ...]]:
    if is_string(data_type):
        mine = tuple(op for op in ops if any(leaf.column == number for leaf in op.leaves))
        if pa.types.is_dictionary(data_type):
            if all(sum(leaf.column is not None for leaf in op.leaves) == 1 for op in mine):
                return (ColumnForm.DICTIONARY, mine) if mine else (ColumnForm.NONE, ())
            data_type = data_type.value_type  # compared with another column: decoded before the kernel runs
        if not mine and not is_view(data_type):
            return ColumnForm.NONE, ()
        return string_form(data_type), ()
    width = fixed_width_bytes(data_type)
    if width is None or (value_type(data_type) is None and width == 0):
        return ColumnForm.NONE, ()
    return (ColumnForm.BITS if width == 0 else ColumnForm.FIXED), ()


def string_form(data_type: pa.DataType) -> ColumnForm:
    """Return how plain strings of this type lie in memory."""
    if pa.types.is_string_view(data_type):
        return ColumnForm.VIEW
    return ColumnForm.STRING64 if pa.types.is_large_string(data_type) else ColumnForm.STRING32
