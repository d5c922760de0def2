"""Fusion: merges groups of loop nodes while the plan stays legal and memory traffic shrinks.

Legality is `plan_group` (dependences inside) and `_path_between` (no cycle outside); profit is `is_profitable`.
"""

from __future__ import annotations

import itertools

from lamina_dynshape.support.logs import log

from ..config import config
from ..ir.buffers import Buffer
from ..ir.extern import ExternKernel
from ..ir.linear import coefficients
from ..ir.nodes import LoopGraph, LoopNode, Reduce, Scatter, read, written
from .group import Group, Plan, make_group, plan_group, primary_index, unify

__all__ = ["Unit", "schedule"]

_SERIALS = itertools.count()
_MAX_MEMBERS = 40
_MAX_BUFFERS = 28
_MIN_RUN = 8            # shortest contiguous inner loop that a row kernel is worth
_SMALL_WORK = 16_384    # points below which parallelism does not matter


class Unit:
    """One step of the schedule: a fused group or an extern kernel."""

    def __init__(self, content: Group | ExternKernel, number: int) -> None:
        self.content = content
        self.number = number
        self.serial = next(_SERIALS)
        self.reads: set[Buffer] = content.reads() if isinstance(content, Group) else set(read(content))
        self.writes: set[Buffer] = content.writes() if isinstance(content, Group) else set(written(content))
        if isinstance(content, Group):
            for m in content.members:
                if isinstance(m.effect, Scatter):
                    self.reads = self.reads | {m.effect.buffer}
        self.before: set[Unit] = set()
        self.after: set[Unit] = set()

    @property
    def is_loops(self) -> bool:
        return isinstance(self.content, Group)


def _dependence_graph(graph: LoopGraph, units: list[Unit]) -> None:
    """Edges from writers to readers, and between writers of one buffer (a scatter after its initialisation)."""
    writers: dict[Buffer, list[Unit]] = {}
    readers: dict[Buffer, list[Unit]] = {}
    scatters: dict[Buffer, bool] = {}
    for u in units:
        for b in u.reads:
            for w in writers.get(b, ()):
                _edge(w, u)
            readers.setdefault(b, []).append(u)
        for b in u.writes:
            mutated = not u.is_loops or any(isinstance(m.effect, Scatter) and m.effect.buffer is b for m in u.content.members)  # type: ignore[union-attr]
            if mutated or scatters.get(b):
                for w in [*writers.get(b, ()), *readers.get(b, ())]:
                    if w is not u:
                        _edge(w, u)
                scatters[b] = True
            writers.setdefault(b, []).append(u)


def _edge(a: Unit, b: Unit) -> None:
    if a is not b:
        a.after.add(b)
        b.before.add(a)


def _path_between(a: Unit, b: Unit) -> bool:
    """Is there a path from `a` to `b` through another unit?"""
    seen: set[Unit] = set()
    stack = [u for u in a.after if u is not b]
    while stack:
        u = stack.pop()
        if u is b:
            return True
        if u in seen:
            continue
        seen.add(u)
        stack.extend(u.after)
    return False


def schedule(graph: LoopGraph) -> list[Unit]:
    """Units in an order in which they may run."""
    units = [Unit(make_group(n) if isinstance(n, LoopNode) else n, k) for k, n in enumerate(graph.nodes)]
    for u in units:
        if u.is_loops:
            u.content.plan = plan_group(graph, u.content)  # type: ignore[arg-type, union-attr]
    _dependence_graph(graph, units)
    if config.fusion:
        units = _fuse_all(graph, units)
    return _topological(units)


def _fuse_all(graph: LoopGraph, units: list[Unit]) -> list[Unit]:
    alive = set(units)
    for u in units:
        if u.is_loops:
            for b in u.reads:
                b.meta.setdefault("readers", set()).add(u)
    changed = True
    refused: set[tuple[int, int]] = set()
    rounds = 0
    while changed and rounds < 4:
        changed = False
        rounds += 1
        for u in sorted(alive, key=lambda x: x.number):
            if u not in alive or not u.is_loops:
                continue
            while (merged := _best_merge(graph, alive, u, refused)) is not None:
                u = merged
                changed = True
    return sorted(alive, key=lambda x: x.number)


def _best_merge(graph: LoopGraph, alive: set[Unit], u: Unit, refused: set[tuple[int, int]]) -> Unit | None:
    """Merge `u` with the partner that saves most traffic, if any."""
    partners: dict[Unit, int] = {}
    for other in u.before | u.after | _siblings(alive, u):
        if other is u or not other.is_loops or (other.serial, u.serial) in refused:
            continue
        partners[other] = _shared_bytes(graph, u, other)
    for other in sorted(partners, key=lambda o: (-partners[o], o.number)):
        if partners[other] <= 0:
            break
        first, second = (other, u) if other in u.before or (other not in u.after and other.number < u.number) else (u, other)
        merged = _try_merge(graph, first, second)
        if merged is None:
            refused.add((other.serial, u.serial))
            refused.add((u.serial, other.serial))
            continue
        return _replace(alive, first, second, merged)
    return None


def _siblings(alive: set[Unit], u: Unit) -> set[Unit]:
    out: set[Unit] = set()
    for b in u.reads:
        out |= b.meta.get("readers", set())
    return {x for x in out if x in alive and x is not u}


def _shared_bytes(graph: LoopGraph, a: Unit, b: Unit) -> int:
    shared = (a.writes & b.reads) | (b.writes & a.reads) | (a.reads & b.reads)
    return sum(graph.evaluate(x.extent()) * x.itemsize for x in shared)


def _try_merge(graph: LoopGraph, first: Unit, second: Unit) -> Group | None:
    a, b = first.content, second.content
    assert isinstance(a, Group) and isinstance(b, Group)
    if any(isinstance(m.effect, Scatter) for m in (*a.members, *b.members)):
        return None
    if len(a.members) + len(b.members) > _MAX_MEMBERS or len(first.reads | second.reads | first.writes | second.writes) > _MAX_BUFFERS:
        return None
    if _path_between(first, second) or _path_between(second, first):
        return None
    merged = unify(graph, a, b)
    if merged is None:
        return None
    merged.plan = plan_group(graph, merged)
    if merged.plan is None or not is_profitable(graph, merged, merged.plan):
        return None
    return merged


def is_profitable(graph: LoopGraph, group: Group, plan: Plan) -> bool:
    """Does the merged kernel keep contiguous inner loops and no short ones?"""
    if plan.kind in ("pointwise", "column"):
        return True
    total = max((_points(graph, group, m) for m in group.members), default=1)
    for phase in plan.phases:
        for m in phase.members:
            if not phase.inner:
                continue
            found = coefficients(primary_index(group, m), group.sizes.keys())
            if found is None:
                return False
            steps = {v: abs(graph.evaluate(c)) for v, c in found[0].items()}
            least = min((s for s in steps.values() if s), default=0)
            inner = [v for v in phase.inner if steps.get(v) == least]
            if not inner:
                return False  # memory runs along an outer loop
            if isinstance(m.effect, Reduce):
                continue
            if graph.evaluate(group.sizes[inner[0]]) < _MIN_RUN and total > _SMALL_WORK:
                return False
    return True


def _points(graph: LoopGraph, group: Group, node: LoopNode) -> int:
    n = 1
    for _, s in node.all_vars:
        n *= graph.evaluate(s)
    return n


def _replace(alive: set[Unit], first: Unit, second: Unit, merged: Group) -> Unit:
    u = Unit(merged, min(first.number, second.number))
    for old in (first, second):
        for x in old.before:
            x.after.discard(old)
            if x not in (first, second):
                _edge(x, u)
        for x in old.after:
            x.before.discard(old)
            if x not in (first, second):
                _edge(u, x)
        alive.discard(old)
        for b in old.reads:
            b.meta.get("readers", set()).discard(old)
    alive.add(u)
    for b in u.reads:
        b.meta.setdefault("readers", set()).add(u)
    log("schedule").debug("fused %s", merged.name)
    return u


def _topological(units: list[Unit]) -> list[Unit]:
    """Program order where possible, writers before readers."""
    import heapq
    waiting = {u: len(u.before) for u in units}
    ready = [(u.number, k, u) for k, u in enumerate(units) if not waiting[u]]
    heapq.heapify(ready)
    place = {u: k for k, u in enumerate(units)}
    out: list[Unit] = []
    while ready:
        _, _, u = heapq.heappop(ready)
        out.append(u)
        for x in u.after:
            waiting[x] -= 1
            if not waiting[x]:
                heapq.heappush(ready, (x.number, place[x], x))
    if len(out) != len(units):
        raise AssertionError("the schedule has a cycle")
    return out
