"""Extern kernels: library calls (GEMM, convolution, attention) and their lowering rules. Importing the package registers the rules."""

from . import attention, convolution, matmul, pooling  # noqa: F401  (register their rules)
from .prefetch import prefetch

__all__ = ["prefetch"]
