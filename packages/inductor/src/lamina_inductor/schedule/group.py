"""Groups of loop nodes that share one kernel: unified loop variables and the phases they run in.

Between: loop nodes -> `fuse` (merges groups) -> `codegen.kernel` (writes one function per group).
A group runs `for outer: for phase in phases: for inner: members`. Members of one phase share its inner loops and hand values over in
registers; later phases of the same outer iteration read earlier ones through memory that is still in cache (softmax, normalisations).
Columns: reductions over strided dimensions run `for outer tile: for reduced: for lane in tile`.

Keeps:  the variables of all members are expressions over the group's variables; a variable means the same position for all members.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lamina_dynshape.expr import Expr, bounds, mod

from ..ir.buffers import ONE, ZERO, Buffer
from ..ir.linear import coefficients
from ..ir.nodes import LoopGraph, LoopNode, Reduce, Scan, Scatter, Store

__all__ = ["Group", "GroupAccess", "Phase", "Plan", "make_group", "plan_group", "unify"]


@dataclass(frozen=True)
class GroupAccess:
    """An access in the group's variables."""

    node: LoopNode
    buffer: Buffer
    index: Expr
    write: bool
    affine: bool


@dataclass(eq=False)
class Group:
    """Members in program order; `mapping[node]` rewrites its variables; `sizes` of the group's variables."""

    members: list[LoopNode]
    mapping: dict[LoopNode, dict[Any, Expr]]
    sizes: dict[Expr, Expr]
    accesses: list[GroupAccess] = field(default_factory=list)
    plan: Plan | None = None

    def variables(self, node: LoopNode, *, reduced: bool) -> list[Expr]:
        """Group variables behind the node's `vars` or `rvars`, outermost first."""
        mapping = self.mapping[node]
        out: list[Expr] = []
        for v, _ in node.rvars if reduced else node.vars:
            e = mapping.get(v, v)
            parts = [s for s in _ordered_symbols(e) if s in self.sizes]
            out.extend(parts)
        return out

    def reads(self) -> set[Buffer]:
        return {a.buffer for a in self.accesses if not a.write}

    def writes(self) -> set[Buffer]:
        return {a.buffer for a in self.accesses if a.write}

    @property
    def name(self) -> str:
        return "_".join(m.name for m in self.members[:4])


def _ordered_symbols(e: Expr) -> list[Expr]:
    """Symbols of a split variable `hi*k + lo`, largest coefficient first."""
    found = coefficients(e, e.free_symbols)
    if found is None or len(e.free_symbols) == 1:
        return sorted(e.free_symbols, key=str)
    at = {s: 64 for s in e.free_symbols}
    return sorted(found[0], key=lambda s: -found[0][s].evaluate(at | {x: 64 for x in found[0][s].free_symbols}))


def make_group(node: LoopNode) -> Group:
    g = Group([node], {node: {}}, dict(node.all_vars))
    g.accesses = [GroupAccess(node, a.buffer, a.index, False, a.affine) for a in node.reads]
    g.accesses += [GroupAccess(node, a.buffer, a.index, True, a.affine) for a in node.writes]
    return g


# -- unification ----------------------------------------------------------------------------------------------------------


def _terms(graph: LoopGraph, index: Expr, sizes: dict[Expr, Expr]) -> list[tuple[Expr, Expr, Expr]] | None:
    """(variable, size, coefficient) with smallest coefficients first."""
    found = coefficients(index, sizes.keys())
    if found is None:
        return None
    terms = [(v, sizes[v], c) for v, c in found[0].items() if c is not ZERO]
    return sorted(terms, key=lambda t: graph.evaluate(t[2]))


def _match(graph: LoopGraph, left: list, right: list) -> tuple[dict, dict, dict] | None:
    """Pair up loop variables that step through a buffer alike, splitting the longer of two: (left mapping, right mapping, sizes of new variables)."""
    a, b = list(left), list(right)
    from_left: dict[Expr, Expr] = {}
    from_right: dict[Expr, Expr] = {}
    sizes: dict[Expr, Expr] = {}

    def split(terms: list, mapping: dict, k: Expr) -> None:
        v, n, c = terms[0]
        hi, lo = graph.fresh_var(), graph.fresh_var()
        sizes[hi], sizes[lo] = n // k, k
        for key in list(mapping):
            mapping[key] = mapping[key].subs({v: hi * k + lo})
        mapping[v] = hi * k + lo
        terms[0:1] = [(lo, k, c), (hi, n // k, c * k)]

    matched = False
    while a and b:
        (va, na, ca), (vb, nb, cb) = a[0], b[0]
        if ca is not cb:
            break
        if na is nb:
            if va is not vb:
                from_right[vb] = va
            a.pop(0)
            b.pop(0)
            matched = True
        elif na is not ZERO and mod(nb, na) is ZERO:
            split(b, from_right, na)
        elif nb is not ZERO and mod(na, nb) is ZERO:
            split(a, from_left, nb)
        else:
            break
    return (from_left, from_right, sizes) if matched else None


def _apply(group: Group, mapping: dict, sizes: dict[Expr, Expr]) -> Group:
    """The group with variables replaced (split or renamed)."""
    if not mapping:
        return group
    mapping = _closed(mapping)
    out = Group(list(group.members), {}, {})
    for node in group.members:
        old = group.mapping[node]
        new = {v: e.subs(mapping) for v, e in old.items()}
        for v, _ in node.all_vars:
            if v not in old and v in mapping:
                new[v] = mapping[v]
        out.mapping[node] = new
    for v, n in group.sizes.items():
        if v not in mapping:
            out.sizes[v] = n
            continue
        for s in mapping[v].free_symbols:
            size = sizes.get(s, group.sizes.get(s))
            if size is not None:
                out.sizes[s] = size
            elif mapping[v] is s:
                out.sizes[s] = n  # else a symbolic size, which is no loop
    out.accesses = [GroupAccess(a.node, a.buffer, a.index.subs(mapping), a.write, a.affine) for a in group.accesses]
    return out


def _closed(mapping: dict) -> dict:
    """Apply the mapping to its own right-hand sides until nothing changes (a split half may itself be renamed)."""
    for _ in range(4):
        again = {v: e.subs({k: x for k, x in mapping.items() if k is not v}) for v, e in mapping.items()}
        if all(again[v] is mapping[v] for v in mapping):
            break
        mapping = again
    return mapping


def unify(graph: LoopGraph, first: Group, second: Group) -> Group | None:
    """One group of both with shared loop variables where they step through shared buffers alike; None when nothing matches."""
    a, b = first, second
    matched = False
    shared = a.writes() & b.reads() | b.writes() & a.reads() | a.reads() & b.reads() | a.writes() & b.writes()
    written = a.writes() | b.writes()
    size_of = {buf: graph.evaluate(_numel(buf)) for buf in shared}
    for buf in sorted(shared, key=lambda x: (x not in written, -size_of[x], x.name)):
        for x, y in _pairs(a, b, buf):
            ta, tb = _terms(graph, x, a.sizes), _terms(graph, y, b.sizes)
            if ta is None or tb is None:
                continue
            common = {v for v, _, _ in ta} & {v for v, _, _ in tb} & a.sizes.keys() & b.sizes.keys()
            ca, cb = {v: c for v, _, c in ta}, {v: c for v, _, c in tb}
            if any(ca[v] is not cb[v] for v in common):
                continue
            ta, tb = [t for t in ta if t[0] not in b.sizes], [t for t in tb if t[0] not in a.sizes]
            found = _match(graph, ta, tb)
            if found is not None:
                from_left, from_right, sizes = found
                lookup = {**a.sizes, **b.sizes, **sizes}
                for vb, e in from_right.items():  # a split of the left side must reach what the right side was renamed to
                    from_right[vb] = e.subs(from_left)
                a = _apply(a, from_left, lookup)
                b = _apply(b, from_right, {**lookup, **a.sizes})
                matched = True
            elif common or (not ta and not tb):
                matched = matched or bool(common)
            break
    scalars = all(not g.sizes for g in (a, b))
    if not matched and not scalars and not _scalar_link(a, b):
        return None
    order = {n: k for k, n in enumerate(graph.nodes)}
    members = sorted([*a.members, *b.members], key=lambda n: order[n])
    return Group(members, {**a.mapping, **b.mapping}, {**a.sizes, **b.sizes}, [*a.accesses, *b.accesses])


def _scalar_link(a: Group, b: Group) -> bool:
    """Is one group without loops joined to the other through a one-element buffer?"""
    return any(not g.sizes for g in (a, b)) and bool(a.writes() & b.reads() | b.writes() & a.reads())


def _pairs(a: Group, b: Group, buf: Buffer) -> list[tuple[Expr, Expr]]:
    """Index pairs to compare, writes first."""
    left = sorted((x for x in a.accesses if x.buffer is buf and x.affine), key=lambda x: not x.write)
    right = sorted((y for y in b.accesses if y.buffer is buf and y.affine), key=lambda y: not y.write)
    return [(x.index, y.index) for x in left[:2] for y in right[:2]]


def _numel(buf: Buffer) -> Expr:
    n = ONE
    for s in buf.size:
        n = n * s
    return n


# -- phases -----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Phase:
    """Members that share inner loops; `inner` outermost first."""

    inner: list[Expr]
    members: list[LoopNode]

    @property
    def key(self) -> frozenset:
        return frozenset(self.inner)


@dataclass(eq=False)
class Plan:
    """Loop structure of a group: kind is pointwise, row, column, scan or scatter."""

    kind: str
    outer: list[Expr]
    phases: list[Phase]


def primary_index(group: Group, node: LoopNode) -> Expr:
    """The access that decides loop order: the store, or the widest affine load of a reduction."""
    if isinstance(node.effect, Store):
        return next(a.index for a in group.accesses if a.node is node and a.write)
    best, width = ZERO, -1
    for a in group.accesses:
        if a.node is node and not a.write and a.affine:
            w = sum(1 for s in a.index.free_symbols if s in group.sizes)
            if w > width:
                best, width = a.index, w
    return best


def order_by_stride(graph: LoopGraph, group: Group, variables: Iterable[Expr], index: Expr) -> list[Expr]:
    """Variables from the largest step in `index` to the smallest; those it does not contain come first."""
    variables = list(variables)
    found = coefficients(index, group.sizes.keys())
    if found is None:
        return variables
    steps = {v: abs(graph.evaluate(c)) for v, c in found[0].items()}
    place = {v: k for k, v in enumerate(variables)}
    return sorted(variables, key=lambda v: (-steps.get(v, 1 << 60), place[v]))


def is_column(graph: LoopGraph, group: Group, node: LoopNode) -> bool:
    """Does memory run along the kept dimensions rather than the reduced ones?"""
    if node.effect.kind in ("argmax", "argmin"):  # type: ignore[union-attr]
        return False
    index = primary_index(group, node)
    found = coefficients(index, group.sizes.keys())
    if found is None:
        return False
    reduced = set(group.variables(node, reduced=True))
    best: tuple[int, Expr] | None = None
    for v, c in found[0].items():
        step = abs(graph.evaluate(c))
        if step and (best is None or step < best[0]):
            best = (step, v)
    return best is not None and best[1] not in reduced


def plan_group(graph: LoopGraph, group: Group) -> Plan | None:
    """Loop structure that respects every dependence inside the group, None if there is none."""
    special = [m for m in group.members if isinstance(m.effect, (Scan, Scatter))]
    if special:
        if len(group.members) > 1:
            return None  # a scan or a scatter runs alone
        node = special[0]
        return Plan(node.kind, group.variables(node, reduced=False), [Phase(group.variables(node, reduced=True), [node])])
    reductions = [m for m in group.members if isinstance(m.effect, Reduce)]
    columns = [m for m in reductions if is_column(graph, group, m)]
    if columns:
        return _plan_columns(graph, group, reductions) if len(columns) == len(reductions) else None
    return _plan_rows(graph, group, reductions)


def _dependences(group: Group) -> list[tuple[LoopNode, LoopNode, GroupAccess, GroupAccess]]:
    """(writer, reader, write, read) inside the group."""
    writes: dict[Buffer, list[GroupAccess]] = {}
    for a in group.accesses:
        if a.write:
            writes.setdefault(a.buffer, []).append(a)
    return [(w.node, a.node, w, a) for a in group.accesses if not a.write for w in writes.get(a.buffer, ()) if w.node is not a.node]


def _plan_rows(graph: LoopGraph, group: Group, reductions: list[LoopNode]) -> Plan | None:
    variables = {m: set(group.variables(m, reduced=False)) for m in group.members}
    if reductions:
        outer = variables[reductions[0]]
        if any(variables[m] != outer for m in reductions):
            return None
    else:
        outer = set.intersection(*variables.values())
    if any(not outer <= v for v in variables.values()):
        return None
    inner = {m: frozenset(group.variables(m, reduced=True)) if m in reductions else frozenset(variables[m] - outer) for m in group.members}
    needs: dict[LoopNode, list[tuple[LoopNode, bool]]] = {m: [] for m in group.members}  # (writer, strictly later)
    for writer, reader, w, r in _dependences(group):
        if not r.affine or not w.affine:
            return None
        exact = w.index is r.index
        if writer in reductions:
            if not exact:
                return None
            needs[reader].append((writer, True))
        elif exact and inner[writer] == inner[reader]:
            needs[reader].append((writer, False))
        elif exact and inner[writer] <= inner[reader] and not inner[writer]:
            needs[reader].append((writer, True))
        elif _same_row(group, outer, w.index, r.index):
            needs[reader].append((writer, True))
        else:
            return None
    several = {b for b in group.writes() if sum(1 for a in group.accesses if a.write and a.buffer is b) > 1}
    if several & group.reads():
        return None  # a buffer written in pieces is complete only after the kernel
    phases: list[Phase] = []
    place: dict[LoopNode, int] = {}
    for m in group.members:
        earliest = max((place[w] + strict for w, strict in needs[m]), default=0)
        slot = next((k for k in range(earliest, len(phases)) if phases[k].key == inner[m]), None)
        if slot is None:
            order = order_by_stride(graph, group, [v for v in group.sizes if v in inner[m]], primary_index(group, m))
            phases.append(Phase(order, []))
            slot = len(phases) - 1
        phases[slot].members.append(m)
        place[m] = slot
    widest = max(group.members, key=lambda m: len(inner[m]) + len(variables[m]))
    order = order_by_stride(graph, group, [v for v in group.sizes if v in outer], primary_index(group, widest))
    kind = "row" if reductions or len(phases) > 1 else "pointwise"
    return Plan(kind, order, phases)


def _same_row(group: Group, outer: set[Expr], w: Expr, r: Expr) -> bool:
    """Do the elements read in an outer iteration all belong to what the same iteration wrote?"""
    a, b = coefficients(w, outer), coefficients(r, outer)
    if a is None or b is None or a[0].keys() != b[0].keys() or any(a[0][v] is not b[0][v] for v in a[0]):
        return False
    ranges: dict[Any, Any] = {v: (0, n - 1) for v, n in group.sizes.items()}
    (wl, wh), (rl, rh) = bounds(a[1], ranges), bounds(b[1], ranges)
    if None in (wl, wh, rl, rh):
        return a[1] is b[1]
    span = wh - wl + 1  # type: ignore[operator]
    if not (wl <= rl and rh <= wh):  # type: ignore[operator]
        return False
    return all(c.is_const and c.const >= span for v, c in a[0].items() if c is not ZERO)


def _plan_columns(graph: LoopGraph, group: Group, reductions: list[LoopNode]) -> Plan | None:
    kept, reduced = set(group.variables(reductions[0], reduced=False)), set(group.variables(reductions[0], reduced=True))
    for m in reductions:
        if set(group.variables(m, reduced=False)) != kept or set(group.variables(m, reduced=True)) != reduced:
            return None
    full: list[LoopNode] = []
    after: list[LoopNode] = []
    for m in group.members:
        if m in reductions:
            full.append(m)
            continue
        have = set(group.variables(m, reduced=False))
        if have == kept | reduced:
            full.append(m)
        elif have == kept:
            after.append(m)
        else:
            return None
    for writer, reader, w, r in _dependences(group):
        if not r.affine or w.index is not r.index:
            return None
        if (writer in reductions or writer in after) and reader in full:
            return None
        if writer in full and writer not in reductions and reader in after:
            return None
    index = primary_index(group, reductions[0])
    outer = order_by_stride(graph, group, [v for v in group.sizes if v in kept], index)
    inner = order_by_stride(graph, group, [v for v in group.sizes if v in reduced], index)
    phases = [Phase(inner, full)] + ([Phase([], after)] if after else [])
    return Plan("column", outer, phases)
