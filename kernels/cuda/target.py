"""NVIDIA GPUs as targets of the code generator, by compute capability."""

from __future__ import annotations

from dataflare.kernels.errors import DeviceUnavailableError
from dataflare.kernels.llvm.target import Target

__all__ = ["COMPUTE_CAPABILITIES", "ComputeCapability", "cuda_target"]

ComputeCapability = tuple[int, int]

_PTX_VERSIONS: dict[ComputeCapability, int] = {
    (7, 5): 63,
    (8, 0): 70,
    (8, 6): 71,
    (8, 7): 74,
    (8, 9): 78,
    (9, 0): 78,
    (10, 0): 86,
    (12, 0): 87,
}
"""The first version of PTX that knows each architecture: what the oldest driver for it can load."""

COMPUTE_CAPABILITIES = tuple(_PTX_VERSIONS)
"""The architectures that code is made for; a GPU in between runs the code of the one before it."""


def cuda_target(capability: ComputeCapability) -> Target:
    """Return the target for a GPU: the newest architecture in `COMPUTE_CAPABILITIES` that it can run.

    Raises
    ------
    DeviceUnavailableError
        If the GPU is older than all of them.
    """
    known = [c for c in COMPUTE_CAPABILITIES if c <= capability]
    if not known:
        oldest = ".".join(map(str, COMPUTE_CAPABILITIES[0]))
        raise DeviceUnavailableError(
            f"this GPU has compute capability {capability[0]}.{capability[1]}, and DataFlare needs {oldest} or later: "
            "use device='cpu'."
        )
    major, minor = known[-1]
    return Target(
        triple="nvptx64-nvidia-cuda",
        cpu=f"sm_{major}{minor}",
        features=f"+ptx{_PTX_VERSIONS[major, minor]}",
        register_bytes=16,
        has_permute=False,
        has_bit_extract=False,
        converts_int64=True,
        has_fma=True,
        remainder="fmod",
        inlines_math=True,
    )
