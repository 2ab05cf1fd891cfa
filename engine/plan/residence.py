"""Where batches lie between the steps of a plan: which of them stay on a device.

Covers the rule alone, for the tasks that follow it and for `explain`. A batch stays where the step after it takes it
there; at both ends of a task it lies in host memory, unless the source has it on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.plan.formats import describe_format
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep, PhysicalStep

__all__ = ["describe_moves", "staying", "takes_on_device"]


def takes_on_device(step: PhysicalStep, device: str) -> bool:
    """Return whether a step of a run on ``device`` works on batches that lie there.

    What CuPy and torch get on the emulated GPU lies in host memory, since they know no other: NumPy's arrays in the
    place of CuPy's, and tensors of the CPU.
    """
    if not device.startswith("cuda"):
        return False
    if isinstance(step, MapBatchesStep):
        has_arrays = device != "cuda:emulated"
        return step.batch_format == "device" or (step.batch_format in ("cupy", "torch") and has_arrays)
    return isinstance(step, ComputeStep)


def staying(steps: Sequence[PhysicalStep], device: str) -> tuple[bool, ...]:
    """Return for each step that one task runs whether its result stays on the device, for the step after it."""
    taken = [takes_on_device(step, device) for step in steps]
    return tuple(here and after for here, after in zip(taken, [*taken[1:], False], strict=False))


def describe_moves(steps: Sequence[PhysicalStep], device: str, source_device: str) -> tuple[str, ...]:
    """Return for each step of a plan where its batches are and go, in words; nothing where they are in host memory."""
    texts: list[str] = []
    place = source_device
    for step, stays in zip(steps, staying(steps, device), strict=True):
        if isinstance(step, LimitStep):
            place = source_device if not texts else "cpu"  # the first is counted where it is read
            texts.append("")
        elif not takes_on_device(step, device):
            texts.append(_moves_to_host(step, device, place))
            place = "cpu"
        else:
            there = place == device or (device == "cuda" and place.startswith("cuda:"))
            comes = f"stay on {place}" if there else f"copied to {device}"
            goes = f"stay on {place if there else device}" if stays else "copied to the host"
            texts.append(comes if comes == goes else f"{comes}, results {goes}")
            place = device if stays else "cpu"
    return tuple(texts)


def _moves_to_host(step: PhysicalStep, device: str, place: str) -> str:
    if not isinstance(step, MapBatchesStep):
        return "" if place == "cpu" else f"copied from {place} to the host"
    if step.batch_format == "cupy" and not device.startswith("cuda"):
        return "copied to the first GPU, results copied to the host"
    if device == "cuda:emulated" and step.batch_format in ("cupy", "torch"):
        arrays = "NumPy arrays" if step.batch_format == "cupy" else "tensors of the CPU"
        return f"copied to the host: on {device} map_batches gets {arrays}"
    if device.startswith("cuda") or place != "cpu":
        return f"copied to the host: map_batches takes {describe_format(step.batch_format)}"
    return ""
