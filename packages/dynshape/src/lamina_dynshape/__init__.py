"""symbolic integers, shape environment and fake tensors."""

__version__ = "0.1.0"
