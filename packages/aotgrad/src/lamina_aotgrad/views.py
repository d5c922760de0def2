"""Views as data: how a tensor is reached from its base, read off a traced graph and replayed at run time.

Between: joint trace (finds the view calls between two nodes) -> runtime wrapper (replays them on the real base).
Keeps:   a replay gives eager's geometry, storage sharing and, with gradients on, eager's backward.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from lamina_dynshape import expr_of
from torch import Tensor, fx

__all__ = ["SymbolRef", "ViewSpec", "ViewStep", "contiguous_strides", "is_dense", "is_row_major", "is_view_op", "memory_root", "program_root", "replayer", "same_geometry", "view_chain", "view_parent"]

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class SymbolRef:
    """A symbolic argument of a view: the value of graph output `output`."""

    output: int


@dataclass(frozen=True, slots=True)
class ViewStep:
    """`op(tensor, *args, **kwargs)`, and of its results number `item` when there are several."""

    op: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    item: int | None = None


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """Steps from a base to a view; none is a plain alias."""

    steps: tuple[ViewStep, ...]


@cache
def is_view_op(op: Any) -> bool:
    """Whether results of an ATen overload share the storage of its first argument and nothing is written."""
    if not isinstance(op, torch._ops.OpOverload):
        return False
    schema = op._schema
    if not schema.arguments or not schema.returns:
        return False
    first = schema.arguments[0].alias_info
    return first is not None and not first.is_write and all(r.alias_info is not None for r in schema.returns)


# Same memory, though the schema does not say so.
_HIDDEN_VIEWS = frozenset({aten._unsafe_view.default})
# The tracer records views that only set a lazy bit as the op that does the work. Whose memory is known to be shared was made by the view.
_LAZY_VIEWS = {aten._conj_physical.default: aten._conj.default, aten.neg.default: aten._neg_view.default}
_NOT_OF_LAZY = frozenset({aten.view_as_real.default, aten.view.dtype})  # eager refuses them, or they show memory without the bit


def view_parent(node: fx.Node) -> tuple[fx.Node, fx.Node, int | None] | None:
    """(base, call, item) when `node` is a view call, or an item of one with several results; else None."""
    if node.op != "call_function":
        return None
    item: int | None = None
    call = node
    if node.target is operator.getitem:
        call, item = node.args[0], node.args[1]
        if call.op != "call_function":
            return None
    if not is_view_op(call.target):
        return None
    base = call.args[0] if call.args else next(iter(call.kwargs.values()))
    return (base, call, item) if isinstance(base, fx.Node) else None


def memory_root(node: fx.Node) -> fx.Node:
    """The node whose storage `node` has in the graph."""
    while True:
        if (parent := view_parent(node)) is not None:
            node = parent[0]
        elif node.op == "call_function" and node.target in _HIDDEN_VIEWS:
            node = node.args[0]
        else:
            return node


def program_root(nodes: Sequence[fx.Node]) -> fx.Node:
    """The node whose storage all of `nodes`, which share one in the traced program, have there."""
    roots = dict.fromkeys(map(memory_root, nodes))
    while len(roots) > 1 and (lazy := next((r for r in roots if r.target in _LAZY_VIEWS), None)) is not None:
        del roots[lazy]
        roots[memory_root(lazy.args[0])] = None
    return next(iter(roots))


def is_dense(val: Tensor) -> bool:
    """Whether elements fill their memory for certain without gaps or overlap, in some order of dimensions. Never guards."""
    left = [(expr_of(stride), size) for size, stride in zip(val.shape, val.stride(), strict=True) if not (type(size) is int and size == 1)]
    step: Any = 1
    while left:
        inner = next((i for i, (stride, _) in enumerate(left) if stride == expr_of(step)), None)
        if inner is None:
            return False
        step = step * left.pop(inner)[1]
    return True


def contiguous_strides(sizes: Sequence[Any]) -> tuple[Any, ...]:
    """Strides of a contiguous tensor, of numbers or symbols."""
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def is_row_major(sizes: Sequence[Any], strides: Sequence[Any]) -> bool:
    """Whether strides are for certain those of a contiguous tensor. Never guards: `Tensor.is_contiguous` would, on sizes that may be 1."""
    return [*map(expr_of, strides)] == [*map(expr_of, contiguous_strides(sizes))]


def same_geometry(a: Tensor, b: Tensor) -> bool:
    """Whether two fake tensors of one storage are the same view of it. May record guards on symbolic sizes only where ranks agree."""
    return (
        a.dtype == b.dtype and a.dim() == b.dim() and _equal(a.storage_offset(), b.storage_offset())
        and all(map(_equal, a.shape, b.shape)) and all(map(_equal, a.stride(), b.stride()))
    )


def _equal(a: Any, b: Any) -> bool:
    """Equal for certain: plain ints by value, symbolic ones only when they are statically the same."""
    if type(a) is int and type(b) is int:
        return a == b
    if type(a) is int or type(b) is int:
        return False
    return a is b or a.node is b.node or str(a) == str(b)


def view_chain(node: fx.Node, base: fx.Node, symbol: Callable[[fx.Node], SymbolRef]) -> ViewSpec | None:
    """The views that lead from `base` to `node`, which share memory in the program, or None. `symbol` names the run-time value of a symbolic argument."""
    steps: list[ViewStep] = []
    while node is not base:
        if node.target in _LAZY_VIEWS:
            if any(s.op in _NOT_OF_LAZY for s in steps):
                return None
            steps.append(ViewStep(_LAZY_VIEWS[node.target], ()))
            node = node.args[0]
            continue
        parent = view_parent(node)
        if parent is None:
            return None
        node, call, item = parent
        args = fx.node.map_arg(tuple(call.args[1:]), symbol)
        kwargs = tuple((k, fx.node.map_arg(v, symbol)) for k, v in call.kwargs.items() if v is not node)
        steps.append(ViewStep(call.target, args, kwargs, item))
    steps.reverse()
    return ViewSpec(tuple(s for s in steps if s.op is not aten.alias.default or len(steps) == 1))


def _has_symbol(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_symbol, value))
    return isinstance(value, SymbolRef)


def _fill(value: Any, outputs: Sequence[Any]) -> Any:
    if isinstance(value, SymbolRef):
        return outputs[value.output]
    if isinstance(value, (list, tuple)):
        return [_fill(v, outputs) for v in value]
    return value


def _fast(op: Any) -> Callable[..., Any]:
    """The callable under an `OpOverload`: one Python frame less."""
    return getattr(op, "_op", op)


def as_strided_within(base: Tensor, size: Sequence[int], stride: Sequence[int], delta: int) -> Tensor:
    """A view by geometry, its offset counted from where `base` starts: bases of later calls may start elsewhere in their storage."""
    return base.as_strided(size, stride, base.storage_offset() + delta)


def replayer(spec: ViewSpec) -> Callable[[Tensor, Sequence[Any]], Tensor]:
    """A function `(base, graph outputs) -> view`; graph outputs give the symbolic arguments."""
    calls = []
    for step in spec.steps:
        kwargs = dict(step.kwargs)
        if _has_symbol(step.args) or _has_symbol(tuple(kwargs.values())):
            call = lambda t, o, s=step, k=kwargs: s.op(t, *_fill(s.args, o), **{n: _fill(v, o) for n, v in k.items()})
        elif kwargs or len(step.args) != 1:
            call = lambda t, o, f=_fast(step.op), a=step.args, k=kwargs: f(t, *a, **k)
        else:
            call = lambda t, o, f=_fast(step.op), a=step.args[0]: f(t, a)
        if step.item is not None:
            call = lambda t, o, c=call, i=step.item: c(t, o)[i]
        calls.append(call)
    if len(calls) == 1:
        return calls[0]

    def replay(tensor: Tensor, outputs: Sequence[Any]) -> Tensor:
        for call in calls:
            tensor = call(tensor, outputs)
        return tensor

    return replay
