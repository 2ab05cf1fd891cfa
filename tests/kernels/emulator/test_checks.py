"""Each misuse is found, and its message says kernel, line, thread and place; the right program next to it passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.errors import DeviceFaultError

Kernel = Callable[..., str]
STORE_AT_I = """
 mul.wide.u32 %rd0, %i, 4;
 add.u64 %rd0, %p0, %rd0;
"""
SHARED = ".shared .align 4 .b8 tile[256];"
SHARED_AT_W = """
 mov.u32 %r2, tile;
 add.u32 %r3, %r2, %w4;
"""


def fault(device: Any, text: str, arguments: list[int], **options: Any) -> DeviceFaultError:
    with pytest.raises(DeviceFaultError) as caught:
        device.run(text, arguments, **options)
    return caught.value


def output(device: Any, count: int, label: str = "out") -> int:
    return int(device.put(np.zeros(count, np.uint32), label))


# -------------------------------------------------------------------------------------------------- global memory


def test_out_of_bounds_names_kernel_line_thread_and_allocation(device: Any, kernel: Kernel) -> None:
    text = kernel(STORE_AT_I + " st.global.u32 [%rd0], %i;")
    address = output(device, 100)
    error = fault(device, text, [address], block=64, grid=2)
    line = text.split("\n").index(" st.global.u32 [%rd0], %i;") + 1
    assert error.check == "out of bounds"
    assert str(error) == (
        f"Kernel k: access of 4 bytes at {address + 400:#x}: it ends 4 bytes after the allocation 1 (out) of 400 bytes "
        f"at {address:#x}. PTX line {line}, thread (36, 0, 0) of block (1, 0, 0): st.global.u32 [%rd0], %i;"
    )
    device.run(text, [address], block=50, grid=2)


@pytest.mark.parametrize("access", ["ld.global.u32 %r4, [%p0+-4];", "st.global.u32 [%p0+-4], %i;"])
def test_before_the_beginning(device: Any, kernel: Kernel, access: str) -> None:
    error = fault(device, kernel(access), [output(device, 4)], block=1)
    assert error.check == "out of bounds" and "4 bytes before the allocation" in str(error)


def test_null(device: Any, kernel: Kernel) -> None:
    assert "nothing is allocated" in str(fault(device, kernel("ld.global.u32 %r4, [%p0];"), [0]))


def test_a_vector_that_ends_outside(device: Any, kernel: Kernel) -> None:
    text = kernel("ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%p0];")
    assert fault(device, text, [output(device, 3)]).check == "out of bounds"
    device.run(text, [output(device, 4)])


def test_use_after_free(device: Any, kernel: Kernel) -> None:
    address = output(device, 4, "scratch")
    device.memory.free(address)
    output(device, 4)  # does not get the same addresses
    error = fault(device, kernel("ld.global.u32 %r4, [%p0+8];"), [address])
    assert error.check == "use after free" and "allocation 1 (scratch)" in str(error)


@pytest.mark.parametrize(
    "access",
    ["ld.global.u32 %r4, [%p0+2];", "ld.global.v2.u32 {%r4, %r5}, [%p0+4];", "st.global.u64 [%p0+4], %rd0;"],
)
def test_misaligned(device: Any, kernel: Kernel, access: str) -> None:
    assert fault(device, kernel(access), [output(device, 64)]).check == "misaligned"


def test_uninitialised_global(device: Any, kernel: Kernel) -> None:
    text = kernel(STORE_AT_I + " ld.global.u32 %r4, [%rd0];")
    address = device.memory.alloc(64)
    device.memory.copy_in(address, bytes(60))
    error = fault(device, text, [address], block=16)
    assert error.check == "uninitialised" and "thread (15, 0, 0)" in str(error)
    device.run(text, [address], block=15)
    device.run(text, [address], block=16, checks=Checks(uninitialised_global=False))


def test_what_a_kernel_wrote_is_initialised(device: Any, kernel: Kernel) -> None:
    text = kernel(STORE_AT_I + " st.global.u32 [%rd0], %i;\n ld.global.u32 %r4, [%rd0];")
    device.run(text, [device.memory.alloc(64)], block=16)


def test_threads_store_different_values_to_one_address(device: Any, kernel: Kernel) -> None:
    address = output(device, 8)
    error = fault(device, kernel("st.global.u32 [%p0], %i;"), [address], block=2)
    assert error.check == "conflicting stores" and f"{address:#x}" in str(error)
    device.run(kernel("st.global.u32 [%p0], 5;"), [address])
    halves = "shr.u32 %r4, %i, 1;\n mul.wide.u32 %rd0, %r4, 4;\n add.u64 %rd0, %p0, %rd0;\n st.global.u32 [%rd0], {};"
    device.run(kernel(halves.format("%r4")), [address], block=16)
    assert fault(device, kernel(halves.format("%i")), [address], block=16).check == "conflicting stores"


def test_blocks_race_in_global_memory(device: Any, kernel: Kernel) -> None:
    text = kernel("setp.eq.u32 %q0, %w, 0;\n @%q0 ld.global.u32 %r4, [%p0];\n @%q0 st.global.u32 [%p0], 7;")
    address = output(device, 1)
    device.run(text, [address], grid=2)
    assert fault(device, text, [address], grid=2, checks=Checks(global_races=True)).check == "race"
    device.run(text, [address], grid=1, checks=Checks(global_races=True))


def test_a_constant_is_read_only(device: Any, kernel: Kernel) -> None:
    text = kernel(
        "mov.u64 %rd0, table;\n st.global.u32 [%rd0], 1;", functions=".const .align 4 .u32 table[2] = {1, 2};"
    )
    assert fault(device, text, [0]).check == "read-only memory"


# -------------------------------------------------------------------------------------------------- shared memory


def mirrored(kernel: Kernel, *, barrier: str = "bar.sync 0;") -> str:
    return kernel(
        SHARED_AT_W
        + f""" st.shared.u32 [%r3], %w;
 {barrier}
 sub.u32 %r4, %r2, %w4;
 ld.shared.u32 %r5, [%r4+252];
{STORE_AT_I} st.global.u32 [%rd0], %r5;""",
        declarations=SHARED,
    )


def test_a_missing_barrier_is_a_race(device: Any, kernel: Kernel) -> None:
    address = output(device, 64)
    device.run(mirrored(kernel), [address], block=64)
    assert list(device.get(address, np.uint32, 64)) == list(range(63, -1, -1))
    error = fault(device, mirrored(kernel, barrier=""), [address], block=64)
    assert error.check == "race" and "it reads 4 bytes at 252 in shared memory" in str(error)


def test_a_write_after_a_read_of_another_thread_is_a_race(device: Any, kernel: Kernel) -> None:
    text = mirrored(kernel).replace(
        "ld.shared.u32 %r5, [%r4+252];", "ld.shared.u32 %r5, [%r4+252];\n@X st.shared.u32 [%r3], 0;"
    )
    assert fault(device, text.replace("@X", ""), [output(device, 64)], block=64).check == "race"
    device.run(text.replace("@X", "bar.sync 0;"), [output(device, 64)], block=64)


def test_a_warp_must_be_synchronised_too(device: Any, kernel: Kernel) -> None:
    exchange = """ xor.b32 %r4, %w4, 4;
 add.u32 %r4, %r2, %r4;
 ld.shared.u32 %r5, [%r4];"""
    text = kernel(SHARED_AT_W + " st.shared.u32 [%r3], %w;\n @X\n" + exchange, declarations=SHARED)
    assert fault(device, text.replace("@X", ""), [0]).check == "race"
    device.run(text.replace("@X", "bar.warp.sync 0xffffffff;"), [0])
    device.run(text.replace("@X", ""), [0], checks=Checks(shared_races=False))


def test_two_threads_write_one_place(device: Any, kernel: Kernel) -> None:
    text = kernel(SHARED_AT_W + " st.shared.u32 [%r2], %w;", declarations=SHARED)
    assert fault(device, text, [0]).check == "race"
    device.run(text, [0], block=1)


def test_uninitialised_shared(device: Any, kernel: Kernel) -> None:
    text = kernel(SHARED_AT_W + " ld.shared.u32 %r4, [%r3];", declarations=SHARED)
    assert fault(device, text, [0], block=1).check == "uninitialised"
    device.run(text, [0], block=1, checks=Checks(uninitialised_shared=False))


def test_shared_memory_has_an_end(device: Any, kernel: Kernel) -> None:
    text = kernel(SHARED_AT_W + " st.shared.u32 [%r3], %w;", declarations=SHARED)
    device.run(text, [0], block=64)
    error = fault(device, text, [0], block=65)
    assert error.check == "out of bounds" and "at 256 in shared memory of 256 bytes" in str(error)


def test_dynamic_shared_memory_is_what_the_launch_gives(device: Any, kernel: Kernel) -> None:
    text = kernel(
        SHARED_AT_W + " st.shared.u32 [%r3], %w;", functions=".extern .shared .align 16 .b8 tile[];"
    )
    device.run(text, [0], block=64, shared_bytes=256)
    assert fault(device, text, [0], block=64, shared_bytes=252).check == "out of bounds"


def test_local_memory_has_an_end(device: Any, kernel: Kernel) -> None:
    text = kernel(
        "mov.u64 %rd0, frame;\n st.local.u32 [%rd0+{}], 1;", declarations=".local .align 4 .b8 frame[8];"
    )
    device.run(text.replace("{}", "4"), [0])
    assert fault(device, text.replace("{}", "8"), [0]).check == "out of bounds"


# ------------------------------------------------------------------------------------------- barriers and warps


def test_barriers_in_two_branches(device: Any, kernel: Kernel) -> None:
    text = kernel(
        """ setp.lt.u32 %q0, %w, 32;
 @%q0 bra LOW;
 bar.sync 0;
 bra END;
LOW:
 bar.sync 0;
END:"""
    )
    assert fault(device, text, [0], block=64).check == "divergent barrier"
    device.run(text, [0], block=32)
    device.run(
        text.replace("bar.sync 0", "barrier.sync 0"), [0], block=64
    )  # those that are not aligned may meet


def test_a_barrier_after_some_threads_left(device: Any, kernel: Kernel) -> None:
    text = kernel(" setp.ge.u32 %q0, %w, 40;\n @%q0 ret;\n bar.sync 0;")
    error = fault(device, text, [0], block=64)
    assert error.check == "barrier after exit" and "24 threads" in str(error)
    device.run(text, [0], block=40)


def test_a_barrier_that_is_never_complete(device: Any, kernel: Kernel) -> None:
    text = kernel(" setp.lt.u32 %q0, %w, 32;\n @%q0 bar.sync 1, 64;\n @!%q0 bar.sync 2, 64;")
    error = fault(device, text, [0], block=64)
    assert error.check == "deadlock" and "32 threads wait at line" in str(error)


def test_named_barriers_of_warps_that_work_together(device: Any, kernel: Kernel) -> None:
    text = kernel(" setp.lt.u32 %q0, %w, 64;\n @%q0 bar.sync 1, 64;\n @!%q0 bar.sync 2, 64;")
    assert device.run(text, [0], block=128).barriers == 2


BALLOT = " vote.sync.ballot.b32 %r4, %q0, {};"


def test_a_mask_without_the_thread_itself(device: Any, kernel: Kernel) -> None:
    text = kernel(" setp.ge.u32 %q0, %w, 0;\n" + BALLOT.format("0x7fffffff"))
    error = fault(device, text, [0])
    assert error.check == "bad mask" and "thread (31, 0, 0)" in str(error)
    device.run(text, [0], block=31)


def test_masks_that_differ_in_a_warp(device: Any, kernel: Kernel) -> None:
    text = kernel(" setp.eq.u32 %q0, %w, 3;\n selp.b32 %r5, 0xff, 0xffffffff, %q0;\n" + BALLOT.format("%r5"))
    assert fault(device, text, [0]).check == "bad mask"


def test_groups_of_a_warp_may_have_masks_of_their_own(device: Any, kernel: Kernel) -> None:
    text = kernel(
        f""" setp.lt.u32 %q1, %w, 16;
 selp.b32 %r5, 0xffff, 0xffff0000, %q1;
 and.b32 %r6, %w, 1;
 setp.eq.u32 %q0, %r6, 0;
{BALLOT.format("%r5")}
{STORE_AT_I} st.global.u32 [%rd0], %r4;"""
    )
    address = output(device, 32)
    device.run(text, [address])
    assert list(device.get(address, np.uint32, 32)) == [0x5555] * 16 + [0x55550000] * 16


def test_a_ballot_in_a_branch_with_the_mask_of_all(device: Any, kernel: Kernel) -> None:
    text = kernel(
        " setp.lt.u32 %q0, %w, 20;\n @!%q0 bra END;\n" + BALLOT.format("0xffffffff") + "\nEND:\n bar.sync 0;"
    )
    error = fault(device, text, [0])
    assert error.check == "deadlock" and "12 threads wait" in str(error)
    device.run(text.replace("0xffffffff", "0x000fffff"), [0])


def test_exited_threads_are_not_waited_for_unless_asked(device: Any, kernel: Kernel) -> None:
    text = kernel(
        " setp.ge.u32 %q0, %w, 20;\n @%q0 ret;\n setp.lt.u32 %q1, %w, 99;\n" + BALLOT.format("0xffffffff")
    )
    device.run(text, [0])
    assert fault(device, text, [0], checks=Checks(exited_members=True)).check == "bad mask"


def test_a_shuffle_from_a_lane_that_is_not_there(device: Any, kernel: Kernel) -> None:
    text = kernel(" shfl.sync.down.b32 %r4, %w, 1, 31, 0xffffffff;")
    device.run(text, [0], block=64)
    error = fault(device, text, [0], block=48)
    assert error.check == "absent lane" and "reads lane 16" in str(error)


def test_a_shuffle_from_outside_the_mask(device: Any, kernel: Kernel) -> None:
    text = kernel(
        """ setp.lt.u32 %q1, %w, 16;
 selp.b32 %r5, 0xffff, 0xffff0000, %q1;
 shfl.sync.idx.b32 %r4, %w, 20, 31, %r5;"""
    )
    error = fault(device, text, [0])
    assert error.check == "absent lane" and "thread (0, 0, 0)" in str(error)


# ------------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize("operation", ["div.s32", "div.u32", "rem.s32", "rem.u32"])
def test_integer_division_by_zero(device: Any, kernel: Kernel, operation: str) -> None:
    text = kernel(f" sub.u32 %r4, %w, 5;\n {operation} %r5, %w, %r4;")
    error = fault(device, text, [0])
    assert error.check == "division by zero" and "thread (5, 0, 0)" in str(error)
    device.run(text, [0], block=5)


def test_a_loop_without_end(device: Any, kernel: Kernel) -> None:
    text = kernel("AGAIN:\n setp.lt.u32 %q0, %w, 5;\n @%q0 bra AGAIN;")
    error = fault(device, text, [0], step_limit=1000)
    assert error.check == "live-lock" and "1000 steps" in str(error)


def test_trap(device: Any, kernel: Kernel) -> None:
    assert fault(device, kernel(" setp.eq.u32 %q0, %w, 4;\n @%q0 trap;"), [0]).check == "trap"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": 1025}, "not one that a device accepts"),
        ({"block": (32, 33)}, "a block of 1056 threads"),
        ({"block": 0}, "not one that a device accepts"),
        ({"grid": (1, 65536)}, "not one that a device accepts"),
        ({"shared_bytes": 300_000}, "bytes of shared memory"),
    ],
)
def test_launches_that_a_device_refuses(
    device: Any, kernel: Kernel, options: dict[str, Any], words: str
) -> None:
    error = fault(device, kernel(""), [0], **options)
    assert error.check == "bad launch" and words in str(error)


def test_parameters_are_counted(device: Any, kernel: Kernel) -> None:
    assert "takes 1 parameters, 2 are given" in str(fault(device, kernel(""), [0, 1]))
    assert "takes 8 bytes of parameters, 4 are given" in str(fault(device, kernel(""), b"1234"))  # type: ignore[arg-type]


def test_static_shared_memory_has_a_limit(device: Any, kernel: Kernel) -> None:
    text = kernel("mov.u32 %r4, big;", declarations=".shared .align 4 .b8 big[{}];")
    device.run(text.replace("{}", "49152"), [0])
    assert "49156 bytes of shared memory" in str(fault(device, text.replace("{}", "49156"), [0]))


def test_only_the_shared_memory_that_a_kernel_uses_counts(device: Any, kernel: Kernel) -> None:
    function = ".func touch() { .reg .b32 %x; mov.u32 %x, {}; ret; }\n"
    big = ".shared .align 4 .b8 used[49152];\n.shared .align 4 .b8 other[49152];\n"
    device.run(kernel("call.uni touch;", functions=big + function.replace("{}", "used")), [0])
    both = kernel("mov.u32 %r4, other;\n call.uni touch;", functions=big + function.replace("{}", "used"))
    assert "98304 bytes of shared memory" in str(fault(device, both, [0]))


def test_what_a_kernel_was_compiled_for(device: Any, kernel: Kernel) -> None:
    limited = kernel("").replace("k_param_0)", "k_param_0) .maxntid 64")
    device.run(limited, [0], block=64)
    assert "at most 64 threads" in str(fault(device, limited, [0], block=65))
    exact = kernel("").replace("k_param_0)", "k_param_0) .reqntid 64, 1, 1")
    device.run(exact, [0], block=64)
    assert "needs blocks of (64, 1, 1)" in str(fault(device, exact, [0], block=32))


def test_the_host_is_checked_as_well() -> None:
    memory = DeviceMemory(1 << 16)
    address = memory.alloc(10)
    with pytest.raises(DeviceFaultError, match="it ends 2 bytes after the allocation 1 of 10 bytes"):
        memory.copy_in(address, bytes(12))
