"""a compiler for unmodified PyTorch programs."""

__version__ = "0.1.0"
