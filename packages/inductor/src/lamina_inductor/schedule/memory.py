"""Memory plan: offsets of intermediates in one block, by lifetime.

Static sizes: greedy by size, each buffer at the lowest offset that is free during its life. Symbolic sizes: buffers of equal size expression
share slots; offsets are sums evaluated at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina_dynshape.expr import Expr, integer

from ..ir.buffers import ZERO, Buffer

__all__ = ["MemoryPlan", "plan_memory"]

ALIGN = 64


@dataclass
class MemoryPlan:
    """`offsets[buffer]` in bytes; `total` bytes of the block."""

    offsets: dict[Buffer, Expr]
    total: Expr


def _bytes(b: Buffer) -> Expr:
    n = b.extent() * b.itemsize
    if n.is_const:
        return integer((max(n.const, 1) + ALIGN - 1) // ALIGN * ALIGN)
    return (n + (ALIGN - 1)) // ALIGN * ALIGN


def plan_memory(lives: dict[Buffer, tuple[int, int]]) -> MemoryPlan:
    """`lives[buffer] = (first step, last step)`, inclusive."""
    static = {b: _bytes(b) for b in lives}
    fixed = [b for b, n in static.items() if n.is_const]
    offsets: dict[Buffer, Expr] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    top = 0
    for b in sorted(fixed, key=lambda x: (-static[x].const, lives[x][0], x.name)):
        first, last = lives[b]
        size = static[b].const
        busy = sorted((o, e) for o, e, f, l in placed if not (l < first or last < f))
        at = 0
        for o, e in busy:
            if at + size <= o:
                break
            at = max(at, e)
        offsets[b] = integer(at)
        placed.append((at, at + size, first, last))
        top = max(top, at + size)
    total: Expr = integer(top)
    slots: list[tuple[Expr, Expr, int]] = []  # size, offset, free after
    for b in sorted((b for b in lives if b not in offsets), key=lambda x: lives[x][0]):
        first, last = lives[b]
        for k, (size, offset, until) in enumerate(slots):
            if size is static[b] and until < first:
                offsets[b] = offset
                slots[k] = (size, offset, last)
                break
        else:
            offsets[b] = total
            slots.append((static[b], total, last))
            total = total + static[b]
    return MemoryPlan(offsets, total if offsets else ZERO)
