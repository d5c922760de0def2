"""Functions of real numbers as graphs call them: of plain numbers they are Python's, of symbolic ones they stay symbolic.

Between: calls of `math` on symbolic numbers -> `FloatExpr`s and graph nodes.
Keeps:   each is defined where Python's is (`is_defined`, a guard); elsewhere Python raises, and the caller asks it with the number itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from lamina_dynshape.float_expr import FUNCTIONS
from lamina_dynshape.sym_node import FloatNode, IntNode

__all__ = ["GRAPH_FUNCTIONS", "MATH_FUNCTIONS", "is_defined"]


def _function(name: str) -> Callable[..., Any]:
    compute = FUNCTIONS[name]

    def function(*xs: Any) -> Any:
        known = next((x.node for x in xs if isinstance(x, (torch.SymInt, torch.SymFloat)) and isinstance(x.node, (IntNode, FloatNode))), None)
        if known is None:
            return compute(*xs)
        first, *others = [x.node.sym_float() if isinstance(x, (torch.SymInt, torch.SymFloat)) else known.wrap_float(float(x)) for x in xs]
        return torch.SymFloat(first.function(name, *others))

    function.__name__ = function.__qualname__ = name
    return function


_OWN = {name: _function(name) for name, f in FUNCTIONS.items() if getattr(math, name, None) is f and name != "sqrt"}
globals().update(_OWN)  # graphs are printed and stored with the names of what they call
# What a graph calls for each function of real numbers.
GRAPH_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: FUNCTIONS[name] for name in ("add", "sub", "mul", "truediv", "mod", "floordiv", "pow", "neg")},
    "abs": operator.abs, "sqrt": torch.sym_sqrt, "min": torch.sym_min, "max": torch.sym_max, **_OWN,
}  # fmt: skip
MATH_FUNCTIONS: dict[Any, Callable[..., Any]] = {getattr(math, name): f for name, f in GRAPH_FUNCTIONS.items() if name == "sqrt" or name in _OWN} | {
    math.log: lambda x, *base: _OWN["log"](x) / _OWN["log"](*base) if base else _OWN["log"](x), math.fabs: abs, math.degrees: lambda x: x * (180.0 / math.pi), math.radians: lambda x: x * (math.pi / 180.0), math.pow: lambda x, y: torch.sym_float(x) ** torch.sym_float(y),
}  # fmt: skip
_LARGEST = 709.0  # exp overflows, and Python raises, a little above
_DEFINED: dict[Any, Callable[..., bool]] = {
    math.sqrt: lambda x: x >= 0,
    **dict.fromkeys((math.log, math.log2, math.log10), lambda *xs: all(x > 0 for x in xs)),
    **dict.fromkeys((math.exp, math.expm1, math.sinh, math.cosh), lambda x: -_LARGEST < x < _LARGEST),
    **dict.fromkeys((math.acos, math.asin), lambda x: -1 <= x <= 1),
    math.log1p: lambda x: x > -1, math.acosh: lambda x: x >= 1, math.atanh: lambda x: -1 < x < 1,
    math.fmod: lambda x, y: y != 0, math.pow: lambda x, y: x > 0,
}  # fmt: skip


def is_defined(fn: Any, *xs: Any) -> bool:
    """Whether Python's function of `math` has a value there; decides, and guards, by the numbers of this compilation."""
    return bool(_DEFINED[fn](*xs)) if fn in _DEFINED else True
