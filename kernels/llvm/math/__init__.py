"""Mathematical functions as code for a group of lanes, the same to the bit on the CPU and on CUDA.

``lanes`` is the arithmetic that they are written in; the other modules hold the functions, each by name in its
``FUNCTIONS``, and ``fitted`` the coefficients of polynomials.
"""
