"""Makes the columns of a result out of what generated code wrote, and of what it left to Arrow.

Kernels write values of a fixed width. Other columns are handed on as they are, or filtered by the bits that say which
records are kept; strings that a function chooses among are taken where the kernel wrote the number of the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataflare.kernels.llvm.layout import ProgramLayout, is_view
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import Lowered, Output

__all__ = ["ResultColumns", "Selection", "Written"]

_FILTER, _DROP = pc.get_function("array_filter"), pc.FilterOptions("drop")

Written = tuple[int, int, object, object]
"""The addresses of the values of a result and of its validity, 0 if it has none, and what keeps the memory of each."""


_Field = tuple[pa.DataType, int | None, int | None, int | None, bool, bool, Output | None]
"""A result: its type, its place among those that code writes, the counter of its valid values, where in the columns
that a program is given that is which it hands on, whether it has views or indices that were moved, and what the numbers
that code wrote choose among. A plain tuple, since one of a class of its own takes Python longer to unpack.
"""


class ResultColumns:
    """How the columns of one variant of a program come about.

    Parameters
    ----------
    positions
        Where in the columns that a program is given each input column is.
    """

    def __init__(self, lowered: Lowered, layout: ProgramLayout, positions: Mapping[int, int]) -> None:
        self._layout = layout
        self._positions = positions
        places = {id(out.output): i for i, out in enumerate(layout.outputs)}
        self._fields = tuple(self._field(output, places.get(id(output))) for output in lowered.outputs)

    def _field(self, output: Output, position: int | None) -> _Field:
        stored = pa.int32() if output.sources else output.type
        is_moved = output.carried is not None and position is not None
        return (
            stored,
            position,
            None if position is None else self._layout.outputs[position].counter,
            None if output.carried is None else self._positions[output.carried],
            is_moved and is_view(stored),
            is_moved and pa.types.is_dictionary(stored),
            output if output.sources else None,
        )

    def columns(
        self,
        written: Sequence[Written],
        count: int,
        counters: Sequence[int],
        columns: Sequence[HostColumn],
        chosen: Selection | None,
    ) -> tuple[HostColumn, ...]:
        """Return the columns of a result.

        Parameters
        ----------
        written
            Where results were written, in the order of the layout's outputs.
        count
            Rows of the result.
        counters
            The counters that the kernel filled.
        columns
            What the program was given.
        chosen
            Which rows were kept, where there are columns that the kernel did not move.
        """
        results = []
        for data_type, position, counter, source, moves_views, moves_indices, output in self._fields:
            if position is None:
                assert source is not None
                column = columns[source]
                results.append(column if chosen is None else chosen.apply(column))
                continue
            address, validity, owner, validity_owner = written[position]
            nulls = 0
            if validity:
                assert counter is not None
                nulls = count - counters[counter]
                if not nulls:
                    validity = 0
                elif validity_owner is not owner:
                    owner = (owner, validity_owner)
            if moves_views:
                assert source is not None
                results.append(_moved_views(columns[source], address, validity, count, nulls, owner))
                continue
            dictionary = None
            if moves_indices:
                assert source is not None
                dictionary = columns[source].dictionary
            result = HostColumn(
                data_type, count, 0, nulls, None, (validity, address), None, owner, None, dictionary
            )
            results.append(result if output is None else self._strings(output, result, columns, chosen))
        return tuple(results)

    def _strings(
        self, output: Output, codes: HostColumn, columns: Sequence[HostColumn], chosen: Selection | None
    ) -> HostColumn:
        """Take each string of a result from the source that its code names."""
        data_type = output.type
        if codes.length == 0:
            return HostColumn.from_arrow(pa.array([], data_type))
        sources: list[Any] = []
        for leaf in output.sources:
            if leaf.column is None:
                sources.append(pa.scalar(leaf.text, data_type))
                continue
            column = columns[self._positions[leaf.column]]
            if column.type != data_type:  # before the filter: Arrow has none for string views
                column = HostColumn.from_arrow(column.to_arrow().cast(data_type))
            sources.append((column if chosen is None else chosen.apply(column)).to_arrow())
        if len(sources) == 1 and output.sources[0].column is None:
            sources = [pa.repeat(sources[0], codes.length)]
        return HostColumn.from_arrow(pc.choose(codes.to_arrow(), *sources))


class Selection:
    """Which records a filter kept, as a bitmap, applied to the columns that generated code does not move itself.

    Parameters
    ----------
    address
        Where the bitmap is.
    owner
        What keeps it.
    """

    def __init__(self, address: int, owner: object, num_rows: int) -> None:
        self.kept = 0
        self._address = address
        self._owner = owner
        self._num_rows = num_rows
        self._mask: Any = None

    def apply(self, column: HostColumn) -> HostColumn:
        """Return the kept rows of a column of any type."""
        if self.kept == self._num_rows:
            return column
        if self._mask is None:
            buffer = pa.foreign_buffer(self._address, (self._num_rows + 7) // 8, base=self._owner)
            self._mask = pa.Array.from_buffers(pa.bool_(), self._num_rows, [None, buffer])
        array = column.to_arrow()
        try:
            return HostColumn.from_arrow(_FILTER.call([array, self._mask], _DROP))
        except pa.ArrowNotImplementedError:  # run-end encoding, for one, has no filter kernel
            return HostColumn.from_arrow(array.take(pc.indices_nonzero(self._mask)))


def _moved_views(
    source: HostColumn, address: int, validity: int, length: int, nulls: int, owner: object
) -> HostColumn:
    """Return a column of views that were moved, over the buffers that they point into."""
    sizes = [0 if buffer is None else buffer.size for buffer in source.to_arrow().buffers()[2:]]
    return HostColumn.from_buffers(
        source.type,
        length,
        (validity, address, *source.addresses[2:]),
        ((length + 7) // 8, 16 * length, *sizes),
        nulls,
        (owner, source),
    )
