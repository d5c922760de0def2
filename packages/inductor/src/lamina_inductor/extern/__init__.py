"""Extern kernels: library calls (GEMM, convolution, attention) and their lowering rules. Importing the package registers the rules."""

from . import matmul  # noqa: F401  (registers its rules)
