"""Sliding-window kernels of our own (depthwise convolution, max pooling): `window.cpp`, built once per machine."""

from .library import DECLARATION, DEFINITION, library, library_path

__all__ = ["DECLARATION", "DEFINITION", "library", "library_path"]
