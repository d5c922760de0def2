"""`Value`: a tensor during lowering, either a strided view of a buffer or a function of the index that is not computed yet.

Keeps:  `load(idx)` may be called any number of times, with any index expressions inside the sizes; it costs nothing until a node records it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lamina_dynshape.expr import Expr, floordiv, mod

from ..ir.buffers import ONE, ZERO, StridedView, contiguous_strides, numel
from ..ir.ops import ops

__all__ = ["Value", "flip", "permute", "reindex_reshape", "reshape", "slice_", "expand"]

Index = Sequence[Expr]


class Value:
    """dtype, size and either `view` (in memory) or `fn(index) -> scalar`. `cost` and `loads` describe what inlining it into a consumer repeats."""

    __slots__ = ("cost", "dtype", "fn", "loads", "origin", "size", "view", "order")

    def __init__(self, dtype: torch.dtype, size: Sequence[Expr], fn: Callable[[Index], Any] | None = None, *, view: StridedView | None = None,
                 cost: float = 0, loads: int = 0, origin: str = "", order: tuple[int, ...] | None = None) -> None:
        self.dtype, self.size, self.fn, self.view = dtype, tuple(size), fn, view
        self.cost, self.loads, self.origin, self.order = (0, 1, origin, order) if view is not None else (cost, loads, origin, order)

    def load(self, idx: Index) -> Any:
        """The scalar at `idx`, through the installed `ops`."""
        if self.view is not None:
            return ops.load(self.view.buffer, self.view.index(idx))
        memo = getattr(ops.handler, "memo", None)
        if memo is None:
            return self.fn(idx)  # type: ignore[misc]
        key = (self, tuple(idx))
        found = memo.get(key)
        if found is None:
            found = memo[key] = self.fn(idx)  # type: ignore[misc]
        return found

    def become(self, view: StridedView) -> None:
        """This value is now in memory."""
        self.view, self.fn, self.cost, self.loads = view, None, 0, 1

    def __repr__(self) -> str:
        where = f"in {self.view.buffer.name}" if self.view is not None else f"lazy, cost {self.cost}, loads {self.loads}"
        return f"Value({str(self.dtype)[6:]}[{', '.join(map(str, self.size))}], {where})"


def _remap(x: Value, size: Sequence[Expr], fn: Callable[[Index], Index], order: tuple[int, ...] | None = None) -> Value:
    return Value(x.dtype, size, lambda idx: x.load(fn(idx)), cost=x.cost, loads=x.loads, origin=x.origin, order=order)


def expand(x: Value, size: Sequence[Expr]) -> Value:
    """Broadcast dimensions of size 1."""
    grown = [a is ONE and b is not ONE for a, b in zip(x.size, size, strict=True)]
    if x.view is not None:
        stride = tuple(ZERO if g else t for g, t in zip(grown, x.view.stride, strict=True))
        return Value(x.dtype, size, view=StridedView(x.view.buffer, tuple(size), stride, x.view.offset))
    return _remap(x, size, lambda idx: [ZERO if g else i for g, i in zip(grown, idx, strict=True)])


def permute(x: Value, dims: Sequence[int]) -> Value:
    size = tuple(x.size[d] for d in dims)
    if x.view is not None:
        return Value(x.dtype, size, view=StridedView(x.view.buffer, size, tuple(x.view.stride[d] for d in dims), x.view.offset))
    back = [0] * len(dims)
    for k, d in enumerate(dims):
        back[d] = k
    return _remap(x, size, lambda idx: [idx[k] for k in back])


def slice_(x: Value, dim: int, start: Expr, length: Expr, step: Expr) -> Value:
    size = (*x.size[:dim], length, *x.size[dim + 1:])
    if x.view is not None:
        v = x.view
        stride = (*v.stride[:dim], v.stride[dim] * step, *v.stride[dim + 1:])
        return Value(x.dtype, size, view=StridedView(v.buffer, size, stride, v.offset + v.stride[dim] * start))
    return _remap(x, size, lambda idx: [*idx[:dim], idx[dim] * step + start, *idx[dim + 1:]])


def flip(x: Value, dims: Sequence[int]) -> Value:
    return _remap(x, x.size, lambda idx: [x.size[d] - 1 - i if d in dims else i for d, i in enumerate(idx)])


def reshape_groups(old: Sequence[Expr], new: Sequence[Expr]) -> list[tuple[list[int], list[int]]]:
    """Split both shapes into the smallest consecutive runs of dimensions with equal products: [(old dims, new dims), ...].

    Symbolic products are compared by identity, so a dynamic shape may give larger runs than a static one would."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a: list[int] = []
        b: list[int] = []
        pa = pb = ONE
        while True:
            if pa is pb and a and b:
                break
            behind = _behind(pa, pb)
            if (behind or not a) and i < len(old) and not (a and not behind):
                pa = pa * old[i]
                a.append(i)
                i += 1
            elif j < len(new):
                pb = pb * new[j]
                b.append(j)
                j += 1
            elif i < len(old):
                pa = pa * old[i]
                a.append(i)
                i += 1
            else:
                break
        groups.append((a, b))
    return groups


def _behind(pa: Expr, pb: Expr) -> bool:
    """Should the first product grow next?"""
    if pa.is_const and pb.is_const:
        return pa.const < pb.const
    at = {s: 64 for s in pa.free_symbols | pb.free_symbols}
    return pa.evaluate(at) < pb.evaluate(at)


def reindex_reshape(old: Sequence[Expr], new: Sequence[Expr]) -> Callable[[Index], Index]:
    """Function from an index of `new` to the index of `old` of the same row-major position."""
    groups = reshape_groups(old, new)

    def remap(idx: Index) -> Index:
        out: list[Expr] = [ZERO] * len(old)
        for a, b in groups:
            live = [d for d in a if old[d] is not ONE]
            flat = ZERO
            for d in b:
                flat = flat * new[d] + idx[d]
            for k, d in reversed(list(enumerate(live))):
                if k == 0:
                    out[d] = flat
                else:
                    out[d] = mod(flat, old[d])
                    flat = floordiv(flat, old[d])
        return out

    return remap


def view_strides(view: StridedView, new: Sequence[Expr]) -> tuple[Expr, ...] | None:
    """Strides of `view` under another shape, None if a copy is needed."""
    stride = [ZERO] * len(new)
    for a, b in reshape_groups(view.size, new):
        live = [d for d in a if view.size[d] is not ONE]
        # chunks of old dims that are contiguous among themselves
        position = len(live)
        targets = list(reversed(b))
        t = 0
        while position > 0:
            last = live[position - 1]
            step, total = view.stride[last], view.size[last]
            position -= 1
            while position > 0 and view.stride[live[position - 1]] is view.stride[live[position]] * view.size[live[position]]:
                position -= 1
                total = total * view.size[live[position]]
            got = ONE
            run = step
            while t < len(targets) and got is not total:
                d = targets[t]
                stride[d] = run
                run = run * new[d]
                got = got * new[d]
                t += 1
            if got is not total:
                return None
        while t < len(targets):
            if new[targets[t]] is not ONE:
                return None
            t += 1
    return tuple(stride)


def reshape(x: Value, size: Sequence[Expr]) -> Value:
    """Same elements in row-major order; a view when the strides allow, else lazy (a strided read, no copy yet)."""
    size = tuple(size)
    if size == x.size:
        return x
    if numel(x.size) is ZERO:
        if x.view is not None:
            return Value(x.dtype, size, view=StridedView(x.view.buffer, size, contiguous_strides(size), x.view.offset))
        return Value(x.dtype, size, lambda idx: ops.constant(0, x.dtype))
    if x.view is not None and (stride := view_strides(x.view, size)) is not None:
        return Value(x.dtype, size, view=StridedView(x.view.buffer, size, stride, x.view.offset))
    return _remap(x, size, reindex_reshape(x.size, size))
