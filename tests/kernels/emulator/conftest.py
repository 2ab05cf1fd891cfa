"""What the tests of the emulator share: PTX from LLVM IR, and single instructions run over arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.emulator.launch import LaunchStatistics, launch
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.parser import parse

Array = NDArray[Any]

PTX_VERSIONS = {
    "sm_75": "+ptx63",
    "sm_80": "+ptx70",
    "sm_86": "+ptx71",
    "sm_89": "+ptx78",
    "sm_90": "+ptx80",
    "sm_100": "+ptx86",
    "sm_120": "+ptx87",
}
SREGS = "\n".join(
    f"declare i32 @llvm.nvvm.read.ptx.sreg.{name}.x()" for name in ("tid", "ctaid", "ntid", "laneid")
)


@lru_cache(maxsize=256)
def ptx_of(ir: str, cpu: str = "sm_80", opt: int = 2) -> str:
    """Compile LLVM IR to PTX."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "nvptx64-nvidia-cuda"\n{ir}')
    module.verify()
    machine = llvm.Target.from_triple("nvptx64-nvidia-cuda").create_target_machine(
        cpu=cpu, features=PTX_VERSIONS[cpu], opt=opt
    )
    return str(machine.emit_assembly(module))


@dataclass
class Device:
    """A device memory with arrays, and launches on it."""

    memory: DeviceMemory = field(default_factory=lambda: DeviceMemory(64 << 20, track_uninitialised=True))

    def put(self, values: Array, label: str = "") -> int:
        address = self.memory.alloc(values.nbytes, label=label)
        self.memory.copy_in(address, np.ascontiguousarray(values))
        return address

    def get(self, address: int, dtype: Any, count: int) -> Array:
        return self.memory.copy_out(address, count * np.dtype(dtype).itemsize).view(dtype)

    def run(
        self,
        text: str,
        arguments: Sequence[int],
        *,
        block: int | tuple[int, ...] = 32,
        grid: int | tuple[int, ...] = 1,
        entry: str = "k",
        checks: Checks | None = None,
        **options: Any,
    ) -> LaunchStatistics:
        return launch(
            parse(text),
            entry,
            grid=(grid,) if isinstance(grid, int) else grid,
            block=(block,) if isinstance(block, int) else block,
            arguments=arguments,
            memory=self.memory,
            checks=checks,
            **options,
        )


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture(scope="session")
def compile_ir() -> Callable[..., str]:
    return ptx_of


def instruction_text(instructions: str, sources: Sequence[str], result: str) -> str:
    """Return a kernel that runs instructions on %a0, %a1, ... of arrays and stores %r; types are those of registers."""
    kinds = dict.fromkeys([*sources, result])
    sizes = {
        kind: 1 if kind == "pred" else int("".join(c for c in kind if c.isdigit())) // 8 for kind in kinds
    }
    loads = []
    for index, kind in enumerate(sources):
        loads.append(f"ld.param.b64 %base, [k_param_{index}];")
        loads.append(f"mad.wide.u32 %at, %i, {sizes[kind]}, %base;")
        if kind == "pred":
            loads.append(f"ld.global.b8 %byte, [%at];\n setp.ne.b16 %a{index}, %byte, 0;")
        else:
            loads.append(f"ld.global.b{8 * sizes[kind]} %a{index}, [%at];")
    parameters = ", ".join(f".param .u64 k_param_{index}" for index in range(len(sources) + 1))
    declared = "\n".join(
        f".reg .{'b' + str(8 * sizes[k]) if k != 'pred' else k} %a{i};" for i, k in enumerate(sources)
    )
    store = (
        "selp.b16 %byte, 1, 0, %r;\n st.global.b8 [%at], %byte;"
        if result == "pred"
        else f"st.global.b{8 * sizes[result]} [%at], %r;"
    )
    width = "pred" if result == "pred" else f"b{8 * sizes[result]}"
    return f""".version 8.7
.target sm_100
.address_size 64
.visible .entry k({parameters})
{{
 .reg .b32 %i, %block, %threads;
 .reg .b64 %at, %base;
 .reg .b16 %byte;
 .reg .b32 %t<8>;
 .reg .pred %p<8>;
 {declared}
 .reg .{width} %r;
 mov.u32 %i, %tid.x;
 mov.u32 %block, %ctaid.x;
 mov.u32 %threads, %ntid.x;
 mad.lo.u32 %i, %block, %threads, %i;
 {chr(10).join(loads)}
 {instructions}
 ld.param.b64 %base, [k_param_{len(sources)}];
 mad.wide.u32 %at, %i, {sizes[result]}, %base;
 {store}
 ret;
}}
"""


def evaluate(instructions: str, operands: Sequence[tuple[str, Array]], result: str, dtype: Any) -> Array:
    """Run instructions on %a0, %a1, ..., one lane for each element; return %r of each."""
    device = Device(DeviceMemory(16 << 20))
    count = len(operands[0][1])
    text = instruction_text(instructions, [kind for kind, _ in operands], result)
    addresses = [device.put(np.ascontiguousarray(values)) for _, values in operands]
    out = device.memory.alloc(count * np.dtype(dtype).itemsize)
    for grid, block, start in ((count // 64, 64, 0), (1, count % 64, count - count % 64)):
        if grid and block:
            moved = [
                address + start * values.dtype.itemsize
                for address, (_, values) in zip(addresses, operands, strict=True)
            ]
            device.run(text, [*moved, out + start * np.dtype(dtype).itemsize], block=block, grid=grid)
    return device.get(out, dtype, count)


@pytest.fixture(scope="session")
def run_instruction() -> Callable[..., Array]:
    return evaluate


def kernel_text(body: str, parameters: str = "p", declarations: str = "", functions: str = "") -> str:
    """Return a kernel "k" written by hand: its 64-bit parameters are in %p0, %p1, ..., the thread's number in %i.

    %rd, %r, %rs, %f and %q are registers of 64, 32 and 16 bits, floats of 32 bits and predicates to use; %w is the
    number in the block, times 4 in %w4.
    """
    names = parameters.split()
    listed = ", ".join(f".param .u64 k_param_{index}" for index in range(len(names)))
    loads = "\n".join(f" ld.param.u64 %p{index}, [k_param_{index}];" for index in range(len(names)))
    return f""".version 8.0
.target sm_80
.address_size 64
{functions}
.visible .entry k({listed})
{{
 .reg .b64 %p<8>, %rd<16>;
 .reg .b32 %i, %w, %w4, %r<16>;
 .reg .b16 %rs<8>;
 .reg .f32 %f<8>;
 .reg .pred %q<8>;
 {declarations}
{loads}
 mov.u32 %w, %tid.x;
 mov.u32 %r0, %ctaid.x;
 mov.u32 %r1, %ntid.x;
 mad.lo.u32 %i, %r0, %r1, %w;
 shl.b32 %w4, %w, 2;
{body}
 ret;
}}
"""


@pytest.fixture(scope="session")
def kernel() -> Callable[..., str]:
    return kernel_text
