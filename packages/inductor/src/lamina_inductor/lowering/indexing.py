"""Lowering of gathers (lazy: a load at an index that is itself loaded) and scatters (a copy, then a scatter node over it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lamina_dynshape.expr import Expr

from ..ir.buffers import ZERO, StridedView
from ..ir.ops import ops
from . import build
from .registry import lowering
from .values import Value

__all__: list[str] = []

_lib = torch.ops.lamina
_GATHER_COST = 4


def _is_empty(x: Value) -> bool:
    """Nothing to read at all: the operator itself raises eager's error, or returns something empty."""
    return any(s is ZERO for s in x.size)


def _position(index: Value, idx: Sequence[Expr], size: Expr, *, wrap: bool) -> Expr:
    """Index expression for the loaded position. Without `wrap` negative positions are out of range, as in eager."""
    i = ops.convert(index.load(idx), torch.int64)
    if not wrap:
        bad = ops.lt(i, ops.constant(0, torch.int64))
        i = ops.where(bad, ops.index_expr(size, torch.int64), i)
    return ops.indirect(i, size)


@lowering(_lib.index_select.default)
def index_select(g: Any, node: Any, x: Value, dim: int, index: Value) -> Value:
    if not x.size or _is_empty(x):
        return NotImplemented
    size = (*x.size[:dim], index.size[0], *x.size[dim + 1:])

    def fn(idx: Sequence[Expr]) -> Any:
        at = _position(index, [idx[dim]], x.size[dim], wrap=False)
        return x.load([*idx[:dim], at, *idx[dim + 1:]])

    return Value(x.dtype, size, fn, cost=_GATHER_COST + x.cost + index.cost, loads=x.loads + index.loads)


@lowering(_lib.gather.default)
def gather(g: Any, node: Any, x: Value, dim: int, index: Value) -> Value:
    if not x.size or _is_empty(x):
        return NotImplemented

    def fn(idx: Sequence[Expr]) -> Any:
        at = _position(index, idx, x.size[dim], wrap=False)
        return x.load([*idx[:dim], at, *idx[dim + 1:]])

    return Value(x.dtype, index.size, fn, cost=_GATHER_COST + x.cost + index.cost, loads=x.loads + index.loads)


def _place(x_size: Sequence[Expr], indices: Sequence[Value | None]) -> tuple[int, int, Any]:
    """(first dimension of the common index shape in the result, its rank, function idx of result -> idx of x) by NumPy's rule."""
    used = [d for d, i in enumerate(indices) if i is not None]
    first = indices[used[0]]
    assert first is not None
    rank = len(first.size)
    adjacent = used[-1] - used[0] + 1 == len(used)
    start = used[0] if adjacent else 0
    rest = [d for d in range(len(x_size)) if d not in used]

    def where(idx: Sequence[Expr]) -> list[Expr]:
        common = idx[start:start + rank]
        others = [*idx[:start], *idx[start + rank:]]
        out: list[Expr] = [ZERO] * len(x_size)
        for d, i in zip(rest, others, strict=True):
            out[d] = i
        for d in used:
            out[d] = _position(indices[d], common, x_size[d], wrap=True)  # type: ignore[arg-type]
        return out

    return start, rank, where


@lowering(_lib.index.default)
def index(g: Any, node: Any, x: Value, indices: Sequence[Value | None]) -> Value:
    if _is_empty(x) or any(i is not None and i.dtype not in (torch.int64, torch.int32) for i in indices):
        return NotImplemented
    _, _, where = _place(x.size, indices)
    tensors = [i for i in indices if i is not None]
    return Value(x.dtype, g.meta_size(node), lambda idx: x.load(where(idx)), cost=_GATHER_COST + x.cost + sum(i.cost for i in tensors),
                 loads=x.loads + sum(i.loads for i in tensors))


def _fresh_copy(g: Any, x: Value) -> StridedView:
    """A buffer of its own that starts as `x`."""
    buffer = g.new_buffer(x.dtype, x.size)
    g.realize_into(buffer.view(), x)
    return buffer.view()


@lowering(_lib.index_put.default)
def index_put(g: Any, node: Any, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool) -> Value:
    if any(i is not None and i.dtype not in (torch.int64, torch.int32) for i in indices) or accumulate and x.dtype in (torch.bool, torch.bfloat16, torch.float16):
        return NotImplemented
    target = _fresh_copy(g, x)
    _, _, where = _place(x.size, indices)
    g.graph.nodes.append(build.make_scatter(g.graph, "add" if accumulate else "set", target, values.size, where, values, g.origin()))
    return g.value(target.buffer)


@lowering(_lib.scatter.default)
def scatter(g: Any, node: Any, x: Value, dim: int, index: Value, src: Value, reduce: str) -> Value:
    if not x.size or (reduce != "set" and x.dtype in (torch.bool, torch.bfloat16, torch.float16)):
        return NotImplemented
    target = _fresh_copy(g, x)

    def where(idx: Sequence[Expr]) -> list[Expr]:
        return [*idx[:dim], _position(index, idx, x.size[dim], wrap=False), *idx[dim + 1:]]

    g.graph.nodes.append(build.make_scatter(g.graph, reduce, target, index.size, where, src, g.origin()))
    return g.value(target.buffer)
