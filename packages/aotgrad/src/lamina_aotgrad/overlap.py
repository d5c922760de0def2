"""Inputs that share memory while one of them is written: each such group becomes views of one synthetic base.

Between: the caller's tensors -> joint trace (functional views of a base see each other's writes) and runtime (makes the bases, and picks
the callable that was compiled for how a call's inputs overlap).
Keeps:   a base is a flat view of its members' storage, from the start of that (`as_strided` counts from there) to the last member's end;
         it is appended to the inputs, and written back once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported
from lamina_dynshape.support.logs import log
from torch import Tensor

from .signature import GraphSignature

__all__ = ["Group", "SharedWrite", "groups_of", "overlap_dispatch", "with_bases"]

Call = Callable[..., Sequence[Any]]
_MAX_VARIANTS = 8  # callables per graph


class SharedWrite(Unsupported):
    """A write to an input that shares memory with another one, in a trace that took them for separate. `written`: all written inputs."""

    def __init__(self, written: set[int], saw: str) -> None:
        super().__init__("write to an input that shares memory with another input", saw=saw, code="aliased_inputs")
        self.written = written


@dataclass(frozen=True, slots=True)
class Group:
    """Inputs `members` of one storage, with the offset of each in it, and the base's length (elements)."""

    members: tuple[int, ...]
    offsets: tuple[int, ...]
    length: int


def groups_of(tensors: Sequence[Any], key: Callable[[Tensor], Any], among: Sequence[int] | None = None) -> tuple[Group, ...]:
    """Groups of two and more inputs with the same storage `key`. Raises `Unsupported` where they cannot be views of one flat base."""
    by_storage: dict[Any, list[int]] = {}
    for i in range(len(tensors)) if among is None else among:
        if isinstance(tensors[i], Tensor):
            by_storage.setdefault(key(tensors[i]), []).append(i)
    return tuple(_group(members, [tensors[i] for i in members]) for members in by_storage.values() if len(members) > 1)


def _group(members: Sequence[int], tensors: Sequence[Tensor]) -> Group:
    numbers = [n for t in tensors for n in (*t.shape, *t.stride(), t.storage_offset())]
    if len({t.dtype for t in tensors}) > 1 or not all(type(n) is int for n in numbers):
        raise Unsupported("write to an input that shares memory with another input", saw="several dtypes or symbolic sizes", code="aliased_inputs")
    return Group(tuple(members), tuple(t.storage_offset() for t in tensors), max(t.storage_offset() + _span(t) for t in tensors))


def _span(t: Tensor) -> int:
    """Elements between a tensor's first and one behind its last."""
    return 0 if t.numel() == 0 else 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))


def with_bases(call: Call, groups: Sequence[Group]) -> Call:
    """`call`, compiled with the groups' bases appended to the inputs, as a callable of the inputs."""
    if not groups:
        return call
    firsts = [(g.members[0], g.length) for g in groups]
    members = [i for g in groups for i in g.members]

    def run(*args: Any) -> Sequence[Any]:
        torch._C._increment_version([args[i] for i in members])  # those made by `.data` do not count with the others
        return call(*args, *[args[i].detach().as_strided((length,), (1,), 0) for i, length in firsts])

    return run


def overlap_dispatch(
    first: Call, groups: tuple[Group, ...], signature: GraphSignature, compile_for: Callable[[tuple[Group, ...]], Call], eager: Call
) -> Call:
    """A callable that runs the variant compiled for how the inputs of a call overlap: `first` for `groups`, others when they come.

    Only overlaps with a written `input` matter, and those of `groups`: whoever captured the graph sees to it that parameters and buffers which
    were apart stay so. A way of overlapping that cannot be compiled runs `eager`.
    """
    count = len(signature.roles) - len(groups)
    inputs = [i for i, role in enumerate(signature.roles[:count]) if role == "input"]
    among = inputs if all(set(g.members) <= set(inputs) for g in groups) else None
    written = {m.input for m in signature.input_mutations if m.output is not None}
    written |= {i for k, g in enumerate(groups) if count + k in written for i in g.members}
    moving = sorted(written & set(inputs))
    pairs = [(i, j) for i in moving for j in inputs if i != j]
    if not pairs and not groups:
        return first
    is_alias = torch._C._is_alias_of
    storage = lambda t: t.untyped_storage()._cdata
    variants: dict[tuple[Group, ...], Call] = {groups: first}

    def variant(args: Sequence[Any]) -> Call:
        """The callable for this call's overlaps, compiled when it is the first of its kind."""
        try:
            found = groups_of(args, storage, among)
            written_groups = tuple(g for g in found if any(i in written for i in g.members))
            if written_groups not in variants:
                if len(variants) == _MAX_VARIANTS:
                    raise Unsupported("more ways in which written inputs share memory than are compiled", saw=str(len(variants)))
                variants[written_groups] = compile_for(written_groups)
            return variants[written_groups]
        except Unsupported as reason:
            log("aot").info("runs eagerly: %s", reason)
            counters["fallbacks"]["aot aliased_inputs"] += 1
            return eager

    def run(*args: Any) -> Sequence[Any]:
        for i, j in pairs:
            if isinstance(args[j], Tensor) and is_alias(args[i], args[j]):
                return variant(args)(*args)
        return (variant(args) if groups else first)(*args)

    return run
