"""Symbolic integers, shape environment and fake tensors."""

__version__ = "0.1.0"

from lamina_dynshape import expr as expr
