"""LLVM's own passes over a module, before a device's code is made of it."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

__all__ = ["LLVM_LOCK", "binding", "optimised"]

LLVM_LOCK = threading.Lock()
"""Held by whoever uses LLVM, whose contexts are not thread-safe."""


@lru_cache(maxsize=1)
def binding() -> Any:
    """Return llvmlite's binding, ready to make code for every device."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm


def optimised(text: str, machine: Any) -> Any:
    """Parse and optimise a module for a target machine; the caller holds `LLVM_LOCK`."""
    llvm = binding()
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True  # for the loops over bytes; record loops are vectors already
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module
