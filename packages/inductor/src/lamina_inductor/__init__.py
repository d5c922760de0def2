"""loop-level IR, fusion and C++ code generation."""

__version__ = "0.1.0"
