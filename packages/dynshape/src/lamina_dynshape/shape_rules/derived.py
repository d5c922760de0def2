"""Rules of `out=` and in-place overloads, derived from the functional overload's rule when they have none of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lamina_dynshape.layout import contiguous
from lamina_dynshape.shape_rules.pointwise import inplace
from lamina_dynshape.shape_rules.registry import RULES

__all__ = ["derive"]


def derive(op: Any) -> Callable[..., Any] | None:
    """A rule for an overload that writes to its arguments, entered into the table; None when there is no functional twin."""
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten" or not op._schema.is_mutable:
        return None
    rule = _out_rule(op) or _inplace_rule(op)
    if rule is not None:
        RULES[op] = rule
    return rule


def _twin(base: str, signature: list[tuple[str, str]]) -> Callable[..., Any] | None:
    """Rule of the functional overload with exactly these arguments."""
    packet = getattr(torch.ops.aten, base, None)
    for name in packet.overloads() if packet is not None else ():
        candidate = getattr(packet, name)
        if not candidate._schema.is_mutable and [(a.name, str(a.type)) for a in candidate._schema.arguments] == signature:
            return RULES.get(candidate)
    return None


def _out_rule(op: Any) -> Callable[..., Any] | None:
    arguments = op._schema.arguments
    outs = [a.name for a in arguments if a.is_out]
    if not outs:
        return None
    functional = _twin(op._schema.name.split("::")[1], [(a.name, str(a.type)) for a in arguments if not a.is_out])
    if functional is None:
        return None

    def rule(mode: Any, *args: Any, **kwargs: Any) -> Any:
        targets = [kwargs.pop(name) for name in outs]
        result = functional(mode, *args, **kwargs)
        results = result if isinstance(result, (tuple, list)) else (result,)
        if result is NotImplemented or len(results) != len(targets):
            return NotImplemented
        for target, r in zip(targets, results):
            if not torch.can_cast(r.scalar_type, target.scalar_type):
                raise RuntimeError(f"result type {r.scalar_type} can't be cast to the desired output type {target.scalar_type}")
            if target.sizes != r.sizes:
                # A resized output takes the layout of a fresh one.
                target.set_metadata(r.sizes, r.strides, target.offset)
        return targets[0] if len(targets) == 1 else tuple(targets)

    return rule


def _inplace_rule(op: Any) -> Callable[..., Any] | None:
    base = op._schema.name.split("::")[1]
    arguments = op._schema.arguments
    writes = [a for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    if not base.endswith("_") or len(writes) != 1 or writes[0] is not arguments[0] or torch.Tag.inplace_view in op.tags:
        return None
    functional = _twin(base[:-1], [(a.name, str(a.type)) for a in arguments])
    if functional is None:
        return None

    def rule(mode: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        result = functional(mode, target, *args, **kwargs)
        if result is NotImplemented:
            return result
        shape_only = mode.make(result.sizes, contiguous(result.sizes), result.scalar_type, result.dev)
        return inplace(mode, target, (target, shape_only), result.scalar_type)

    return rule
