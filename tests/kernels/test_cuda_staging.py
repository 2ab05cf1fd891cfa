"""PinnedRing: every copy arrives, whatever the sizes, though the device copies as late as it may."""

from __future__ import annotations

import ctypes
import random

import pytest
from fakes.cupy_on_emulator import FakeCuda, fake_cupy

from dataflare.kernels.cuda.staging import PinnedRing

_RING_BYTES = 4096


class Machine:
    """A ring, a stream, and a stretch of device memory behind them."""

    def __init__(self) -> None:
        self.cupy = fake_cupy()
        self.cuda: FakeCuda = self.cupy.fake
        runtime = self.cupy.cuda.runtime
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.memory = self.cuda.memories[0]
        self.address = self.memory.alloc(1 << 20)
        self.ring = PinnedRing(
            self.cupy.cuda.alloc_pinned_memory(_RING_BYTES),
            _RING_BYTES,
            new_event=lambda: self.cupy.cuda.Event(disable_timing=True),
            copy_in=lambda to, here, nbytes, stream: runtime.memcpyAsync(to, here, nbytes, 1, stream.ptr),
            copy_out=lambda here, to, nbytes, stream: runtime.memcpyAsync(here, to, nbytes, 2, stream.ptr),
        )

    def upload(self, data: bytes, offset: int) -> None:
        host = ctypes.create_string_buffer(data, len(data))
        self.ring.upload(self.address + offset, ctypes.addressof(host), len(data), self.stream)
        ctypes.memset(host, 0, len(data))  # the host's memory may be used again at once


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("sizes", [[1], [511, 512, 513], [100_000], [64] * 200, [4095, 1, 4097]])
def test_what_goes_up_comes_down(machine: Machine, sizes: list[int]) -> None:
    draw = random.Random(len(sizes))
    parts = [draw.randbytes(size) for size in sizes]
    offset, places = 0, []
    for part in parts:
        machine.upload(part, offset)
        places.append(offset)
        offset += len(part) + 7
    found = [ctypes.create_string_buffer(b"\0" * len(part), len(part)) for part in parts]
    for place, buffer in zip(places, found, strict=True):
        machine.ring.download(ctypes.addressof(buffer), machine.address + place, len(buffer), machine.stream)
    machine.ring.finish()
    assert [buffer.raw for buffer in found] == parts


@pytest.mark.parametrize(
    ("sizes", "copies"),
    [
        ([64] * 2, 1),
        ([512, 1, 511], 3),
        ([4096 + 7, 3, 5], 9 + 1),
        ([30, 100, 2000, 30, 100], 1 + 4 + 1),
        ([1] * 100, 100 // 2),
        ([], 0),
    ],
    ids=str,
)
def test_stretches_of_a_block_are_copied_together(machine: Machine, sizes: list[int], copies: int) -> None:
    draw = random.Random(len(sizes))
    hosts = [ctypes.create_string_buffer(draw.randbytes(size), size) for size in sizes]
    places, end = [], 512
    for size in sizes:
        places.append(end)
        end += -(-size // 256) * 256
    guard = draw.randbytes(end + 512)
    machine.memory.copy_in(machine.address, guard)
    before = machine.cuda.calls["memcpyAsync"]
    stretches = [
        (place, ctypes.addressof(host), size) for place, host, size in zip(places, hosts, sizes, strict=True)
    ]
    machine.ring.upload_all(machine.address, stretches, machine.stream)
    expected = [host.raw for host in hosts]
    for host, size in zip(hosts, sizes, strict=True):
        host.raw = b"\0" * size  # the host's memory may be used again at once
    machine.ring.finish()
    found = machine.memory.copy_out(machine.address, len(guard)).tobytes()
    assert [found[place : place + size] for place, size in zip(places, sizes, strict=True)] == expected
    assert (found[:512], found[end:]) == (guard[:512], guard[end:])
    assert machine.cuda.calls["memcpyAsync"] - before == copies


def test_a_small_copy_waits_for_nothing(machine: Machine) -> None:
    for number in range(8):
        machine.upload(b"x" * 64, 64 * number)
    assert machine.stream.done == 0
    assert machine.cuda.calls["eventSynchronize"] == 0


def test_a_large_copy_waits_for_its_own_first_pieces_only(machine: Machine) -> None:
    machine.upload(b"y" * (_RING_BYTES + 512), 0)
    assert machine.stream.done == 1  # nine pieces, of which eight lie in the ring


def test_events_are_used_again(machine: Machine) -> None:
    for number in range(100):
        machine.upload(b"z" * 512, 512 * number)
    assert machine.cuda.calls["eventCreate"] <= 9


def test_what_is_forgotten_does_not_arrive(machine: Machine) -> None:
    machine.upload(b"abc", 0)
    host = ctypes.create_string_buffer(3)
    machine.ring.download(ctypes.addressof(host), machine.address, 3, machine.stream)
    machine.ring.forget()
    machine.ring.finish()
    assert host.raw == b"\0\0\0"
    machine.ring.download(ctypes.addressof(host), machine.address, 3, machine.stream)
    machine.ring.finish()
    assert host.raw == b"abc"
