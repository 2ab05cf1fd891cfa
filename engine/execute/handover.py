"""Hands batches to functions of ``map_batches``, in the form that they take, and takes what they return.

Arrays are views of the batch's own memory wherever its types allow: of host memory for NumPy and for torch on the
CPU, of a GPU's for CuPy and torch there. Which forms there are, and of which types, is in `dataflare.plan.formats`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dataflare.kernels.errors import (
    DataError,
    DeviceMemoryError,
    DeviceUnavailableError,
    OptionError,
    SchemaError,
)
from dataflare.plan.formats import check_types, describe_format

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.kernels.cuda.device import DeviceBackend
    from dataflare.plan.formats import BatchFormat
    from dataflare.plan.physical import MapBatchesStep

__all__ = ["Handover", "as_batch"]


class Handover:
    """The way of batches into one function and out of it. Thread-safe.

    Parameters
    ----------
    name
        What the step is called in errors.
    device
        Where the run computes.
    """

    def __init__(self, name: str, step: MapBatchesStep, device: str) -> None:
        from dataflare.plan.residence import takes_on_device

        self._name = name
        self._format: BatchFormat = step.batch_format
        self._is_checked = step.input_schema is not None
        self._torch: Any = None
        self.backends: tuple[DeviceBackend, ...] = ()
        """The devices that the function gets batches on; none for host memory."""
        if self._format == "torch":
            self._torch = self._imported_torch()
        if takes_on_device(step, device):
            self.backends = _backends(device)
        elif self._format == "cupy" and not device.startswith("cuda"):
            self.backends = self._first_gpu()

    def built(self, fn: Callable[[Any], Any]) -> Any:
        """Return a function, or the instance of a class, made where the batches of this thread come to lie."""
        if not isinstance(fn, type):
            return fn
        if self.backends:
            from dataflare.kernels.cuda.spread import backend_of_thread

            backend = backend_of_thread(self.backends)
            if backend.lost is None:
                with self._current(backend):
                    return fn()
        return fn()

    def call(
        self, fn: Callable[[Any], Any], batch: SharedDataBatch, backend: DeviceBackend | None = None
    ) -> SharedDataBatch:
        """Call a function with a batch that lies on ``backend``, or in host memory, and return its result.

        What it did on the device is done when this returns.
        """
        if backend is None:
            return as_batch(fn(self._argument(batch, backend)), self._name)
        with self._current(backend):
            result = as_batch(fn(self._argument(batch, backend)), self._name)
            backend.synchronize(backend.stream())  # its memory may go with the batch
        return result

    def _argument(self, batch: SharedDataBatch, backend: DeviceBackend | None) -> Any:
        form = self._format
        if form in ("batch", "device"):
            return batch
        if not self._is_checked:
            check_types(self._name, form, batch.schema)
        if form == "arrow":
            return batch.to_arrow()
        return {name: self._array(name, batch, backend) for name in batch.column_names}

    def _array(self, name: str, batch: SharedDataBatch, backend: DeviceBackend | None) -> Any:
        column = batch[name]
        if column.null_count:
            raise DataError(
                f"{self._name} takes {describe_format(self._format)}, which have no place for nulls, and column "
                f"{name!r} has {column.null_count:,} here: replace them before, with_columns({name}=lambda r: "
                f"r.{name} if r.{name} is not None else 0) for one, or take batch_format='arrow'."
            )
        if self._format == "torch":
            return self._torch.from_dlpack(column)
        if backend is None:
            return column.to_numpy(zero_copy_only=False)
        return _cupy().asarray(column)

    @contextlib.contextmanager
    def _current(self, backend: DeviceBackend) -> Iterator[None]:
        """Let what the function does by default be done on a device, on the stream of this thread."""
        with backend.current():
            stream = backend.stream()
            if self._torch is None or stream is None:
                yield
                return
            cuda = self._torch.cuda
            number = int(backend.name.partition(":")[2])
            try:
                with cuda.stream(cuda.ExternalStream(int(stream.ptr), device=number)):
                    yield
            except cuda.OutOfMemoryError as error:
                raise DeviceMemoryError(f"{backend.name}: {error}") from error

    def _imported_torch(self) -> Any:
        try:
            import torch  # type: ignore[import-not-found] # no dependency
        except ModuleNotFoundError as error:
            raise OptionError(
                f"{self._name} takes torch tensors (batch_format='torch'), which needs torch: pip install torch"
            ) from error
        return torch

    def _first_gpu(self) -> tuple[DeviceBackend, ...]:
        try:
            return _backends("cuda")[:1]
        except DeviceUnavailableError as error:
            raise DeviceUnavailableError(
                f"{self._name} takes CuPy arrays, which lie on a GPU: {error} Take batch_format='numpy', or test it on "
                "device='cuda:emulated', which gives NumPy arrays in their place."
            ) from error


def as_batch(value: Any, step: str) -> SharedDataBatch:
    """Return what a ``map_batches`` function returned as a batch."""
    from dataflare.batch import SharedDataBatch

    if isinstance(value, SharedDataBatch):
        return value
    if isinstance(value, dict):
        return _from_columns(value)
    if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__"):
        return SharedDataBatch.from_arrow(value)
    raise SchemaError(
        f"{step} must return a SharedDataBatch, an Arrow record batch or table, a Polars or pandas frame, "
        f"or a dict of columns (NumPy, CuPy, torch or Arrow arrays, or lists), not {type(value).__name__}."
    )


def _from_columns(columns: dict[str, Any]) -> SharedDataBatch:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch

    if any(isinstance(column, list | tuple | pa.Array | pa.ChunkedArray) for column in columns.values()):
        arrays = {
            name: column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)
            for name, column in columns.items()
        }
        return SharedDataBatch.from_arrow(pa.table(arrays))
    return SharedDataBatch.from_columns(columns)


def _backends(device: str) -> tuple[DeviceBackend, ...]:
    from dataflare.kernels.cuda.backends import cuda_backends

    return cuda_backends(device)


def _cupy() -> Any:
    import cupy

    return cupy
