"""What the partitioner knows about ATen calls: views, pointwise, reductions, and whether running one again is cheap.

Derived from PyTorch's operator tags, plus a table for what the tags do not say.
"""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import torch
from lamina_primops.fxtools import is_random
from torch import fx

from .views import is_view_op

__all__ = ["is_cheap", "is_pointwise", "is_reduction", "is_view"]

aten = torch.ops.aten


def _overloads(*packets: Any) -> set[Any]:
    return {getattr(p, name) for p in packets for name in p.overloads()}


# Pointwise or made in registers, though not tagged so.
_ALSO_POINTWISE = _overloads(
    aten._to_copy, aten.clone, aten.copy, aten.where, aten.masked_fill, aten.full, aten.full_like, aten.zeros, aten.zeros_like, aten.ones, aten.ones_like,
    aten.new_zeros, aten.new_ones, aten.new_full, aten.scalar_tensor, aten.arange, aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided,
    aten.new_empty_strided, aten.fill, aten.gelu_backward, aten.sigmoid_backward, aten.tanh_backward, aten.silu_backward, aten.threshold_backward,
    aten.triu, aten.tril, aten.lerp, aten.rsub,
)  # fmt: skip
# Tagged pointwise, but too dear for a second run.
_DEAR = _overloads(aten.lgamma, aten.digamma, aten.polygamma, aten.erfinv, aten.igamma, aten.igammac, aten.special_zeta)
_REDUCTIONS = _overloads(
    aten.sum, aten.mean, aten.amax, aten.amin, aten.max, aten.min, aten.any, aten.all, aten.prod, aten.var, aten.var_mean, aten.std, aten.argmax,
    aten.argmin, aten.logsumexp, aten.norm, aten.linalg_vector_norm, aten._softmax, aten._log_softmax, aten._softmax_backward_data,
    aten._log_softmax_backward_data, aten.native_layer_norm, aten.native_layer_norm_backward, aten.native_group_norm, aten.native_batch_norm,
    aten._native_batch_norm_legit, aten.native_batch_norm_backward, aten.native_group_norm_backward,
)  # fmt: skip
_HIDDEN_VIEWS = frozenset({aten._unsafe_view.default})


@cache
def _pointwise(target: Any) -> bool:
    if target in _ALSO_POINTWISE:
        return True
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags and not is_random(target)


def is_pointwise(node: fx.Node) -> bool:
    """Whether each result element is made of the operands' elements at its place: fuses with its neighbours."""
    return node.op == "call_function" and _pointwise(node.target)


def is_reduction(node: fx.Node) -> bool:
    """Whether a call reads its operand element by element and fuses with pointwise producers."""
    if node.op != "call_function":
        return False
    return (node.args[0].target if node.target is operator.getitem and isinstance(node.args[0], fx.Node) else node.target) in _REDUCTIONS


def is_view(node: fx.Node) -> bool:
    """Whether the call moves no data."""
    if node.op != "call_function":
        return False
    target = node.target
    if target is operator.getitem and isinstance(node.args[0], fx.Node):
        target = node.args[0].target
    return target in _HIDDEN_VIEWS or is_view_op(target)


def is_cheap(node: fx.Node) -> bool:
    """Whether a second run costs next to nothing beside the memory traffic it saves: views, pointwise calls, arithmetic on sizes."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is not operator.getitem or is_view(node)
    if node.target in _DEAR:
        return False
    return is_view(node) or is_pointwise(node) or not isinstance(node.meta["val"], (torch.Tensor, tuple, list))
