"""Which GPUs can be used here, and where none can: why, and what to do about it.

`detection` goes through the chain, from the driver to CuPy; `driver` asks the driver's library; `surroundings` is
all that they look at. Nothing is looked for when these modules are imported. Does not allocate, launch, or make a
context on a GPU.
"""

from __future__ import annotations
