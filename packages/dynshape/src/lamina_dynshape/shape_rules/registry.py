"""The table of shape rules: one function per operator overload.

A rule is `rule(mode, *args, **kwargs) -> result`, called with the operator's own arguments (fakes, numbers, SymInts).
It may return NotImplemented to leave this call to the fallback. It reads `fake.sizes`, `fake.strides`, `fake.scalar_type`, `fake.dev`
(never the C++ properties) and makes results with `mode.make`. In-place rules return the argument they change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lamina_dynshape.support.errors import InternalError

__all__ = ["RULES", "overload", "overloads", "register", "rule"]

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}


def overload(name: str) -> Any:
    """`torch.ops.aten` overload of "add.Tensor" or "relu" (its default overload); None when this torch has none."""
    base, _, suffix = name.partition(".")
    namespace = torch.ops.aten
    if "::" in base:
        space, base = base.split("::")
        namespace = getattr(torch.ops, space)
    try:
        return getattr(getattr(namespace, base), suffix or "default")
    except AttributeError:
        return None


def overloads(base: str) -> list[Any]:
    """Every overload of an ATen operator."""
    packet = getattr(torch.ops.aten, base, None)
    return [] if packet is None else [getattr(packet, name) for name in packet.overloads()]


def register(op: Any, function: Rule) -> None:
    """Enter one rule; a second one for the same overload is an error."""
    if op in RULES:
        raise InternalError(f"second shape rule for {op}")
    RULES[op] = function


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule of these overloads ("view", "sum.dim_IntList")."""

    def enter(function: Rule) -> Rule:
        for op in filter(None, map(overload, names)):
            register(op, function)
        return function

    return enter


def each(names: Iterable[str], make: Callable[[Any], Rule]) -> None:
    """Enter `make(overload)` for each name."""
    for name in names:
        op = overload(name)
        if op is not None:
            register(op, make(op))
