"""Control flow that depends on data, as one call of a `torch` graph: which parts run, and how often, is decided while it runs.

Between: capture, which records `torch.cond` and `torch.while_loop` as calls of `call_of(...)` -> backends, which may compile the parts.
A part is a callable from flat operands to a flat tuple: a graph in the dialect `torch` at first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

__all__ = ["Cond", "While", "call_of", "control_of", "with_parts"]

Part = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Cond:
    """`(predicate, operands, operands of the first part alone, of the second) -> results` of the part that the predicate picks."""

    parts: tuple[Part, Part]

    def run(self, predicate: Any, operands: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> tuple[Any, ...]:
        part, own = (self.parts[0], first) if bool(predicate) else (self.parts[1], second)
        return tuple(part(*operands, *own))


@dataclass(frozen=True, eq=False)
class While:
    """`(carried, operands of the condition alone, of the body) -> carried` after the body has run as long as the condition holds."""

    parts: tuple[Part, Part]  # condition, body

    def run(self, carried: Sequence[Any], of_condition: Sequence[Any], of_body: Sequence[Any]) -> tuple[Any, ...]:
        condition, body = self.parts
        now = tuple(x.clone() for x in carried)  # results are new tensors, also of no round at all
        while bool(condition(*now, *of_condition)[0]):
            now = tuple(body(*now, *of_body))
        return now


def call_of(control: Any) -> Any:
    """A plain function, which a graph can name."""

    def call(*args: Any) -> tuple[Any, ...]:
        return control.run(*args)

    call.__name__ = call.__qualname__ = type(control).__name__.lower()
    call.control = control  # type: ignore[attr-defined]
    return call


def control_of(node: fx.Node) -> Any:
    """What a node of control flow runs; None for other nodes."""
    return getattr(node.target, "control", None) if node.op == "call_function" else None


def with_parts(control: Any, parts: Sequence[Part]) -> Any:
    """The same with other callables for its parts."""
    return replace(control, parts=tuple(parts))
