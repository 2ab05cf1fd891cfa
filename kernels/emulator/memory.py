"""The global memory of an emulated device: allocations with red zones, that know whether they are still alive.

Every allocation has its own host memory and its own range of addresses, which no later allocation gets again, so
that a use after free is found however late it is. Between ranges lies a gap that belongs to nobody. What is
allocated holds a pattern, not zeros. Capacity counts as a device counts it, in whole units of 256 bytes.

Does not cover streams: copies are done when they return. Not thread-safe.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dataflare.kernels.emulator.checks import Fault
from dataflare.kernels.emulator.syntax import Module
from dataflare.kernels.emulator.types import UNSIGNED, Array
from dataflare.kernels.errors import DeviceCodeError, DeviceFaultError, DeviceMemoryError, OptionError

__all__ = ["Allocation", "DeviceMemory"]

UNIT_BYTES: Final = 256
"""What sizes are rounded up to, and the alignment that every allocation has at least."""

_FIRST_ADDRESS: Final = 0x7000_0000_0000
_GAP_BYTES: Final = 1 << 20
_PATTERN: Final = 0xA5
_REMEMBERED_FREED: Final = 4096


@dataclass(eq=False)
class Allocation:
    """A range of device addresses and the host memory behind it."""

    address: int
    size_bytes: int
    serial: int
    label: str
    data: NDArray[np.uint8]
    written: NDArray[np.bool_] | None
    is_module: bool = False
    views: dict[int, Array] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.size_bytes

    def typed(self, size_bytes: int) -> Array:
        """Return the memory as unsigned integers of a size; it may end after the allocation, in the red zone."""
        view = self.views.get(size_bytes)
        if view is None:
            view = self.views[size_bytes] = self.data.view(UNSIGNED[size_bytes])
        return view

    def __str__(self) -> str:
        name = f" ({self.label})" if self.label else ""
        return f"allocation {self.serial}{name} of {self.size_bytes} bytes at {self.address:#x}"


class DeviceMemory:
    """The memory of one device.

    Parameters
    ----------
    size_bytes
        Its capacity.
    track_uninitialised
        Remember which bytes were written, so that a kernel that reads others is found.

    Examples
    --------
    >>> memory = DeviceMemory(1 << 20)
    >>> address = memory.alloc(16)
    >>> memory.copy_in(address, b"0123456789abcdef")
    >>> bytes(memory.copy_out(address + 10, 6))
    b'abcdef'
    >>> memory.free(address)
    >>> memory.free_bytes == memory.size_bytes
    True
    """

    def __init__(self, size_bytes: int, *, track_uninitialised: bool = False) -> None:
        self.size_bytes = size_bytes
        self.tracks_uninitialised = track_uninitialised
        self._starts: list[int] = []
        self._live: list[Allocation] = []
        self._freed: dict[int, Allocation] = {}
        self._next_address = _FIRST_ADDRESS
        self._serial = 0
        self._used_bytes = 0
        self._peak_bytes = 0
        self._modules: dict[Module, dict[str, int]] = {}

    # ------------------------------------------------------------------------------------------- allocations

    @property
    def free_bytes(self) -> int:
        """How many bytes are not allocated."""
        return self.size_bytes - self._used_bytes

    @property
    def used_bytes(self) -> int:
        """How many bytes are allocated."""
        return self._used_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were allocated at one time."""
        return self._peak_bytes

    @property
    def allocations(self) -> tuple[Allocation, ...]:
        """What is allocated now, by address, without the variables of modules."""
        return tuple(allocation for allocation in self._live if not allocation.is_module)

    def alloc(self, size_bytes: int, alignment: int = UNIT_BYTES, *, label: str = "") -> int:
        """Return the address of a new allocation.

        Parameters
        ----------
        size_bytes
            May be 0; the address is then one that no access may use.
        alignment
            A power of two; at least 256 is given in any case.
        label
            Names the allocation in messages.

        Raises
        ------
        DeviceMemoryError
            Not that much is free.
        """
        if size_bytes < 0 or alignment < 1 or alignment & (alignment - 1):
            raise OptionError(f"Cannot allocate {size_bytes} bytes aligned to {alignment}.")
        return self._allocate(size_bytes, max(alignment, UNIT_BYTES), label, is_module=False).address

    def _allocate(self, size_bytes: int, alignment: int, label: str, *, is_module: bool) -> Allocation:
        charged = _rounded(size_bytes)
        if charged > self.free_bytes:
            raise DeviceMemoryError(
                f"The device memory is full: {size_bytes} bytes were asked for, "
                f"{self.free_bytes} of {self.size_bytes} are free."
            )
        self._used_bytes += charged
        self._peak_bytes = max(self._peak_bytes, self._used_bytes)
        self._serial += 1
        address = -(-self._next_address // alignment) * alignment
        self._next_address = address + charged + _GAP_BYTES
        data = np.full(max(charged, UNIT_BYTES), _PATTERN, np.uint8)
        written = np.zeros(data.size, np.bool_) if self.tracks_uninitialised else None
        allocation = Allocation(address, size_bytes, self._serial, label, data, written, is_module)
        self._starts.append(address)  # addresses only grow
        self._live.append(allocation)
        return allocation

    def free(self, address: int) -> None:
        """Give an allocation back.

        Raises
        ------
        DeviceFaultError
            The address is not that of a live allocation; says so where it was freed before.
        """
        index = bisect.bisect_left(self._starts, address)
        if index == len(self._starts) or self._starts[index] != address or self._live[index].is_module:
            freed = self._freed.get(address)
            if freed is not None:
                raise DeviceFaultError(f"Double free: the {freed} was freed before.", "double free")
            raise DeviceFaultError(f"Free of {address:#x}, which no allocation starts at.", "bad free")
        allocation = self._live.pop(index)
        del self._starts[index]
        self._used_bytes -= _rounded(allocation.size_bytes)
        allocation.data = allocation.data[:0]
        allocation.views.clear()
        allocation.written = None
        self._freed[address] = allocation
        if len(self._freed) > _REMEMBERED_FREED:
            del self._freed[next(iter(self._freed))]

    def check_leaks(self) -> None:
        """Raise a `DeviceFaultError` that lists what is still allocated, if anything is."""
        leaked = self.allocations
        if leaked:
            listed = "; ".join(str(allocation) for allocation in leaked[:8])
            more = f"; and {len(leaked) - 8} more" if len(leaked) > 8 else ""
            raise DeviceFaultError(f"Not freed: {listed}{more}.", "leak")

    # ------------------------------------------------------------------------------------------- host access

    def copy_in(self, address: int, data: Any) -> None:
        """Write a bytes-like object (or contiguous array) to device memory."""
        source = np.frombuffer(data, np.uint8)
        self.view(address, source.size)[:] = source

    def copy_out(self, address: int, size_bytes: int) -> NDArray[np.uint8]:
        """Return a copy of device memory."""
        allocation, offset = self._host_range(address, size_bytes)
        if allocation is None:
            return np.empty(0, np.uint8)
        return allocation.data[offset : offset + size_bytes].copy()

    def view(self, address: int, size_bytes: int) -> NDArray[np.uint8]:
        """Return device memory itself, for the host to write to; all of it counts as written."""
        allocation, offset = self._host_range(address, size_bytes)
        if allocation is None:
            return np.empty(0, np.uint8)
        if allocation.written is not None:
            allocation.written[offset : offset + size_bytes] = True
        return allocation.data[offset : offset + size_bytes]

    def _host_range(self, address: int, size_bytes: int) -> tuple[Allocation | None, int]:
        if size_bytes == 0:
            return None, 0
        allocation = self.find(address)
        if allocation is None or address + size_bytes > allocation.end:
            check, what = self.describe(address, size_bytes)
            raise DeviceFaultError(f"The host copies {size_bytes} bytes at {address:#x}: {what}.", check)
        return allocation, address - allocation.address

    # ----------------------------------------------------------------------------------------- kernel access

    def find(self, address: int) -> Allocation | None:
        """Return the live allocation that an address lies in."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        allocation = self._live[index]
        return allocation if address < allocation.end else None

    def describe(self, address: int, size_bytes: int) -> tuple[str, str]:
        """Return which check an access that does not fit failed, and what is near the address."""
        for freed in self._freed.values():
            if freed.address <= address < max(freed.end, freed.address + 1):
                return "use after free", f"it lies in the {freed}, which was freed"
        index = bisect.bisect_right(self._starts, address) - 1
        near = [self._live[at] for at in (index, index + 1) if 0 <= at < len(self._live)]
        if not near:
            return "out of bounds", "nothing is allocated"
        closest = min(
            near, key=lambda one: one.address - address if address < one.address else address - one.end
        )
        if address < closest.address:
            return "out of bounds", f"it lies {closest.address - address} bytes before the {closest}"
        past = address + size_bytes - closest.end
        return "out of bounds", f"it ends {past} bytes after the {closest}"

    def locate(self, addresses: Array, size_bytes: int) -> tuple[Array, list[Allocation]]:
        """Return the allocation of each address, as an index, and the allocations.

        Raises
        ------
        Fault
            One of the accesses of `size_bytes` does not lie in an allocation; its lane is an index into `addresses`.
        """
        starts = np.array(self._starts, np.uint64)
        ends = np.array([allocation.end for allocation in self._live], np.uint64)
        index: Array = np.searchsorted(starts, addresses, "right") - 1
        wrong = index < 0
        if ends.size:
            wrong |= addresses + np.uint64(size_bytes) > ends[index]
        if wrong.any():
            lane = int(wrong.argmax())
            address = int(addresses[lane])
            check, what = self.describe(address, size_bytes)
            raise Fault(check, f"access of {size_bytes} bytes at {address:#x}: {what}", lane)
        used, index = np.unique(index, return_inverse=True)
        return index, [self._live[at] for at in used]

    # ------------------------------------------------------------------------------------------------ modules

    def module_addresses(self, module: Module) -> dict[str, int]:
        """Return where the ``.global`` and ``.const`` variables of a module are; loads them the first time."""
        addresses = self._modules.get(module)
        if addresses is not None:
            return addresses
        addresses = {}
        loaded = []
        for variable in module.variables.values():
            if variable.space == "shared":
                continue
            allocation = self._allocate(
                variable.size_bytes, max(UNIT_BYTES, variable.alignment_bytes), variable.name, is_module=True
            )
            allocation.data[: variable.size_bytes] = 0
            if variable.initial is not None:
                allocation.data[: variable.size_bytes] = np.frombuffer(variable.initial, np.uint8)
            if allocation.written is not None:
                allocation.written[:] = True
            addresses[variable.name] = allocation.address
            loaded.append((variable, allocation))
        for variable, allocation in loaded:
            unknown = [symbol for _, _, symbol in variable.references if symbol not in addresses]
            if unknown:
                raise DeviceCodeError(
                    f"{variable.name} holds the address of {unknown[0]}, which is not a variable."
                )
            for offset, size, symbol in variable.references:
                place = slice(offset, offset + size)
                value = int.from_bytes(allocation.data[place].tobytes(), "little") + addresses[symbol]
                encoded = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
                allocation.data[place] = np.frombuffer(encoded, np.uint8)
        self._modules[module] = addresses
        return addresses

    def unload(self, module: Module) -> None:
        """Give back the memory of a module's variables."""
        for address in self._modules.pop(module, {}).values():
            index = bisect.bisect_left(self._starts, address)
            self._used_bytes -= _rounded(self._live.pop(index).size_bytes)
            del self._starts[index]


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // UNIT_BYTES) * UNIT_BYTES
