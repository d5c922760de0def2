"""FX dialects, the ATen tracer, decompositions and the closed set of prims."""

__version__ = "0.1.0"
