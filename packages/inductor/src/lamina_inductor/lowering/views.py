"""Lowering of view and joining prims: index remapping, no copies; joins write each piece into its place or select by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lamina_dynshape.expr import Expr, floordiv

from ..ir.buffers import ONE, ZERO, StridedView, contiguous_strides
from ..ir.ops import ops
from . import values
from .registry import lowering
from .values import Value

__all__: list[str] = []

_lib = torch.ops.lamina
_MAX_SELECTED_PIECES = 3      # a join of more pieces writes each into its place instead of selecting per element


@lowering(_lib.expand.default)
def expand(g: Any, node: Any, x: Value, size: Any) -> Value:
    return values.expand(x, g.exprs(size))


@lowering(_lib.reshape.default)
def reshape(g: Any, node: Any, x: Value, size: Any) -> Value:
    return values.reshape(x, g.exprs(size))


@lowering(_lib.permute.default)
def permute(g: Any, node: Any, x: Value, dims: Sequence[int]) -> Value:
    return values.permute(x, dims)


@lowering(_lib.slice.default)
def slice_(g: Any, node: Any, x: Value, dim: int, start: Any, end: Any, step: Any) -> Value:
    start, end, step = g.expr(start), g.expr(end), g.expr(step)
    length = end - start if step is ONE else floordiv(end - start + step - 1, step)
    return values.slice_(x, dim, start, length, step)


@lowering(_lib.flip.default)
def flip(g: Any, node: Any, x: Value, dims: Sequence[int]) -> Value:
    return values.flip(x, dims)


@lowering(_lib.as_strided.default)
def as_strided(g: Any, node: Any, x: Value, size: Any, stride: Any, offset: Any) -> Value:
    """Strides count in the row-major order of `x`, whatever its layout: read from a contiguous form of it."""
    view = g.realize(x)
    if not view.is_contiguous():
        view = g.realize(x, contiguous_strides(x.size))
    size = g.exprs(size)
    return Value(x.dtype, size, view=StridedView(view.buffer, size, g.exprs(stride), view.offset + g.expr(offset)))


@lowering(_lib.restride.default)
def restride(g: Any, node: Any, x: Value, size: Any, stride: Any) -> Value:
    """Exactly these strides. Lazy values are computed there directly; what is in memory elsewhere is copied."""
    stride = g.exprs(stride)
    overlapping = any(t is ZERO and s is not ONE for s, t in zip(x.size, stride, strict=True))
    if overlapping:
        return NotImplemented
    fresh = Value(x.dtype, x.size, lambda idx: x.load(idx), cost=x.cost, loads=x.loads, origin=x.origin)
    leaves = isinstance(node.args[0], torch.fx.Node) and any(user.op == "output" for _, user in g._uses(node.args[0]))
    if not leaves and x.view is not None and x.view.buffer.kind not in ("input", "constant") and x.view.is_whole and x.view.stride == stride:
        return x  # nobody can tell it from a copy
    view = g.realize(fresh, stride)
    return Value(x.dtype, x.size, view=view)


def _between(i: Expr, low: Expr, high: Expr) -> Any:
    """low <= i < high, as a value; a bound that always holds is left out."""
    at = ops.index_expr(i, torch.int64)
    tests = []
    if low is not ZERO:
        tests.append(ops.ge(at, ops.index_expr(low, torch.int64)))
    tests.append(ops.lt(at, ops.index_expr(high, torch.int64)))
    return tests[0] if len(tests) == 1 else ops.logical_and(*tests)


@lowering(_lib.cat.default)
def cat(g: Any, node: Any, tensors: Sequence[Value], dim: int) -> Value:
    pieces = [t for t in tensors if t.size[dim] is not ZERO]
    dtype = tensors[0].dtype
    size = g.meta_size(node)
    if not pieces:
        return Value(dtype, size, lambda idx: ops.constant(0, dtype))
    if len(pieces) == 1:
        return pieces[0]
    starts = [ZERO]
    for p in pieces:
        starts.append(starts[-1] + p.size[dim])
    cheap = len(pieces) <= _MAX_SELECTED_PIECES and sum(p.cost for p in pieces) <= 8 and sum(p.loads for p in pieces) <= 4
    if cheap and not any(kind == "memory" for kind, _ in g._uses(node)):
        return Value(dtype, size, lambda idx: _select(pieces, starts, dim, idx), cost=2 * len(pieces) + sum(p.cost for p in pieces),
                     loads=sum(p.loads for p in pieces))
    buffer = g.new_buffer(dtype, size, g.dense_strides(node))
    whole = g.value(buffer)
    for p, start in zip(pieces, starts, strict=False):
        g.realize_into(values.slice_(whole, dim, start, p.size[dim], ONE).view, p)
    return whole


def _select(pieces: list[Value], starts: list[Expr], dim: int, idx: Sequence[Expr]) -> Any:
    """The element of whichever piece holds `idx`."""
    def piece(k: int) -> Any:
        return pieces[k].load([*idx[:dim], idx[dim] - starts[k], *idx[dim + 1:]])

    at = ops.index_expr(idx[dim], torch.int64)
    result = None
    for k in reversed(range(len(pieces))):
        low, high = starts[k], starts[k + 1]
        if result is None:
            inside = ops.ge(at, ops.index_expr(low, torch.int64))
        elif k == 0:
            inside = ops.lt(at, ops.index_expr(high, torch.int64))
        else:
            inside = _between(idx[dim], low, high)
        value = ops.masked(inside, lambda k=k: piece(k), 0)
        if result is None:
            result = value
        else:
            result = ops.where(ops.lt(at, ops.index_expr(high, torch.int64)), value, result)
    return result


@lowering(_lib.pad.default)
def pad(g: Any, node: Any, x: Value, low: Any, high: Any, value: Any) -> Value:
    low, high = g.exprs(low), g.exprs(high)
    size = g.meta_size(node)
    touched = [d for d in range(len(size)) if low[d] is not ZERO or high[d] is not ZERO]
    if not touched:
        return x

    def fn(idx: Sequence[Expr]) -> Any:
        inside = None
        for d in touched:
            test = _between(idx[d], low[d], low[d] + x.size[d])
            inside = test if inside is None else ops.logical_and(inside, test)
        return ops.masked(inside, lambda: x.load([i - a for i, a in zip(idx, low, strict=True)]), value)

    return Value(x.dtype, size, fn, cost=x.cost + 2 * len(touched), loads=x.loads)


@lowering(_lib.slice_scatter.default)
def slice_scatter(g: Any, node: Any, x: Value, src: Value, dim: int, start: Any, end: Any, step: Any) -> Value:
    start, end, step = g.expr(start), g.expr(end), g.expr(step)

    def fn(idx: Sequence[Expr]) -> Any:
        i = idx[dim]
        inside = _between(i, start, end)
        if step is not ONE:
            on = ops.eq(ops.index_expr((i - start) % step, torch.int64), ops.constant(0, torch.int64))
            inside = ops.logical_and(inside, on)
        there = floordiv(i - start, step) if step is not ONE else i - start
        value = ops.masked(inside, lambda: src.load([*idx[:dim], there, *idx[dim + 1:]]), 0)
        return ops.where(inside, value, x.load(idx))

    return Value(x.dtype, x.size, fn, cost=x.cost + src.cost + 4, loads=x.loads + src.loads)
