"""The optimiser: small passes that turn a logical plan into a physical one.

`linear` unrolls the nodes, `limits` moves limits, `fusion` joins record stages into programs and finds which
columns each needs, `pushdown` tells the source. `plan.optimize` runs them in order. No pass reads data.
"""
