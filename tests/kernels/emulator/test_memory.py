"""Device memory: capacity, addresses, the life of allocations, tables of modules, and all state spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.parser import parse
from dataflare.kernels.errors import (
    DeviceCodeError,
    DeviceFaultError,
    DeviceMemoryError,
    MemoryLimitError,
    OptionError,
)


def test_capacity_counts_units_of_256_bytes() -> None:
    memory = DeviceMemory(1024)
    first, second = memory.alloc(257), memory.alloc(512)
    assert memory.free_bytes == 0 and memory.used_bytes == 1024
    with pytest.raises(DeviceMemoryError, match="1 bytes were asked for, 0 of 1024 are free"):
        memory.alloc(1)
    memory.free(first)
    assert memory.free_bytes == 512 and memory.peak_bytes == 1024
    memory.free(second)
    assert memory.free_bytes == 1024
    assert issubclass(DeviceMemoryError, MemoryLimitError) and issubclass(DeviceMemoryError, MemoryError)


@given(sizes=st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([1, 256, 4096])), max_size=20))
def test_addresses_are_aligned_apart_and_never_given_again(sizes: list[tuple[int, int]]) -> None:
    memory = DeviceMemory(1 << 20)
    seen: list[tuple[int, int]] = []
    for number, (size, alignment) in enumerate(sizes):
        address = memory.alloc(size, alignment)
        assert address % max(256, alignment) == 0
        assert all(address > end + 4096 for _, end in seen)
        seen.append((address, address + size))
        if number % 2:
            memory.free(address)
    assert memory.used_bytes == sum(-(-size // 256) * 256 for size, _ in sizes[::2])


def test_what_is_allocated_holds_a_pattern() -> None:
    memory = DeviceMemory(1024)
    assert set(memory.copy_out(memory.alloc(100), 100)) == {0xA5}


def test_copies_and_views() -> None:
    memory = DeviceMemory(1024)
    address = memory.alloc(32)
    memory.copy_in(address + 8, np.arange(3, dtype=np.int64))
    assert list(memory.copy_out(address + 16, 16).view(np.int64)) == [1, 2]
    memory.view(address, 32)[:] = 7
    copied = memory.copy_out(address, 4)
    memory.view(address, 4)[:] = 9
    assert list(copied) == [7] * 4 and list(memory.copy_out(address, 5)) == [9, 9, 9, 9, 7]
    memory.copy_in(0, b"")  # nothing is copied from nowhere
    assert memory.copy_out(0, 0).size == 0


def test_double_and_bad_frees() -> None:
    memory = DeviceMemory(4096)
    address = memory.alloc(100, label="column x")
    with pytest.raises(DeviceFaultError, match="which no allocation starts at") as caught:
        memory.free(address + 256)
    assert caught.value.check == "bad free"
    memory.free(address)
    with pytest.raises(DeviceFaultError, match=r"Double free: the allocation 1 \(column x\) of 100 bytes"):
        memory.free(address)
    with pytest.raises(DeviceFaultError, match="which was freed") as caught:
        memory.copy_in(address, b"x")
    assert caught.value.check == "use after free"


def test_leaks_are_listed() -> None:
    memory = DeviceMemory(1 << 20)
    memory.check_leaks()
    addresses = [memory.alloc(10, label=f"n{number}") for number in range(10)]
    with pytest.raises(DeviceFaultError, match=r"allocation 1 \(n0\) of 10 bytes.*and 2 more"):
        memory.check_leaks()
    for address in addresses:
        memory.free(address)
    memory.check_leaks()


def test_bad_requests() -> None:
    with pytest.raises(OptionError, match="aligned to 3"):
        DeviceMemory(100).alloc(1, 3)
    with pytest.raises(OptionError):
        DeviceMemory(100).alloc(-1)


TABLES = """
.global .align 8 .u64 pointers[2] = {second, generic(first)+4};
.const .align 4 .b32 first[3] = {10, -1, 0x20};
.global .align 4 .f32 second[2] = {0f3FC00000, 2.5};
.global .align 1 .b8 bytes[3] = {1, 2};
"""


def test_tables_of_a_module(kernel: Callable[..., str], device: Any) -> None:
    text = kernel(
        """ ld.global.u64 %rd1, [pointers];
 ld.global.u32 %r4, [%rd1+4];
 st.global.u32 [%p0], %r4;
 ld.global.u64 %rd2, [pointers+8];
 ld.const.u32 %r5, [%rd2];
 st.global.u32 [%p0+4], %r5;
 ld.u32 %r6, [%rd2+4];
 st.global.u32 [%p0+8], %r6;
 ld.global.u8 %rs1, [bytes+1];
 cvt.u32.u16 %r7, %rs1;
 st.global.u32 [%p0+12], %r7;""",
        functions=TABLES,
    )
    out = device.put(np.zeros(4, np.uint32))
    for _ in range(2):
        device.run(text, [out], block=1)
    words = device.get(out, np.uint32, 4)
    assert words[:1].view(np.float32)[0] == 2.5 and list(words[1:]) == [0xFFFFFFFF, 0x20, 2]
    device.memory.free(out)
    device.memory.check_leaks()
    used = device.memory.used_bytes
    device.memory.unload(parse(text))
    assert used == 4 * 256 and device.memory.used_bytes == 0


def test_a_table_of_what_is_not_there(kernel: Callable[..., str], device: Any) -> None:
    text = kernel("", functions=".global .align 8 .u64 pointer[1] = {nowhere};")
    with pytest.raises(DeviceCodeError, match="pointer holds the address of nowhere"):
        device.run(text, [0])


def test_generic_addresses_of_all_spaces_in_one_instruction(kernel: Callable[..., str], device: Any) -> None:
    text = kernel(
        """ mov.u64 %rd1, tile; cvta.shared.u64 %rd1, %rd1;
 mov.u64 %rd2, frame; cvta.local.u64 %rd2, %rd2;
 rem.u32 %r4, %w, 3;
 setp.eq.u32 %q0, %r4, 1;
 setp.eq.u32 %q1, %r4, 2;
 mul.wide.u32 %rd4, %w, 4;
 add.u64 %rd3, %p0, %rd4;
 add.u64 %rd1, %rd1, %rd4;
 selp.b64 %rd5, %rd1, %rd3, %q0;
 selp.b64 %rd5, %rd2, %rd5, %q1;
 add.u32 %r5, %w, 100;
 st.u32 [%rd5], %r5;
 ld.u32 %r6, [%rd5];
 isspacep.shared %q2, %rd5;
 selp.b32 %r7, 1000, 0, %q2;
 add.u32 %r6, %r6, %r7;
 add.u64 %rd4, %p1, %rd4;
 st.global.u32 [%rd4], %r6;""",
        "scratch out",
        declarations=".shared .align 4 .b8 tile[128];\n.local .align 4 .b8 frame[4];",
    )
    out = device.memory.alloc(128)
    statistics = device.run(text, [device.memory.alloc(128), out])
    assert list(device.get(out, np.uint32, 32)) == [w + 100 + 1000 * (w % 3 == 1) for w in range(32)]
    assert {name: statistics.bytes_stored[name] for name in ("shared", "local")} == {
        "shared": 44,
        "local": 40,
    }


@pytest.mark.parametrize("cpu", ["sm_75", "sm_90", "sm_120"])
def test_local_arrays_and_parameters_by_value(compile_ir: Callable[..., str], device: Any, cpu: str) -> None:
    ir = """
define ptx_kernel void @k(ptr byval([4 x i32]) align 4 %values, ptr addrspace(1) %out) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %frame = alloca [4 x i32]
  %m = and i32 %t, 3
  %from = getelementptr i32, ptr %values, i32 %m
  %v = load i32, ptr %from
  %to = getelementptr i32, ptr %frame, i32 %m
  store volatile i32 %v, ptr %to
  %w = load volatile i32, ptr %to
  %z = zext i32 %t to i64
  %p = getelementptr i32, ptr addrspace(1) %out, i64 %z
  store i32 %w, ptr addrspace(1) %p
  ret void
}
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
"""
    out = device.memory.alloc(128)
    arguments = np.array([5, 6, 7, 8], np.uint32).tobytes() + int(out).to_bytes(8, "little")
    device.run(compile_ir(ir, cpu), arguments)
    assert list(device.get(out, np.uint32, 32)) == [5, 6, 7, 8] * 8
