"""Reference interpreter of loop graphs: every node over its whole index grid with plain tensor operations. Slow, and the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lamina_dynshape.boolean import BoolExpr
from lamina_dynshape.expr import Expr
from lamina_dynshape.float_expr import FloatExpr
from lamina_dynshape.support.errors import Unsupported

from .body import replay
from .buffers import Buffer, StridedView
from .extern import ExternKernel
from .nodes import LoopGraph, LoopNode, Reduce, Scan, Scatter, Store, real_bits, real_of_bits
from .ops import use_handler

__all__ = ["interpret_loops"]

_SCALAR_OPS: dict[str, Any] = {
    "isnan": torch.isnan, "isinf": torch.isinf, "isfinite": torch.isfinite, "floordiv": torch.floor_divide, "fmax": torch.fmax, "fmin": torch.fmin,
    "truncdiv": lambda a, b: torch.div(a, b, rounding_mode="trunc"), "fma": lambda a, b, c: a * b + c,
    "shift_left": torch.bitwise_left_shift, "shift_right": torch.bitwise_right_shift,
}

_SCANS: dict[str, Any] = {
    "sum": lambda x, d: torch.cumsum(x, d, dtype=x.dtype), "prod": lambda x, d: torch.cumprod(x, d, dtype=x.dtype), "logsumexp": torch.logcumsumexp,
    "max": lambda x, d: torch.cummax(x, d).values, "min": lambda x, d: torch.cummin(x, d).values,
    "argmax": lambda x, d: torch.cummax(x, d).indices, "argmin": lambda x, d: torch.cummin(x, d).indices,
}


class _Index:
    """Evaluates index expressions to int64 tensors over the grid."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self.values = values

    def __call__(self, e: Expr) -> torch.Tensor:
        return torch.as_tensor(e.visit(self), dtype=torch.int64)

    def visit_integer(self, value: int) -> Any:
        return value

    def visit_symbol(self, symbol: Any) -> Any:
        return self.values[symbol]

    def visit_sum(self, terms: Any, const: int) -> Any:
        return sum((e.visit(self) * c for e, c in terms), const)

    def visit_product(self, factors: Any) -> Any:
        return math.prod(f.visit(self) for f in factors)

    def visit_floordiv(self, num: Expr, den: Expr) -> Any:
        return num.visit(self) // den.visit(self)

    def visit_mod(self, num: Expr, den: Expr) -> Any:
        return num.visit(self) % den.visit(self)

    def visit_min(self, args: Any) -> Any:
        out = torch.as_tensor(args[0].visit(self))
        for a in args[1:]:
            out = torch.minimum(out, torch.as_tensor(a.visit(self)))
        return out

    def visit_max(self, args: Any) -> Any:
        return -self.visit_min([-a for a in args])


class _Evaluator:
    """Handler whose values are tensors that broadcast against the node's grid."""

    def __init__(self, storage: dict[Buffer, torch.Tensor], index: _Index) -> None:
        self.storage, self.index = storage, index

    def op(self, name: str, *a: torch.Tensor) -> torch.Tensor:
        dtype = a[0].dtype
        fn = _SCALAR_OPS.get(name) or getattr(torch, name, None) or getattr(torch.special, name)
        out = fn(*torch.broadcast_tensors(*a))
        return out if out.dtype in (torch.bool, dtype) else out.to(dtype)

    def where(self, cond: Any, a: Any, b: Any) -> Any:
        return torch.where(cond, a, b)

    def constant(self, value: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(value, dtype=dtype)

    def index_expr(self, e: Expr, dtype: torch.dtype) -> torch.Tensor:
        return self.index(e).to(dtype)

    def convert(self, a: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return a.to(dtype)

    def bitcast(self, a: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return a.contiguous().view(dtype)

    def load_masked(self, buffer: Buffer, index: Expr, mask: Any) -> torch.Tensor:
        at = self.index(index)
        if mask is not None:
            at = torch.where(mask, at, 0)
        flat = self.storage[buffer]
        if flat.numel() == 0:
            return torch.zeros(at.shape, dtype=buffer.dtype)
        if bool((at < 0).any()) or bool((at >= flat.numel()).any()):
            raise IndexError(f"{buffer.name}[{index}] leaves the buffer")
        return flat[at]

    def indirect_masked(self, a: torch.Tensor, size: Expr, mask: Any) -> Expr:
        from lamina_dynshape.expr import symbol
        n = self.index(size)
        at = torch.where(a < 0, a + n, a)
        bad = (at < 0) | (at >= n)
        if mask is not None:
            bad = bad & mask
            at = torch.where(mask, at, 0)
        if bool(bad.any()):
            raise IndexError("index out of range in self")
        s = symbol(f"at{len(self.index.values)}")
        self.index.values[s] = at
        return s


def interpret_loops(graph: LoopGraph, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Outputs of the graph on real inputs (flat, as the native entry takes them)."""
    sizes: dict[Any, int] = {}
    storage: dict[Buffer, torch.Tensor] = {}
    given = [*zip(graph.inputs, inputs, strict=True), *graph.constants]
    for x, value in given:
        if isinstance(x, Buffer):
            extent = 1 + sum((s - 1) * t for s, t in zip(value.shape, value.stride(), strict=True)) if value.numel() else 0
            storage[x] = value.detach().as_strided((extent,), (1,)).clone()
        elif isinstance(x, Expr) and not x.is_const:
            sizes[x] = real_bits(value) if x in graph.reals else value
    numbers = {s: real_of_bits(n) if s in graph.reals else n for s, n in sizes.items()}
    sizes |= {bits: real_bits(e.evaluate(numbers)) for e, bits in graph.computed.items()}
    for n in graph.nodes:
        for b in (n.outputs if isinstance(n, ExternKernel) else n.effect.buffers):
            if b not in storage:
                storage[b] = torch.zeros(b.extent().evaluate(sizes), dtype=b.dtype)
        if isinstance(n, ExternKernel):
            _extern(n, storage, sizes)
        else:
            _node(n, storage, sizes)
    return tuple(_view(v, storage, sizes) if isinstance(v, StridedView) else v.evaluate(numbers) if isinstance(v, (Expr, FloatExpr, BoolExpr)) else v for v in graph.outputs)


def _view(v: StridedView, storage: dict[Buffer, torch.Tensor], sizes: dict) -> torch.Tensor:
    at = [tuple(e.evaluate(sizes) for e in es) for es in (v.size, v.stride)]
    return storage[v.buffer].as_strided(*at, v.offset.evaluate(sizes))


def _extern(n: ExternKernel, storage: dict[Buffer, torch.Tensor], sizes: dict) -> None:
    if "structure" not in n.attributes:
        raise Unsupported(f"no reference for {type(n).__name__}", saw=n.name)
    from ..runtime.fallbacks import make_callbacks
    run, _ = make_callbacks([n.attributes])[0]
    tensors = tuple(_view(v, storage, sizes) for v in n.inputs if v is not None)
    for b, t in zip(n.outputs, run(tensors, tuple(e.evaluate(sizes) for e in n.attributes["sizes"])), strict=True):
        _view(b.view(), storage, sizes).copy_(t)


def _node(n: LoopNode, storage: dict[Buffer, torch.Tensor], sizes: dict) -> None:
    shape = [s.evaluate(sizes) for _, s in n.all_vars]
    values: dict[Any, Any] = dict(sizes)
    for d, (v, _) in enumerate(n.all_vars):
        values[v] = torch.arange(shape[d]).reshape([-1 if k == d else 1 for k in range(len(shape))])
    index = _Index(values)
    roots = n.roots()
    with use_handler(_Evaluator(storage, index)):
        found = replay(roots, n.indirects, lambda e: e)
    e = n.effect
    names = {s: found[roots.index(n.indirects[s])] for s in e.index.free_symbols if s in n.indirects}
    value = found[-1].broadcast_to(shape)
    at = index(e.index.subs(names))
    outer = len(n.vars)
    if isinstance(e, Store):
        storage[e.buffer][at.broadcast_to(shape).reshape(-1)] = value.reshape(-1)
    elif isinstance(e, Scatter):
        _scatter(storage[e.buffer], e.mode, at.broadcast_to(shape).reshape(-1), value.reshape(-1))
    elif isinstance(e, Scan):
        out = _SCANS[e.kind](value, outer)
        storage[e.buffer][at.broadcast_to(shape).reshape(-1)] = out.reshape(-1)
    else:
        _reduce(e, value, shape, outer, at, index, storage)


def _reduce(e: Reduce, value: torch.Tensor, shape: list[int], outer: int, at: torch.Tensor, index: _Index, storage: dict[Buffer, torch.Tensor]) -> None:
    kept = shape[:outer]
    flat = value.reshape([*kept, -1])
    if e.kind in ("argmax", "argmin"):
        best = (flat.amax if e.kind == "argmax" else flat.amin)(-1, keepdim=True)
        assert e.position is not None
        position = index(e.position).broadcast_to(shape).reshape(flat.shape)
        hit = (flat == best) | (flat != flat)
        results = [torch.where(hit, position, torch.iinfo(torch.int64).max).amin(-1)]
    elif e.kind == "welford":
        wide = flat.double()
        mean = wide.mean(-1, keepdim=True)
        results = [(wide - mean).square().sum(-1).to(value.dtype), mean.squeeze(-1).to(value.dtype)]
    elif e.kind == "sum":
        wide = flat.double() if value.dtype.is_floating_point else flat
        results = [wide.sum(-1).to(value.dtype)]
    elif e.kind == "prod":
        results = [flat.prod(-1).to(value.dtype)]
    else:
        results = [getattr(flat, e.kind)(-1)]
    for b, r in zip(e.buffers, results, strict=True):
        index_of = at.reshape(at.shape[:outer] if at.ndim >= outer else at.shape) if at.ndim > outer else at
        storage[b][index_of.broadcast_to(kept).reshape(-1)] = r.reshape(-1).to(b.dtype)


def _scatter(flat: torch.Tensor, mode: str, at: torch.Tensor, value: torch.Tensor) -> None:
    if mode == "set":
        for i, v in zip(at.tolist(), value, strict=True):
            flat[i] = v
    elif mode == "add":
        flat.index_add_(0, at, value)
    else:
        flat.scatter_reduce_(0, at, value, {"mul": "prod"}.get(mode, mode), include_self=True)


