"""Compiled code on the CPU: record programs over columns, and the decoder of Parquet pages.

``target`` says what the machine has, ``reading`` reads columns, ``store`` writes and compacts results, ``text_groups``
compares eight strings at once, ``codegen`` puts a function together from these and from ``kernels.llvm``, ``jit``,
``cache`` and ``objects`` make it runnable, ``fused`` runs it on columns.

``routine`` builds functions that are written by hand: ``snappy`` and the decoder of Parquet, of which ``parquet_chunk``
is what others call.
"""
