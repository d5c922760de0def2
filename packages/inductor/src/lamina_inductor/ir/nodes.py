"""Loop nodes and the loop graph.

Between: lowering (makes them) -> scheduler (groups them) -> code generation.
Keeps:   every node has loop variables of its own (unique in the graph); effects write disjoint elements except `Scatter`;
         nodes stand in an order in which they may run one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from lamina_dynshape.boolean import BoolExpr
from lamina_dynshape.expr import Expr, symbol
from lamina_dynshape.float_expr import FloatExpr

from .body import Val, topological
from .buffers import Buffer, StridedView
from .extern import ExternKernel

__all__ = ["REDUCTIONS", "SCANS", "SCATTER_MODES", "Access", "LoopGraph", "LoopNode", "Reduce", "Scan", "Scatter", "Store", "real_bits", "real_of_bits"]

REDUCTIONS = frozenset({"sum", "prod", "amax", "amin", "any", "all", "argmax", "argmin", "welford"})
SCANS = frozenset({"sum", "prod", "logsumexp", "max", "min", "argmax", "argmin"})
SCATTER_MODES = frozenset({"set", "add", "mul", "amax", "amin"})


@dataclass(frozen=True)
class Store:
    """buffer[index] = value, once for each point of the loops."""

    buffer: Buffer
    index: Expr
    value: Val

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


@dataclass(frozen=True)
class Reduce:
    """buffers[k][index] = k-th result of reducing `value` over the reduction loops.

    `welford` gives (sum of squared deviations, mean); `argmax/argmin` give the value of `position` (i64) at the first extremum, NaN winning."""

    kind: str
    buffers: tuple[Buffer, ...]
    index: Expr
    value: Val
    position: Expr | None = None


@dataclass(frozen=True)
class Scan:
    """buffer[index] = running `kind` of `value` along the single reduction loop, inclusive.

    Of equal extremes the last counts, NaN wins; `argmax` and `argmin` store its int64 position.
    """

    kind: str
    buffer: Buffer
    index: Expr
    value: Val

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


@dataclass(frozen=True)
class Scatter:
    """buffer[index] = combine(buffer[index], value) in loop order; `index` holds indirect symbols, points may collide."""

    mode: str
    buffer: Buffer
    index: Expr
    value: Val

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (self.buffer,)


Effect = Store | Reduce | Scan | Scatter


@dataclass(frozen=True)
class Access:
    """A read or write of a buffer at an index; `affine` when no loaded value takes part in the index."""

    buffer: Buffer
    index: Expr
    affine: bool
    masked: bool = False


@dataclass(eq=False)
class LoopNode:
    """Loops over `vars` (and, inside, `rvars`), outermost first, with one effect."""

    name: str
    vars: list[tuple[Expr, Expr]]
    rvars: list[tuple[Expr, Expr]]
    effect: Effect
    indirects: dict[Expr, Val] = field(default_factory=dict)
    origin: str = ""

    @property
    def kind(self) -> str:
        return type(self.effect).__name__.lower()

    @property
    def all_vars(self) -> list[tuple[Expr, Expr]]:
        return self.vars + self.rvars

    def roots(self) -> list[Val]:
        hidden = sorted((self.indirects[s] for s in self.effect.index.free_symbols if s in self.indirects), key=lambda v: v.number)
        return [*hidden, self.effect.value]

    @cached_property
    def values(self) -> list[Val]:
        """All values of the body, operands first."""
        return topological(self.roots(), self.indirects)

    @cached_property
    def reads(self) -> list[Access]:
        """Loads of the body (for a scatter that combines, the target is a write only: it is initialised by an earlier node)."""
        return [Access(v.args[0], v.args[1], not any(s in self.indirects for s in v.args[1].free_symbols), v.args[2] is not None)
                for v in self.values if v.op == "load"]

    @cached_property
    def writes(self) -> list[Access]:
        e = self.effect
        return [Access(b, e.index, not any(s in self.indirects for s in e.index.free_symbols)) for b in e.buffers]

    @cached_property
    def cost(self) -> float:
        """Rough cycles per point of the loops."""
        from .ops import OPS
        return sum(OPS[v.op].cost for v in self.values)


@dataclass(eq=False)
class LoopGraph:
    """Buffers and nodes of one graph. `outputs` are views of buffers, numbers and conditions as expressions, or constants."""

    inputs: list[Buffer | Expr] = field(default_factory=list)
    constants: list[tuple[Buffer, torch.Tensor]] = field(default_factory=list)
    nodes: list[LoopNode | ExternKernel] = field(default_factory=list)
    outputs: list[StridedView | Expr | FloatExpr | BoolExpr | None] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    hints: dict[Expr, int] = field(default_factory=dict)      # symbol -> size in this call
    ranges: dict[Expr, tuple[int | None, int | None]] = field(default_factory=dict)
    reals: set[Expr] = field(default_factory=set)             # inputs that are the bits of a float64
    computed: dict[FloatExpr, Expr] = field(default_factory=dict)  # real numbers of which kernels get the bits, as symbols
    _numbers: dict[str, int] = field(default_factory=dict)

    def fresh(self, prefix: str) -> str:
        n = self._numbers.get(prefix, 0)
        self._numbers[prefix] = n + 1
        return f"{prefix}{n}"

    def fresh_var(self) -> Expr:
        return symbol(self.fresh("i"))

    def evaluate(self, e: Expr) -> int:
        """Value of a size at the hints."""
        return e.const if e.is_const else e.evaluate({s: self.hints.get(s, 64) for s in e.free_symbols})

    def writers(self) -> dict[Buffer, list[Any]]:
        out: dict[Buffer, list[Any]] = {}
        for n in self.nodes:
            for b in written(n):
                out.setdefault(b, []).append(n)
        return out


def real_bits(value: float) -> int:
    """The bits of a float64 as a signed integer: how real numbers enter a graph."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


def real_of_bits(bits: int) -> float:
    """The inverse of `real_bits`."""
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def written(node: LoopNode | ExternKernel) -> Iterable[Buffer]:
    if isinstance(node, ExternKernel):
        return [*node.writes(), *(v.buffer for k in node.mutates if (v := node.inputs[k]) is not None)]
    return node.effect.buffers


def read(node: LoopNode | ExternKernel) -> Iterable[Buffer]:
    if isinstance(node, ExternKernel):
        return node.reads()
    found = [a.buffer for a in node.reads]
    return found + [node.effect.buffer] if isinstance(node.effect, Scatter) else found
