"""Who runs a plan: a cluster of nodes, one workflow for each run, one task for each stage.

Covers the three actors (``cluster``, ``workflow``, ``task``), their messages, and the runtimes that carry them.
The actors import from the engine and the kernels; the engine knows a runtime only by its dotted name and imports
it when a run starts, so that ``import dataflare`` loads none of this.
"""
