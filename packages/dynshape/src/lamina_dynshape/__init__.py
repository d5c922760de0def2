"""Symbolic integers, shape environment and fake tensors."""

__version__ = "0.1.0"

from lamina_dynshape import expr as expr
from lamina_dynshape import shape_rules as _shape_rules  # noqa: F401  (fills the table)
from lamina_dynshape.fake_mode import FakeMode
from lamina_dynshape.fake_tensor import DataDependent, FakeTensor, fake_mode_of, is_wrapper_class
from lamina_dynshape.marks import mark_dynamic, mark_static, mark_unbacked, maybe_mark_dynamic
from lamina_dynshape.shape_env import DimPolicy, ShapeEnv, ShapeGuard
from lamina_dynshape.sym_node import env_of, estimate_of, expr_of, hint_of, sym_int

__all__ = [
    "DataDependent", "DimPolicy", "FakeMode", "FakeTensor", "ShapeEnv", "ShapeGuard", "env_of", "estimate_of", "expr", "expr_of", "fake_mode_of", "hint_of", "is_wrapper_class",
    "mark_dynamic", "mark_static", "mark_unbacked", "maybe_mark_dynamic", "sym_int",
]
