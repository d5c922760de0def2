"""Guards on identity: what the program wrote must not be, at a later call, what it read by another path.

Between: a finished capture -> NO_ALIAS and NO_OVERLAP guards. (That one object was met twice is guarded where it is met: `Lifting._again`.)
Keeps:   objects of different types are apart by their types' guards, so one guard for each type that was written says it all,
         whatever the number of pairs. What is held by identity needs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from .guards import Guard, GuardKind
from .source import CellSource, ConstantSource, Source, cell_source

__all__ = ["apart_guards"]


def apart_guards(cap: Any) -> Iterator[Guard]:
    """What must stay pairwise different for the graph and its side effects to hold."""
    yield from _tensors(cap)
    yield from _distinct(cap.path_of(v) for v in cap.told_apart.values())
    for t in set(map(type, cap.written_containers())):
        yield from _distinct(cap.path_of(s) for s in cap.shadow_of.values() if type(s) is t)
    if cap.appended:
        yield from _distinct(cap.path_of(v) for v in [*cap.growing.values(), *cap.shadow_of.values()] if type(v) is list)
    for t in {type(obj) for key in cap.overlay if not cap.is_fake(obj := cap.keep[key])}:
        yield from _distinct(source for key, source in cap.sources.items() if type(cap.keep[key]) is t)
    yield from _distinct(_cells(cap))


def _distinct(sources: Iterable[Source | None], kind: GuardKind = GuardKind.NO_ALIAS) -> Iterator[Guard]:
    found = dict.fromkeys(s for s in sources if s is not None and type(s) is not ConstantSource)
    if len(found) > 1:
        first, *others = found
        yield Guard(first, kind, tuple(others))


def _tensors(cap: Any) -> Iterator[Guard]:
    """Inputs, where one is written or given an attribute. A backend sees to inputs that overlap at one call and not at the next
    (they are views as often as not), but takes parameters and buffers for tensors that stay where they are."""
    inputs = list(cap.inputs.values())
    written = [inp for inp in inputs if inp.storage_key in cap.recorder.mutated]
    if any(cap.is_fake(cap.keep[key]) for key in cap.overlay):
        yield from _distinct(inp.source for inp in inputs)
    elif written:
        yield from _distinct(inp.source for inp in inputs if inp.role == "input")
    if any(inp.role != "input" for inp in written):
        storages = [inp.real.untyped_storage()._cdata if inp.real.layout is torch.strided else None for inp in inputs]
        count = Counter(storages)  # what overlaps now, the backend saw
        yield from _distinct((inp.source for inp, s in zip(inputs, storages, strict=True) if count[s] == 1), GuardKind.NO_OVERLAP)


def _cells(cap: Any) -> Iterator[Source]:
    """Cells that come from outside, where one is written. Those of one function are apart by how functions are made."""
    sources = [source for _, outside, source, _ in cap.own_cells.values() if outside is not None]
    owners = {type(source) if type(source) is CellSource else source.base for source in sources}
    if len(owners) > 1 and cap.written_cells():
        yield from map(cell_source, sources)
