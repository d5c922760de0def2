"""Memory plan: offsets of intermediates in one block, by lifetime.

Static sizes: greedy by size, each buffer at the lowest offset that is free during its life. Symbolic sizes: buffers of equal size expression
share slots, which follow one another behind the static part.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina_dynshape.expr import Expr, integer

from ..ir.buffers import Buffer

__all__ = ["MemoryPlan", "plan_memory"]

ALIGN = 64


@dataclass
class MemoryPlan:
    """Where buffers lie: `offsets[buffer]` bytes from the start, below `fixed`, or in the slot number `slot_of[buffer]`, of `slots[number]` bytes."""

    fixed: int
    offsets: dict[Buffer, int]
    slots: list[Expr]
    slot_of: dict[Buffer, int]

    @property
    def total(self) -> Expr:
        """Bytes of the block."""
        return sum(self.slots, integer(self.fixed))


def _bytes(b: Buffer) -> Expr:
    n = b.extent() * b.itemsize
    if n.is_const:
        return integer((max(n.const, 1) + ALIGN - 1) // ALIGN * ALIGN)
    return (n + (ALIGN - 1)) // ALIGN * ALIGN


def plan_memory(lives: dict[Buffer, tuple[int, int]]) -> MemoryPlan:
    """`lives[buffer] = (first step, last step)`, inclusive."""
    size = {b: _bytes(b) for b in lives}
    offsets: dict[Buffer, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    top = 0
    for b in sorted((b for b, n in size.items() if n.is_const), key=lambda x: (-size[x].const, lives[x][0], x.name)):
        first, last = lives[b]
        n = size[b].const
        busy = sorted((o, e) for o, e, f, l in placed if not (l < first or last < f))
        at = 0
        for o, e in busy:
            if at + n <= o:
                break
            at = max(at, e)
        offsets[b] = at
        placed.append((at, at + n, first, last))
        top = max(top, at + n)
    slots: list[Expr] = []
    slot_of: dict[Buffer, int] = {}
    until: list[int] = []  # the last step that uses a slot
    for b in sorted((b for b in lives if b not in offsets), key=lambda x: lives[x][0]):
        first, last = lives[b]
        k = next((k for k, n in enumerate(slots) if n is size[b] and until[k] < first), len(slots))
        if k == len(slots):
            slots.append(size[b])
            until.append(last)
        until[k], slot_of[b] = last, k
    return MemoryPlan(top, offsets, slots, slot_of)
