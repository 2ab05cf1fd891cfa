"""From a Python function of a record to the typed program that every device compiles.

``source`` finds the function's syntax tree, ``capture`` reads what it closes over, ``ir`` is the typed dataflow
form, ``lower`` (with ``expressions``, ``invocations`` and ``loops``) translates one into the other, ``program``
fuses a chain of steps. No code is generated here.
"""
