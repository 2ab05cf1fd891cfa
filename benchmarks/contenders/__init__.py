"""The contenders of W1-W4, one module an engine; each gives ``contenders(workload, columns)``.

Rules for all: the input lies in memory in the form that the engine likes best (loading is not timed), nulls
are absent, the result is fresh memory that the user may keep, both cores are the engine's to use, and the
faster of the ways that its own documentation shows is taken. Where two ways are close, both run.
"""
