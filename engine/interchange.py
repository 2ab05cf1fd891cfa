"""`Interchange`: the ways of a batch into other libraries and processes: Arrow, pandas, Polars, pickle.

What lies on a device is copied to host memory for all but Arrow's device interface. The ways in are in
``dataflare.ingest``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dataflare.kernels.memory import HostColumn
from dataflare.kernels.memory.trimming import trimmed
from dataflare.schema import first_difference
from dataflare.shared_columns import SharedColumns

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped] # no stubs
    import polars as pl

    from dataflare.batch import SharedDataBatch

__all__ = ["Interchange"]


class Interchange(SharedColumns):
    """Columns that other libraries and processes can have."""

    __slots__ = ()

    def to_arrow(self) -> pa.RecordBatch:
        """Return a pyarrow record batch over the same memory, or of a batch on a device a copy in host memory.

        It carries neither metadata nor watermark.
        """
        batch = self._arrow
        if batch is None:
            if self._origin is not None and self._loaded is None and self._backend is None:
                batch = self._origin.to_arrow().slice(self._start, self._num_rows)
            elif len(self._schema):
                arrays = [column.to_arrow() for column in self._columns]
                batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
            else:  # rows without columns: only structs can say how many
                rows: Any = pa.Array.from_buffers(pa.struct([]), self._num_rows, [None])
                batch = pa.RecordBatch.from_struct_array(rows).replace_schema_metadata(self._schema.metadata)
            self._arrow = batch
        return batch

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the records as dicts of Python values."""
        return self.to_arrow().to_pylist()

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame, by pandas' own rules for nulls. Needs pandas."""
        try:
            import pandas  # noqa: F401 - only to say what is missing
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_pandas needs pandas: pip install pandas", name="pandas") from error
        return self.to_arrow().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars data frame over the same memory where Polars has the type. Needs polars."""
        try:
            import polars as pl
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_polars needs polars: pip install polars", name="polars") from error
        return pl.DataFrame(self.to_arrow())

    def equals(self, other: SharedColumns) -> bool:
        """Whether names, types and values are equal; metadata, watermark and id are not compared."""
        return first_difference(self._schema, other._schema) is None and all(
            mine.to_arrow().equals(theirs.to_arrow())
            for mine, theirs in zip(self._columns, other._columns, strict=True)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # pyarrow hands the buffers of arrays to protocol 5 out of band, whole ones: hence `trimmed`.
        arrays = [trimmed(column.to_arrow()) for column in self._columns]
        state = (arrays, self._num_rows, self._watermark, dict(self._metadata), self.id, self.age())
        return _restored, (self._schema, *state)

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_array__(self, requested_schema: object | None = None) -> Any:
        return _exporter(self).__arrow_c_array__(requested_schema)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return _exporter(self).__arrow_c_stream__(requested_schema)

    def __arrow_c_device_array__(self, requested_schema: object | None = None, **kwargs: Any) -> Any:
        if self._backend is None:
            return _exporter(self).__arrow_c_device_array__(requested_schema, **kwargs)
        from dataflare.kernels.cuda.arrow_device import export_batch

        columns = [self._column(position) for position in range(len(self._schema))]
        return export_batch(self._schema, columns, self._num_rows, self._backend)


def _exporter(batch: Interchange) -> Any:
    return batch.to_arrow()  # the stubs lack the types of the C data interface


def _restored(
    schema: pa.Schema,
    arrays: list[pa.Array[Any]],
    num_rows: int,
    watermark: int | None,
    metadata: dict[str, Any],
    batch_id: str,
    age_s: float,
) -> SharedDataBatch:
    from dataflare.batch import SharedDataBatch

    columns = [HostColumn.from_arrow(array) for array in arrays]
    batch = SharedDataBatch._from_columns(
        schema, columns, num_rows, watermark=watermark, metadata=MappingProxyType(metadata)
    )
    batch._id = batch_id
    batch._created_s -= age_s
    return batch
