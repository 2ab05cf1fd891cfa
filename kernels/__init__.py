"""Typed memory and compiled code: what turns a Python function of a record into machine code and runs it.

Covers host memory (``memory``), the reading of user functions (``udf``), the backends that compile and run them
(``cpu``, ``reference``) and the error tree (``errors``). It knows no pipeline, no file and no thread: the engine
sits on top and imports from here, never the other way round. Nothing is imported by this module itself.
"""
