"""Lowering: prims (FX) -> loop nodes and extern kernels."""
