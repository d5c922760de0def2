"""The three FX dialects as data: versions, roles, and which callables a node may have as its target.

torch: what capture makes (public functions, methods; mutation allowed). aten: functional `OpOverload` calls. prims: the closed set.
A change of meaning raises the number in `VERSION` and is in the changelog. The rules themselves are in `verify`.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from lamina_dynshape.real_functions import GRAPH_FUNCTIONS

__all__ = ["DIALECTS", "META_KEYS", "ROLES", "SYMBOLIC_FUNCTIONS", "TENSOR_GLUE", "VERSION", "is_symbolic_function"]

DIALECTS = ("torch", "aten", "prims")
VERSION = {"torch": 1, "aten": 1, "prims": 1}
ROLES = ("input", "parameter", "buffer", "size")

# Metadata keys and what they hold.
META_KEYS = {
    "val": "fake tensor, SymInt, number, or a tuple of those: on every node that yields a value",
    "stack": "tuple of Frame, innermost last: the user's lines",
    "source": "torch dialect, placeholders: how the frame reaches the value, as Python text",
    "role": "torch dialect, placeholders: input, parameter, buffer or size",
    "fallback": "prims dialect, ATen calls: why the call has no decomposition",
}

# Arithmetic on sizes, in every dialect.
SYMBOLIC_FUNCTIONS = frozenset(
    {
        operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.truediv, operator.pow, operator.abs,
        operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.and_, operator.or_, operator.not_,
        torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_sqrt, torch.sym_not, torch.sym_ite,
        math.floor, math.ceil, math.trunc, math.sqrt, *GRAPH_FUNCTIONS.values(),
    }
)  # fmt: skip
# Reads of sizes from a tensor, and of one result out of several.
TENSOR_GLUE = frozenset({operator.getitem, torch.ops.aten.sym_size.int, torch.ops.aten.sym_stride.int, torch.ops.aten.sym_numel.default,
                         torch.ops.aten.sym_storage_offset.default})  # fmt: skip


def is_symbolic_function(target: Any) -> bool:
    """Whether `target` is arithmetic on symbolic numbers."""
    try:
        return target in SYMBOLIC_FUNCTIONS
    except TypeError:
        return False
