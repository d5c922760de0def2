"""Verifier of loop graphs. Each rule yields the complaint about the first node that breaks it; `verify_loops` raises `VerifyError` with that text.

Level 3 also proves that every affine index stays inside its buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lamina_dynshape.expr import Expr, bounds
from lamina_dynshape.support.errors import InternalError, VerifyError

from .body import Val, result_dtype
from .buffers import Buffer, StridedView
from .nodes import REDUCTIONS, SCANS, SCATTER_MODES, LoopGraph, LoopNode, Reduce, Scan, Scatter, Store, read, written
from .ops import OPS

__all__ = ["RULES", "verify_loops"]

Rule = Callable[[LoopGraph], Iterator[str]]
RULES: list[tuple[str, Rule]] = []


def rule(name: str) -> Callable[[Rule], Rule]:
    def register(fn: Rule) -> Rule:
        RULES.append((name, fn))
        return fn
    return register


def verify_loops(graph: LoopGraph, *, level: int = 1) -> None:
    """Raise `VerifyError` naming the rule, the node and the user's line."""
    for name, fn in RULES:
        for complaint in fn(graph):
            raise VerifyError(f"loop graph: {name}: {complaint}")
    if level >= 3:
        for complaint in _bounds(graph):
            raise VerifyError(f"loop graph: index in bounds: {complaint}")


def _loops(graph: LoopGraph) -> Iterator[LoopNode]:
    return (n for n in graph.nodes if isinstance(n, LoopNode))


def _at(n: Any) -> str:
    return f"{n.name}" + (f" ({n.origin})" if n.origin else "")


@rule("unique names")
def _unique(graph: LoopGraph) -> Iterator[str]:
    seen: set[str] = set()
    for x in [*graph.buffers, *graph.nodes]:
        if x.name in seen:
            yield f"{x.name} is defined twice"
        seen.add(x.name)


@rule("loop variables belong to one node")
def _variables(graph: LoopGraph) -> Iterator[str]:
    owner: dict[Expr, str] = {}
    for n in _loops(graph):
        for v, _ in n.all_vars:
            if v in owner:
                yield f"{_at(n)} uses {v}, a variable of {owner[v]}"
            owner[v] = n.name


@rule("indices use known variables")
def _free(graph: LoopGraph) -> Iterator[str]:
    sizes = {s for x in graph.inputs if isinstance(x, Expr) for s in x.free_symbols} | set(graph.computed.values())
    for n in _loops(graph):
        known = {v for v, _ in n.all_vars} | set(n.indirects) | sizes
        for e in [n.effect.index, *(a for v in n.values for a in v.args if isinstance(a, Expr)), *(s for _, s in n.all_vars)]:
            if extra := e.free_symbols - known:
                yield f"{_at(n)}: {e} uses {', '.join(sorted(map(str, extra)))}, which is not one of its loops or a size"


@rule("reduced variables do not index the result")
def _reduced(graph: LoopGraph) -> Iterator[str]:
    for n in _loops(graph):
        if isinstance(n.effect, Reduce) and n.effect.index.free_symbols & {v for v, _ in n.rvars}:
            yield f"{_at(n)} stores its result at {n.effect.index}"
        if isinstance(n.effect, (Store, Scatter)) and n.rvars:
            yield f"{_at(n)} has reduction loops but does not reduce"
        if isinstance(n.effect, Scan) and len(n.rvars) > 1:
            yield f"{_at(n)} scans along {len(n.rvars)} loops"


@rule("operand types")
def _types(graph: LoopGraph) -> Iterator[str]:
    for n in _loops(graph):
        for v in n.values:
            if complaint := _type_complaint(v):
                yield f"{_at(n)}: tmp{v.number}: {complaint}"


def _type_complaint(v: Val) -> str | None:
    info = OPS.get(v.op)
    if info is None:
        return f"unknown op {v.op!r}"
    if not info.special:
        try:
            want = result_dtype(v.op, [a for a in v.args if isinstance(a, Val)])
        except InternalError as error:
            return str(error)
        return None if want == v.dtype else f"{v.op} has dtype {v.dtype}, its operands make {want}"
    if v.op == "load" and v.dtype != v.args[0].dtype:
        return f"load of {v.args[0].name} has dtype {v.dtype}, the buffer {v.args[0].dtype}"
    if v.op == "where" and (v.args[0].dtype != torch.bool or v.args[1].dtype != v.args[2].dtype):
        return "where takes (bool, a, a)"
    return None


@rule("stored types")
def _stored(graph: LoopGraph) -> Iterator[str]:
    for n in _loops(graph):
        e = n.effect
        want = torch.int64 if isinstance(e, (Reduce, Scan)) and e.kind in ("argmax", "argmin") else e.value.dtype
        for b in e.buffers:
            if b.dtype != want:
                yield f"{_at(n)} stores {want} into {b.name}, which is {b.dtype}"


@rule("known kinds")
def _kinds(graph: LoopGraph) -> Iterator[str]:
    for n in _loops(graph):
        e = n.effect
        if isinstance(e, Reduce) and e.kind not in REDUCTIONS:
            yield f"{_at(n)}: no reduction {e.kind!r}"
        if isinstance(e, Reduce) and len(e.buffers) != (2 if e.kind == "welford" else 1):
            yield f"{_at(n)}: {e.kind} with {len(e.buffers)} results"
        if isinstance(e, Scatter) and e.mode not in SCATTER_MODES:
            yield f"{_at(n)}: no scatter mode {e.mode!r}"
        if isinstance(e, Scan) and e.kind not in SCANS:
            yield f"{_at(n)}: no scan {e.kind!r}"


@rule("buffers are registered")
def _registered(graph: LoopGraph) -> Iterator[str]:
    known = set(graph.buffers)
    for n in graph.nodes:
        for b in [*read(n), *written(n)]:
            if b not in known:
                yield f"{_at(n)} touches {b.name}, which the graph does not list"


@rule("written before read")
def _order(graph: LoopGraph) -> Iterator[str]:
    ready = {b for b in graph.buffers if b.kind in ("input", "constant")}
    for n in graph.nodes:
        for b in read(n):
            if b not in ready:
                yield f"{_at(n)} reads {b.name} before anything writes it"
        ready.update(written(n))
    for v in graph.outputs:
        if isinstance(v, StridedView) and v.buffer not in ready:
            yield f"output {v.buffer.name} is never written"


@rule("inputs are not written")
def _inputs(graph: LoopGraph) -> Iterator[str]:
    for n in graph.nodes:
        for b in written(n):
            if b.kind in ("input", "constant") and not b.meta.get("mutated"):
                yield f"{_at(n)} writes the {b.kind} {b.name}"


def _bounds(graph: LoopGraph) -> Iterator[str]:
    for n in _loops(graph):
        ranges: dict[Any, Any] = {v: (0, s - 1) for v, s in n.all_vars}
        ranges.update(graph.ranges)
        ranges.update({s: (0, v.args[1] - 1) for s, v in n.indirects.items()})
        if any(s.is_const and s.const == 0 for _, s in n.all_vars):
            continue
        for a in [*n.reads, *n.writes]:
            if not a.masked and (complaint := _outside(a.buffer, a.index, ranges)):
                yield f"{_at(n)}: {complaint}"


def _outside(b: Buffer, index: Expr, ranges: dict[Any, Any]) -> str | None:
    lo, _ = bounds(index, ranges)
    _, over = bounds(index - (b.extent() - 1), ranges)
    if lo is not None and lo < 0:
        return f"{b.name}[{index}] may be as low as {lo}"
    if over is not None and over > 0 and b.extent().is_const:
        return f"{b.name}[{index}] may pass the end by {over}"
    return None
