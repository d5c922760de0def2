"""Makes loop nodes from values: chooses loop variables, records the body, splits loops so that indices become linear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamina_dynshape.expr import Expr, FloorDiv, Mod, Symbol, mod, simplify

from ..ir.body import Recorder, replay
from ..ir.buffers import ONE, ZERO, StridedView, stride_order
from ..ir.linear import coefficients
from ..ir.nodes import LoopGraph, LoopNode, Reduce, Scan, Scatter, Store
from ..ir.ops import use_handler
from .values import Value

__all__ = ["make_node", "make_reduction", "make_scan", "make_scatter", "make_store"]

_MAX_SPLITS = 8


def _variables(graph: LoopGraph, size: Sequence[Expr], order: Sequence[int]) -> tuple[list[tuple[Expr, Expr]], list[Expr]]:
    """Loop variables for the dimensions in `order` (size 1 gets none) and the index they make."""
    idx: list[Expr] = [ZERO] * len(size)
    variables = []
    for d in order:
        if size[d] is not ONE:
            idx[d] = graph.fresh_var()
            variables.append((idx[d], size[d]))
    return variables, idx


def make_store(graph: LoopGraph, target: StridedView, value: Value) -> LoopNode:
    """target[...] = value[...]; loops follow the target's memory order."""
    order = stride_order(target.size, target.stride, graph.hints)
    variables, idx = _variables(graph, target.size, order)

    def effect() -> Any:
        from ..ir.ops import ops
        v = value.load(idx)
        return Store(target.buffer, target.index(idx), ops.convert(v, target.dtype))

    return make_node(graph, variables, [], effect, value.origin)


def make_reduction(graph: LoopGraph, kind: str, targets: Sequence[StridedView], x: Value, dims: Sequence[int], origin: str) -> LoopNode:
    """targets (over the kept dimensions, in order) = reduction of `x` over `dims`."""
    kept = [d for d in range(len(x.size)) if d not in dims]
    outer, kept_idx = _variables(graph, [x.size[d] for d in kept], range(len(kept)))
    inner, inner_idx = _variables(graph, [x.size[d] for d in dims], range(len(dims)))
    inner = inner or [(graph.fresh_var(), ONE)]
    idx: list[Expr] = [ZERO] * len(x.size)
    for d, i in [*zip(kept, kept_idx, strict=True), *zip(dims, inner_idx, strict=True)]:
        idx[d] = i
    position = None
    if kind in ("argmax", "argmin"):
        position = ZERO
        for d, i in zip(dims, inner_idx, strict=True):
            position = position * x.size[d] + i
    target = targets[0]

    def effect() -> Any:
        return Reduce(kind, tuple(t.buffer for t in targets), target.index(kept_idx), x.load(idx), position)

    return make_node(graph, outer, inner, effect, origin, reorder=kind not in ("argmax", "argmin"))


def make_scan(graph: LoopGraph, kind: str, target: StridedView, x: Value, dim: int, origin: str) -> LoopNode:
    order = [d for d in stride_order(target.size, target.stride, graph.hints) if d != dim]
    outer, idx = _variables(graph, x.size, order)
    inner, inner_idx = _variables(graph, [x.size[dim]], [0])
    idx[dim] = inner_idx[0]
    return make_node(graph, outer, inner, lambda: Scan(kind, target.buffer, target.index(idx), x.load(idx)), origin, reorder=False, split=False)


def make_scatter(graph: LoopGraph, mode: str, target: StridedView, size: Sequence[Expr], place: Callable[[Sequence[Expr]], Sequence[Expr]],
                 value: Value, origin: str) -> LoopNode:
    """For each point of `size`: target[place(point)] = combine(target[place(point)], value[point])."""
    outer, idx = _variables(graph, size, range(len(size)))

    def effect() -> Any:
        where = target.index(place(idx))
        return Scatter(mode, target.buffer, where, value.load(idx))

    return make_node(graph, outer, [], effect, origin, reorder=False)


def make_node(graph: LoopGraph, outer: list, inner: list, effect: Callable[[], Any], origin: str, *, reorder: bool = True, split: bool = True) -> LoopNode:
    """Record the effect's body under the loops and normalise it."""
    recorder = Recorder()
    with use_handler(recorder):
        e = effect()
    node = LoopNode(graph.fresh("n"), outer, inner, e, recorder.indirects, origin)
    for _ in range(_MAX_SPLITS):
        if not _has_division(node):
            break
        again = _simplify_node(graph, node, split)
        if again is None:
            break
        node = again
    if reorder and len(node.rvars) > 1:
        node = LoopNode(node.name, node.vars, _by_stride(graph, node), node.effect, node.indirects, node.origin)
    return node


def _indices(node: LoopNode) -> list[Expr]:
    found = [node.effect.index]
    for v in node.values:
        found.extend(a for a in v.args if isinstance(a, Expr))
    position = getattr(node.effect, "position", None)
    return found + [position] if position is not None else found


def _has_division(node: LoopNode) -> bool:
    return any("//" in e.key or "%" in e.key or "em" in e.key for e in _indices(node))


def _simplify_node(graph: LoopGraph, node: LoopNode, split: bool) -> LoopNode | None:
    """The node with simplified indices and one more loop split, None when nothing changed."""
    ranges: dict[Any, Any] = {v: (0, n - 1) for v, n in node.all_vars}
    ranges.update(graph.ranges)
    mapping: dict[Symbol, Expr] = {}
    indices = [simplify(e, ranges) for e in _indices(node)]
    outer, inner = node.vars, node.rvars
    found = _divisor(indices, node.all_vars) if split else None
    if found is not None:
        var, size, k = found
        hi, lo = graph.fresh_var(), graph.fresh_var()
        mapping[var] = hi * k + lo  # type: ignore[index]
        pieces = [(hi, size // k), (lo, k)]
        outer = [p for v, n in outer for p in (pieces if v is var else [(v, n)])]
        inner = [p for v, n in inner for p in (pieces if v is var else [(v, n)])]
        ranges = {v: (0, n - 1) for v, n in [*outer, *inner]}
        ranges.update(graph.ranges)
    elif all(a is b for a, b in zip(indices, _indices(node), strict=True)):
        return None

    def index(e: Expr) -> Expr:
        return simplify(simplify(e, ranges).subs(mapping), ranges) if mapping else simplify(e, ranges)

    return rewrite(node, outer, inner, index)


def rewrite(node: LoopNode, outer: list, inner: list, index: Callable[[Expr], Expr]) -> LoopNode:
    """The node over other loop variables, `index` mapping old index expressions to new ones."""
    recorder = Recorder()
    e = node.effect
    with use_handler(recorder):
        values = replay(node.roots(), node.indirects, index)
    new_of = {old: new for old, new in zip(node.roots(), values, strict=True)}
    # indirect symbols were renamed by the replay
    hit = {s: new_of[node.indirects[s]] for s in e.index.free_symbols if s in node.indirects}
    target = index(e.index.subs(hit)) if hit else index(e.index)
    kind = type(e)
    if kind is Reduce:
        position = index(e.position) if e.position is not None else None
        new: Any = Reduce(e.kind, e.buffers, target, values[-1], position)
    elif kind is Store:
        new = Store(e.buffer, target, values[-1])
    else:
        new = kind(e.kind if kind is Scan else e.mode, e.buffer, target, values[-1])
    return LoopNode(node.name, outer, inner, new, recorder.indirects, node.origin)


def _divisor(indices: list[Expr], variables: list[tuple[Expr, Expr]]) -> tuple[Expr, Expr, Expr] | None:
    """(variable, size, k) for some `variable // k` or `variable % k` with k dividing the size."""
    sizes = dict(variables)
    for e in indices:
        for d in _divisions(e):
            if d.num in sizes and not d.den.free_symbols & set(sizes) and mod(sizes[d.num], d.den) is ZERO and d.den is not sizes[d.num]:
                return d.num, sizes[d.num], d.den
    return None


def _divisions(e: Expr) -> list[Any]:
    out = []
    if isinstance(e, (FloorDiv, Mod)):
        out.append(e)
    for a in e.args:
        out.extend(_divisions(a))
    return out


def _by_stride(graph: LoopGraph, node: LoopNode) -> list[tuple[Expr, Expr]]:
    """Reduction loops from the largest stride of the widest load to the smallest."""
    names = [v for v, _ in node.rvars]
    best: dict[Expr, int] | None = None
    for a in node.reads:
        found = coefficients(a.index, names)
        if found is not None and (best is None or len(found[0]) > len(best)):
            best = {v: abs(graph.evaluate(c)) if not c.free_symbols & set(dict(node.all_vars)) else 0 for v, c in found[0].items()}
    if best is None:
        return node.rvars
    return sorted(node.rvars, key=lambda vn: -best.get(vn[0], 0))

