"""Benchmarks, one module a table: ``python -m benchmarks.workloads --help``; see ``benchmarks/README.md``.

Not part of the installed package: run it from the root of the repository, where DataFlare is importable.
"""
