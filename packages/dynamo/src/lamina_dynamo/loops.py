"""Loops whose number of turns changes from call to call: Python runs them, and their body is captured as a graph of its own.

Between: `range` of a symbolic length and iteration over a symbolic dimension -> a graph break at the loop's head; lists that such a loop fills.
How:     unrolling would make the length constant, and every other length would be compiled again. The resume function of the body is captured
         once, whatever the turn. A list that it appends to has another length at each turn: it stays the outside object, of which nothing is
         known; `append` is replayed, and what else is done with it is done by Python, between two graphs.
Keeps:   a frame that cannot break at its loop is captured again with the loop unrolled, as under `fullgraph`: the length is then constant, by a guard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CellType
from typing import Any

import torch
from lamina_dynshape import FakeTensor, expr_of

from .control import ReadsList, unsupported
from .source import CellSource, ConstantSource, LocalSource

__all__ = ["CODE", "SymbolicRange", "append", "grows", "Seen", "note_break", "range_of_loop", "refuse_growing", "refuse_steps", "refuse_unrolling", "symbolic_dims", "was_symbolic"]

CODE = "symbolic-loop"
_GROWS = -1


class SymbolicRange:
    """`iter(range(...))` of a length that only later calls know. It is made where a loop takes it at once, so that nothing else ever sees it."""

    __slots__ = ("arguments",)

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments

    def __iter__(self) -> SymbolicRange:
        return self

    def __next__(self) -> Any:
        _break()


def _break(saw: str = "") -> Any:
    unsupported("symbolic-loop", "a loop over a length that changes", saw=saw)


def refuse_steps(cap: Any, n: Any, saw: str) -> None:
    """A call of PyTorch's that is a loop over `n` steps inside: a recurrent layer, a scan."""
    if _is_symbolic(n) and _may_break(cap):
        _break(saw)


def range_of_loop(f: Any, args: Any) -> SymbolicRange | None:
    """What stands for `range(*args)`, called by the frame's instruction before `pc`; None for an ordinary range."""
    if not any(map(_is_symbolic, args)) or not _heads_loop(f, f.pc) or not _may_break(f.cap) or not 1 <= len(args) <= 3:
        return None
    if not all(type(a) in (int, torch.SymInt) for a in args) or len(args) == 3 and type(args[2]) is not int or args[2:] == [0]:
        return None
    return SymbolicRange(tuple(args))


def refuse_unrolling(f: Any, v: Any) -> None:
    """At GET_ITER: the rows of a tensor are no loop to unroll where their number changes."""
    if isinstance(v, torch.Tensor) and _heads_loop(f, f.pc - 1) and _may_break(f.cap) and not f.cap.recorder.is_overridden(v) and v.dim() and _is_symbolic(v.shape[0]):
        _break()


def _heads_loop(f: Any, at: int) -> bool:
    """Whether the instructions from `at` on begin a `for` statement."""
    return [ins.op for ins in f.program.instructions[at : at + 2]] == ["GET_ITER", "FOR_ITER"]


def _may_break(cap: Any) -> bool:
    return not cap.unroll and not cap.options.fullgraph and cap.recorder.scope is None


def _is_symbolic(v: Any) -> bool:
    return type(v) is torch.SymInt and bool(expr_of(v).free_symbols)


# ---- what is known of locals from one resume function to another -----------------------------------------------------------
@dataclass
class Seen:
    """What the breaks of one code told of its local variables."""

    loop: bool = False  # it broke at the head of a loop
    lengths: dict[str, int] = field(default_factory=dict)  # of lists that its resume functions met around a loop, or _GROWS
    symbolic: set[str] = field(default_factory=set)  # integers that came from symbolic sizes
    sizes: dict[str, set[int]] = field(default_factory=dict)  # symbolic dimensions of tensors


def note_break(options: Any, code: Any, at_loop: bool, values: Iterable[tuple[str, Any]]) -> None:
    """A frame of this code breaks, with these values of its local variables and of the numbers that came in them."""
    from .lift import _contents

    seen = options.seen.get(code) or options.seen.put(code, Seen())
    seen.loop |= at_loop
    for name, held in values:
        v = _contents(held) if type(held) is CellType else held
        if _is_symbolic(v):
            seen.symbolic.add(name)
        elif isinstance(v, FakeTensor):
            seen.sizes.setdefault(name, set()).update(d for d, n in enumerate(v.sizes) if type(n) is not int)


def _seen(cap: Any, source: Any) -> Seen | None:
    """What is known of a local variable of a resume function."""
    from .resume import origin_of

    if type(source) not in (LocalSource, CellSource) or not cap.options.seen:
        return None
    origin = origin_of(cap.root_function.__code__)
    return cap.options.seen.get(origin.code) if origin.shift else None


def symbolic_dims(cap: Any, source: Any) -> set[int]:
    """Dimensions of a tensor in a local variable that were symbolic where the frame broke."""
    seen = _seen(cap, source)
    return set() if seen is None else seen.sizes.get(_variable(source), set())


def _variable(source: Any) -> str:
    return source.local if type(source) is LocalSource else source.cell


def was_symbolic(cap: Any, source: Any) -> bool:
    """Whether a local variable held a symbolic integer where the frame broke."""
    seen = _seen(cap, source)
    return seen is not None and _variable(source) in seen.symbolic


def grows(cap: Any, v: list[Any], source: Any) -> bool:
    """Whether nothing need be known of a list from outside: it was seen to get longer and is only appended to, or it holds tensors, in a local variable,
    and was seen to have different lengths by the resume functions around a loop. Notes its length.
    """
    if type(source) not in (LocalSource, ConstantSource) and cap.policy.only_grows(source.name(), v):
        cap.log_of[id(v)] = source.name()
        return True
    seen = _seen(cap, source)
    if seen is None or not seen.loop or type(source) is not LocalSource or not all(isinstance(x, torch.Tensor) for x in v):
        return False
    if seen.lengths.setdefault(source.local, len(v)) != len(v):
        seen.lengths[source.local] = _GROWS
    return seen.lengths[source.local] == _GROWS


def append(cap: Any, fn: Any, args: Any, kwargs: Any) -> bool:
    """Whether `fn(*args)` is an `append` to a growing list, which is done by the replacement code."""
    owner = getattr(fn, "__self__", None)
    if id(owner) not in cap.growing or fn.__name__ != "append" or len(args) != 1 or kwargs:
        return False
    cap.appended.append((owner, args[0]))
    return True


def refuse_growing(cap: Any, values: Any, depth: int = 0) -> None:
    """Nothing may be computed from what a growing list holds now."""
    for v in values:
        if id(v) in cap.log_of:
            raise ReadsList(cap.log_of[id(v)])
        if id(v) in cap.growing:
            unsupported("growing-list", "a list that a loop fills", saw=f"{len(v)} items")
        if depth < 2 and type(v) in (list, tuple):
            refuse_growing(cap, v, depth + 1)
