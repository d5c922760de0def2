"""functionalized joint forward and backward graphs and their partition."""

__version__ = "0.1.0"
