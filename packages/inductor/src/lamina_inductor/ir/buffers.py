"""Buffers and strided views: what loop nodes and extern kernels read and write.

Keeps:  sizes, strides and offsets are tuples of `Expr`, strides in elements; a `Buffer` owns its storage (one storage per buffer),
        a `StridedView` is a window on one and never copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from lamina_dynshape.expr import Expr, integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Buffer", "StridedView", "as_expr", "as_exprs", "contiguous_strides", "dense_strides", "numel", "storage_extent", "stride_order"]

ZERO, ONE = integer(0), integer(1)


def as_expr(x: int | Expr) -> Expr:
    """`x` as an expression."""
    return x if isinstance(x, Expr) else integer(int(x))


def as_exprs(xs: Iterable[int | Expr]) -> tuple[Expr, ...]:
    return tuple(as_expr(x) for x in xs)


def numel(size: Sequence[Expr]) -> Expr:
    """Number of elements of a shape."""
    total = ONE
    for s in size:
        total = total * s
    return total


def contiguous_strides(size: Sequence[Expr]) -> tuple[Expr, ...]:
    """Row-major strides, in elements."""
    return dense_strides(size, tuple(range(len(size))))


def dense_strides(size: Sequence[Expr], order: Sequence[int]) -> tuple[Expr, ...]:
    """Strides of a dense tensor whose dimensions from outermost to innermost are `order`."""
    strides, step = [ZERO] * len(size), ONE
    for d in reversed(order):
        strides[d] = step
        step = step * size[d] if size[d] is not ZERO else step
    return tuple(strides)


def stride_order(size: Sequence[Expr], stride: Sequence[Expr], hint: dict | None = None) -> tuple[int, ...]:
    """Dimensions from the largest stride to the smallest (ties and size-1 dimensions keep their place)."""
    def value(e: Expr) -> int:
        return e.const if e.is_const else e.evaluate(hint or {s: 64 for s in e.free_symbols})

    dims = [d for d in range(len(size)) if not (size[d].is_const and size[d].const == 1)]
    ordered = sorted(dims, key=lambda d: (-value(stride[d]), d))
    ones = [d for d in range(len(size)) if d not in dims]
    out = list(ordered)
    for d in ones:  # a size-1 dimension goes before the next larger dimension number
        position = next((k for k, o in enumerate(out) if o > d), len(out))
        out.insert(position, d)
    return tuple(out)


def storage_extent(size: Sequence[Expr], stride: Sequence[Expr], offset: Expr = ZERO) -> Expr:
    """Elements from the start of the storage to the last element, plus one; 0 for an empty tensor."""
    if any(s is ZERO for s in size):
        return ZERO
    extent = offset + 1
    for s, t in zip(size, stride, strict=True):
        extent = extent + (s - 1) * t
    return extent


@dataclass(eq=False)
class Buffer:
    """A named tensor with storage of its own. `kind`: input, constant, intermediate (planned in the arena) or output (allocated anew at each call)."""

    name: str
    dtype: torch.dtype
    size: tuple[Expr, ...]
    stride: tuple[Expr, ...]
    kind: str = "intermediate"
    offset: Expr = ZERO
    origin: str = ""  # the user's source line, for comments in the emitted code
    meta: dict = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def extent(self) -> Expr:
        """Elements of storage behind the data pointer."""
        return storage_extent(self.size, self.stride)

    def view(self) -> StridedView:
        return StridedView(self, self.size, self.stride, ZERO)

    def __repr__(self) -> str:
        return f"{self.name}: {str(self.dtype)[6:]}[{', '.join(map(str, self.size))}] stride ({', '.join(map(str, self.stride))}) {self.kind}"


@dataclass(frozen=True)
class StridedView:
    """Window on a buffer: element (i0, i1, ...) is at `offset + sum(i * stride)` from the buffer's data pointer."""

    buffer: Buffer
    size: tuple[Expr, ...]
    stride: tuple[Expr, ...]
    offset: Expr = ZERO

    @property
    def dtype(self) -> torch.dtype:
        return self.buffer.dtype

    @property
    def is_whole(self) -> bool:
        """Is this the buffer itself?"""
        return self.size == self.buffer.size and self.stride == self.buffer.stride and self.offset is ZERO

    def index(self, idx: Sequence[Expr]) -> Expr:
        e = self.offset
        for i, t in zip(idx, self.stride, strict=True):
            e = e + i * t
        return e

    def is_contiguous(self) -> bool:
        expected = contiguous_strides(self.size)
        return all(s is ONE or a is b for s, a, b in zip(self.size, self.stride, expected, strict=True))
