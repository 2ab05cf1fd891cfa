"""What generated code has in common on every device: nodes of the dataflow form as LLVM instructions.

``emit`` turns nodes into instructions for a group of records, ``loops``, ``division`` and ``floor_division`` have what
their names say, ``strings`` are loops over bytes, ``layout`` says where a kernel finds its columns and ``target`` what
a device offers. ``kernels.cpu`` and ``kernels.cuda`` put these together to loops over a batch and to kernels.
"""
