"""NVIDIA GPUs as targets of the code generator, by compute capability."""

from __future__ import annotations

from dataflare.kernels.errors import DeviceUnavailableError
from dataflare.kernels.llvm.target import Target

__all__ = ["ARGUMENT_BYTES", "COMPUTE_CAPABILITIES", "ComputeCapability", "cuda_target"]

ComputeCapability = tuple[int, int]

_PTX_VERSIONS: dict[ComputeCapability, int] = {
    (7, 5): 81,
    (8, 0): 81,
    (8, 6): 81,
    (8, 7): 81,
    (8, 9): 81,
    (9, 0): 81,
    (10, 0): 86,
    (12, 0): 87,
}
"""The version of PTX for each architecture: the first that knows it, but not before that of CUDA 12.1, whose kernels
take up to `ARGUMENT_BYTES`."""

ARGUMENT_BYTES = 32_764
"""The largest argument block of a kernel."""

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
        divides_integers=True,
        remainder="fmod",
        inlines_math=True,
    )
