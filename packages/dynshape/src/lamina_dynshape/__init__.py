"""Symbolic integers, shape environment and fake tensors."""

__version__ = "0.1.0"

from lamina_dynshape import expr as expr
from lamina_dynshape import shape_rules as _shape_rules  # noqa: F401  (fills the table)
from lamina_dynshape.fake_mode import FakeMode
from lamina_dynshape.fake_tensor import DataDependent, FakeTensor, fake_mode_of

__all__ = ["DataDependent", "FakeMode", "FakeTensor", "expr", "fake_mode_of"]
