"""Matrix products and attention of our own: `core.cpp` and `attention.cpp`, built once per machine and called from generated code by its C ABI."""

from .library import ATTENTION_DECLARATION, ATTENTION_DEFINITION, DECLARATION, DEFINITION, library, library_path

__all__ = ["ATTENTION_DECLARATION", "ATTENTION_DEFINITION", "DECLARATION", "DEFINITION", "library", "library_path"]
