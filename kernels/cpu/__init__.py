"""Record programs on the CPU: LLVM code with explicit vectors, its cache, and how it runs over columns.

``target`` says what the machine has, ``emit`` turns nodes into vector instructions, ``strings`` into loops over
bytes, ``store`` writes and compacts results, ``codegen`` puts a function together, ``jit`` and ``cache`` make it
runnable, ``fused`` runs it on columns.
"""
