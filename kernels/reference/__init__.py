"""Plain Python: the slow, readable definition of what every device computes, and the device ``"python"``.

``semantics`` and the modules it gathers define each operation on single values; ``instrument`` rewrites a
user's function to use them; ``fused`` runs a chain of steps row by row. Nothing here is fast, and nothing
here knows the compilers: the tests hold every other device against it.
"""
