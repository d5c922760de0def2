"""Matrix products of our own: `core.cpp`, built once per machine and called from generated code by its C ABI."""

from .library import DECLARATION, DEFINITION, library_path

__all__ = ["DECLARATION", "DEFINITION", "library_path"]
