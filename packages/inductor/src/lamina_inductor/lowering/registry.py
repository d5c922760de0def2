"""The table of lowering rules: overload -> function that makes loop IR or extern kernels.

A rule is called as `rule(g, node, *args, **kwargs)`: `g` is the `GraphLowering`, `node` the FX node; tensor arguments are `Value`s,
symbolic sizes are `Expr`, everything else is as in FX. It returns a `Value` (or a tuple of them), or `NotImplemented` to pass to the next
rule of the overload, in the end the fallback call. Extern rules use `g.realize(value)` -> StridedView, `g.new_buffer(dtype, size, stride)`,
`g.add_extern(kernel)` and `g.value(buffer)`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

__all__ = ["LAYOUT_PASSES", "RULES", "layout_pass", "lowering"]

RULES: dict[Any, list[Callable]] = defaultdict(list)
LAYOUT_PASSES: list[Callable] = []


def lowering(*overloads: Any, priority: int = 0) -> Callable:
    """Register a rule for overloads. Higher priority is asked first (extern kernels use 10)."""
    def register(fn: Callable) -> Callable:
        for overload in overloads:
            if any(r is fn for r in RULES[overload]):
                raise ValueError(f"second registration of {fn.__name__} for {overload}")
            fn_priority = priority
            RULES[overload].append(fn)
            fn.__dict__.setdefault("_priority", {})[overload] = fn_priority
            RULES[overload].sort(key=lambda f: -f._priority[overload])
        return fn
    return register


def layout_pass(fn: Callable) -> Callable:
    """Register a pass `fn(gm) -> None` over the prims graph that may set `node.meta["stride_order"]` (dims, outermost first) of intermediates."""
    LAYOUT_PASSES.append(fn)
    return fn
