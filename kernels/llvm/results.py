"""Makes the columns of a result out of what generated code wrote, and of what it left to Arrow.

Kernels write values of a fixed width. Other columns are handed on as they are, or filtered by the bits that say which
records are kept; strings that a function chooses among are taken where the kernel wrote the number of the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataflare.kernels.llvm.layout import OutputLayout, ProgramLayout, is_view
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostBlock
from dataflare.kernels.udf.program import Lowered, Output

__all__ = ["ResultColumns", "Selection", "WrittenBlocks"]

WrittenBlocks = tuple[HostBlock, HostBlock | None]
"""The values of one result, and its validity bitmap if it may hold nulls."""


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

    def _field(self, output: Output, position: int | None) -> tuple[Output, Any, int | None, pa.DataType]:
        """Return a result column, its layout, its place among those the code writes, and the type written."""
        stored = pa.int32() if output.sources else output.type
        return output, None if position is None else self._layout.outputs[position], position, stored

    def columns(
        self,
        blocks: Sequence[WrittenBlocks],
        written: int,
        counters: Sequence[int],
        columns: Sequence[HostColumn],
        chosen: Selection | None,
    ) -> tuple[HostColumn, ...]:
        """Return the columns of a result.

        Parameters
        ----------
        blocks
            What was written, in the order of the layout's outputs.
        written
            Rows of the result.
        counters
            The counters that the kernel filled.
        columns
            What the program was given.
        chosen
            Which rows were kept, where there are columns that the kernel did not move.
        """
        results = []
        for output, out, position, data_type in self._fields:
            if position is None:
                assert output.carried is not None
                column = columns[self._positions[output.carried]]
                results.append(column if chosen is None else chosen.apply(column))
                continue
            owner, bitmap = blocks[position]
            if output.carried is not None and is_view(data_type):
                nulls = 0 if bitmap is None else written - counters[out.counter]
                source = columns[self._positions[output.carried]]
                results.append(_moved_views(source, owner, bitmap, written, nulls))
                continue
            if bitmap is None:
                result = HostColumn.from_block(data_type, written, 0, owner.address, 0, owner)
            else:
                nulls = written - counters[out.counter]
                kept_alive = (owner, bitmap) if nulls else owner
                address = bitmap.address if nulls else 0
                result = HostColumn.from_block(data_type, written, address, owner.address, nulls, kept_alive)
            if output.sources:
                result = self._strings(out, result, columns, chosen)
            results.append(result)
        return tuple(results)

    def _strings(
        self, out: OutputLayout, codes: HostColumn, columns: Sequence[HostColumn], chosen: Selection | None
    ) -> HostColumn:
        """Take each string of a result from the source that its code names."""
        data_type = out.output.type
        if codes.length == 0:
            return HostColumn.from_arrow(pa.array([], data_type))
        sources: list[Any] = []
        for leaf in out.output.sources:
            if leaf.column is None:
                sources.append(pa.scalar(leaf.text, data_type))
                continue
            column = columns[self._positions[leaf.column]]
            if column.type != data_type:  # before the filter: Arrow has none for string views
                column = HostColumn.from_arrow(column.to_arrow().cast(data_type))
            sources.append((column if chosen is None else chosen.apply(column)).to_arrow())
        if len(sources) == 1 and out.output.sources[0].column is None:
            sources = [pa.repeat(sources[0], codes.length)]
        return HostColumn.from_arrow(pc.choose(codes.to_arrow(), *sources))


class Selection:
    """Which records a filter kept, as a bitmap, applied to the columns that generated code does not move itself."""

    def __init__(self, bitmap: HostBlock, num_rows: int) -> None:
        self.kept = 0
        self._bitmap = bitmap
        self._num_rows = num_rows
        self._mask: Any = None

    def apply(self, column: HostColumn) -> HostColumn:
        """Return the kept rows of a column of any type."""
        if self.kept == self._num_rows:
            return column
        if self._mask is None:
            buffer = pa.foreign_buffer(self._bitmap.address, (self._num_rows + 7) // 8, base=self._bitmap)
            self._mask = pa.Array.from_buffers(pa.bool_(), self._num_rows, [None, buffer])
        array = column.to_arrow()
        try:
            return HostColumn.from_arrow(array.filter(self._mask))
        except pa.ArrowNotImplementedError:  # run-end encoding, for one, has no filter kernel
            return HostColumn.from_arrow(array.take(pc.indices_nonzero(self._mask)))


def _moved_views(
    source: HostColumn, views: HostBlock, bitmap: HostBlock | None, length: int, nulls: int
) -> HostColumn:
    """Return a column of views that were moved, over the buffers that they point into."""
    sizes = [0 if buffer is None else buffer.size for buffer in source.to_arrow().buffers()[2:]]
    validity = bitmap.address if bitmap is not None and nulls else 0
    return HostColumn.from_buffers(
        source.type,
        length,
        (validity, views.address, *source.addresses[2:]),
        ((length + 7) // 8, 16 * length, *sizes),
        nulls,
        (views, bitmap, source),
    )
