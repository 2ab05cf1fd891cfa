"""Compiled code on the CPU: record programs over columns, and the decoder of Parquet pages.

``target`` says what the machine has, ``emit`` turns nodes into vector instructions, ``strings`` into loops over
bytes, ``loops`` and ``division`` have what their names say, ``reading`` reads columns, ``store`` writes and compacts
results, ``codegen`` puts a function together, ``jit``, ``cache`` and ``objects`` make it runnable, ``fused`` runs it
on columns.

``routine`` builds functions that are written by hand: ``snappy`` and the decoder of Parquet, of which ``parquet_chunk``
is what others call.
"""
