"""Loop structure of one kernel, ready to print: merged loops, final index expressions, what lives in registers, rows or memory.

Between: a planned `Group` -> `kernel.KernelWriter`.
"""

from __future__ import annotations

from typing import Any

from lamina_dynshape.expr import Expr, bounds

from ..config import config
from ..ir.buffers import ONE, ZERO, Buffer
from ..ir.linear import coefficients
from ..ir.nodes import LoopGraph, LoopNode, Reduce, Scatter, Store
from ..schedule.group import Group, Phase

__all__ = ["LoopNest"]


class LoopNest:
    """`outer`, `phases` (with final variables), `sizes`, and `index(node, e)` that rewrites an expression of a member."""

    def __init__(self, graph: LoopGraph, group: Group, outside: set[Buffer]) -> None:
        assert group.plan is not None
        self.graph, self.group, self.plan = graph, group, group.plan
        self.kind = self.plan.kind
        self.sizes = dict(group.sizes)
        self.final: dict[Any, Expr] = {}
        self.outer = list(self.plan.outer)
        self.phases = [Phase(list(p.inner), list(p.members)) for p in self.plan.phases]
        self._drop_ones()
        self._merge_loops()
        if self.kind == "pointwise":
            self.phases = [Phase(self.outer[-1:], p.members) for p in self.phases]
            self.outer = self.outer[:-1]
        self.ranges: dict[Any, Any] = {v: (0, n - 1) for v, n in self.sizes.items()}
        self.ranges.update(graph.ranges)
        self.memory, self.row_buffers = self._storage(outside)

    # -- variables -------------------------------------------------------------------------------------------------------------
    def index(self, node: LoopNode, e: Expr) -> Expr:
        mapping = self.group.mapping[node]
        e = e.subs(mapping) if mapping else e
        return e.subs(self.final) if self.final else e

    def _expressions(self) -> list[Expr]:
        out: dict[Expr, None] = {}
        for m in self.group.members:
            out[self.index(m, m.effect.index)] = None
            position = getattr(m.effect, "position", None)
            if position is not None:
                out[self.index(m, position)] = None
            for v in m.values:
                for a in v.args:
                    if isinstance(a, Expr):
                        out[self.index(m, a)] = None
        return list(out)

    def _drop_ones(self) -> None:
        for v in [v for v, n in self.sizes.items() if n is ONE]:
            if self.kind == "column" and self.outer == [v] or any(p.inner == [v] and self.has_reduction(p) for p in self.phases):
                continue  # a reduction keeps one loop to accumulate in
            self.final[v] = ZERO
            del self.sizes[v]
            self.outer = [x for x in self.outer if x is not v]
            for p in self.phases:
                p.inner = [x for x in p.inner if x is not v]

    def _merge_loops(self) -> None:
        """Merge neighbouring loops that step through every buffer as one."""
        expressions = self._expressions()
        changed = True
        while changed:
            changed = False
            for a, b in self._neighbours():
                if not self._mergeable(expressions, a, b):
                    continue
                merged = self.graph.fresh_var()
                step = {a: ZERO, b: merged}
                self.sizes[merged] = self.sizes.pop(a) * self.sizes.pop(b)
                self.final = {v: e.subs(step) for v, e in self.final.items()}
                self.final.update(step)
                expressions = [e.subs(step) for e in expressions]
                for names in (self.outer, *(p.inner for p in self.phases)):
                    if b in names:
                        names[names.index(b)] = merged
                        names.remove(a)
                changed = True
                break

    def _neighbours(self) -> list[tuple[Expr, Expr]]:
        lists = [self.outer, *(p.inner for p in self.phases)]
        pairs: list[tuple[Expr, Expr]] = []
        for names in lists:
            for a, b in zip(names, names[1:], strict=False):
                if (a, b) not in pairs and all((a in other) == (b in other) and (a not in other or other.index(b) == other.index(a) + 1) for other in lists):
                    pairs.append((a, b))
        if self.kind == "column" and len(self.outer) > 1:
            pass  # the tile loop may be a merged one too
        return pairs

    def _mergeable(self, expressions: list[Expr], a: Expr, b: Expr) -> bool:
        size = self.sizes[b]
        for e in expressions:
            if a not in e.free_symbols and b not in e.free_symbols:
                continue
            found = coefficients(e, (a, b))
            if found is None or found[0].get(a, ZERO) is not found[0].get(b, ZERO) * size:
                return False
        return True

    # -- storage ---------------------------------------------------------------------------------------------------------------
    def _storage(self, outside: set[Buffer]) -> tuple[set[Buffer], dict[Buffer, tuple[Expr, int]]]:
        """(buffers that need memory, {buffer: (lowest row index, elements)} of those that live on the stack for one outer iteration)."""
        phase_of = {m: k for k, p in enumerate(self.phases) for m in p.members}
        written: dict[Buffer, list[tuple[LoopNode, Expr]]] = {}
        for m in self.group.members:
            for b in m.effect.buffers:
                written.setdefault(b, []).append((m, self.index(m, m.effect.index)))
        memory = {b for b in written if b in outside}
        rows: dict[Buffer, tuple[Expr, int]] = {}
        for m in self.group.members:
            if isinstance(m.effect, Scatter):
                memory.add(m.effect.buffer)
            for a in m.reads:
                for writer, w in written.get(a.buffer, ()):
                    if writer is m:
                        continue
                    exact = self.index(m, a.index) is w
                    in_register = exact and (phase_of[writer] == phase_of[m] and isinstance(writer.effect, Store)
                                             or not self.phases[phase_of[writer]].inner or not isinstance(writer.effect, Store))
                    if self.kind == "column" and exact:
                        in_register = True
                    if isinstance(writer.effect, Store) and self.phases[phase_of[writer]].inner and getattr(m.effect, "position", None) is not None:
                        in_register = False  # the second pass of argmax reads it from where it was kept
                    if not in_register and a.buffer not in memory and a.buffer not in rows:
                        span = self._row_span(w)
                        if span is not None and span[1] * a.buffer.itemsize <= config.row_buffer_bytes and len(written[a.buffer]) == 1:
                            rows[a.buffer] = span
                        else:
                            memory.add(a.buffer)
        for b in memory:
            rows.pop(b, None)
        return memory, rows

    def _row_span(self, index: Expr) -> tuple[Expr, int] | None:
        from lamina_dynshape.expr import integer
        inner = index.subs({v: ZERO for v in self.outer})
        lo, hi = bounds(inner, self.ranges)
        return None if lo is None or hi is None else (integer(lo), hi - lo + 1)

    def row_index(self, buffer: Buffer, index: Expr) -> Expr:
        return index.subs({v: ZERO for v in self.outer}) - self.row_buffers[buffer][0]

    # -- sizes -----------------------------------------------------------------------------------------------------------------
    def points(self, variables: list[Expr]) -> Expr:
        n = ONE
        for v in variables:
            n = n * self.sizes[v]
        return n

    def cycles(self) -> Expr:
        """Estimated work of the kernel."""
        total: Expr = ZERO
        outer = self.points(self.outer)
        for p in self.phases:
            cost = sum(max(m.cost, 1) for m in p.members)
            total = total + outer * self.points(p.inner) * max(1, round(cost))
        return total

    def has_reduction(self, phase: Phase) -> bool:
        return any(isinstance(m.effect, Reduce) for m in phase.members)


