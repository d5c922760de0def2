"""Lowering of reductions and scans: always in memory, their operand inlined into the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..ir.buffers import ONE, ZERO, contiguous_strides, numel
from ..ir.ops import ops
from . import build, values
from .pointwise import pointwise
from .registry import lowering
from .values import Value

__all__: list[str] = []

_lib = torch.ops.lamina
_EMPTY = {"sum": 0, "prod": 1, "any": False, "all": True}


def reduce(g: Any, kind: str, x: Value, dims: Sequence[int], keepdim: bool, dtypes: Sequence[torch.dtype]) -> list[Value]:
    """Results of one reduction, each in its buffer."""
    dims = sorted(dims)
    kept = [d for d in range(len(x.size)) if d not in dims]
    size = tuple(x.size[d] for d in kept)
    shape = tuple(ONE if d in dims else s for d, s in enumerate(x.size)) if keepdim else size
    if x.loads > 4 * 8:
        g.realize(x)
    buffers = [g.new_buffer(dt, size, contiguous_strides(size)) for dt in dtypes]
    g.graph.nodes.append(build.make_reduction(g.graph, kind, [b.view() for b in buffers], x, dims, g.origin()))
    return [values.reshape(g.value(b), shape) for b in buffers]


def _register(kind: str) -> None:
    @lowering(getattr(_lib, kind).default)
    def rule(g: Any, node: Any, x: Value, dims: Any, keepdim: bool) -> Value:
        dims = [d % max(len(x.size), 1) for d in dims]
        if not x.size:
            return x
        if all(x.size[d] is ONE for d in dims):
            shape = x.size if keepdim else tuple(s for d, s in enumerate(x.size) if d not in dims)
            return values.reshape(x, shape)
        if any(x.size[d] is ZERO for d in dims) and kind not in _EMPTY:
            return NotImplemented  # eager's error
        return reduce(g, kind, x, dims, keepdim, [x.dtype])[0]


for _kind in ("sum", "prod", "amax", "amin", "any", "all"):
    _register(_kind)


def _register_arg(kind: str) -> None:
    @lowering(getattr(_lib, kind).default)
    def rule(g: Any, node: Any, x: Value, dim: int, keepdim: bool) -> Value:
        if not x.size or any(s is ZERO for s in x.size):
            return NotImplemented
        g.realize(x)  # read twice, for the extremum and for its place: computed again it might differ in the last bit and be found nowhere
        return reduce(g, kind, x, [dim % len(x.size)], keepdim, [torch.int64])[0]


for _kind in ("argmax", "argmin"):
    _register_arg(_kind)


@lowering(_lib.var_mean.default)
def var_mean(g: Any, node: Any, x: Value, dims: Any, correction: Any, keepdim: bool) -> Any:
    if not x.size or not isinstance(correction, (int, float)) or any(s is ZERO for s in x.size):
        return NotImplemented
    dims = [d % len(x.size) for d in dims]
    count = numel([x.size[d] for d in dims])
    squares, mean = reduce(g, "welford", x, dims, keepdim, [x.dtype, x.dtype])
    dtype = x.dtype

    def body(m2: Any) -> Any:
        if count.is_const:
            return ops.div(m2, ops.constant(max(0.0, count.const - correction), dtype))
        n = ops.sub(ops.index_expr(count, dtype), ops.constant(float(correction), dtype))
        return ops.div(m2, ops.maximum(n, ops.constant(0.0, dtype)))

    return pointwise(body, dtype, 1, squares), mean


def _register_scan(name: str, kind: str) -> None:
    @lowering(getattr(_lib, name).default)
    def rule(g: Any, node: Any, x: Value, dim: int) -> Value:
        if not x.size or any(s is ZERO for s in x.size):
            return x
        out = g.new_buffer(x.dtype, x.size)
        g.graph.nodes.append(build.make_scan(g.graph, kind, out.view(), x, dim, g.origin()))
        return g.value(out)


_register_scan("cumsum", "sum")
_register_scan("cumprod", "prod")
