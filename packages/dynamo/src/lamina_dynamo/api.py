"""What users of the package call beyond `optimize`: `capture`, `graph_break`, `is_compiling`, `allow_in_graph`.

Between: `lamina` (or a researcher) -> compiled callables and the records of their conversions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lamina_dynshape.support.errors import UserError

from .convert import Converted, listening
from .runtime import optimize

__all__ = ["allow_in_graph", "capture", "graph_break", "is_compiling"]

F = TypeVar("F", bound=Callable[..., Any])


def capture(fn: Any, *args: Any, **kwargs: Any) -> Converted:
    """One whole graph of `fn(*args, **kwargs)`: graph_module, guards, example_inputs. Raises `Unsupported` where the graph breaks."""
    found: list[Any] = []
    compiled = optimize(fn, lambda gm, ex: gm.forward, fullgraph=True)
    with listening(found.append):
        compiled(*args, **kwargs)
    made = [c for c in found if isinstance(c, Converted)]
    if not made:
        raise UserError("nothing was captured: the call raised, or has nothing to capture")
    return made[0]


def graph_break() -> None:
    """Break the graph here where it is captured; do nothing otherwise."""


def is_compiling() -> bool:
    """True while captured, False when run."""
    return False


def allow_in_graph(fn: F) -> F:
    """Record calls of `fn` as one node instead of looking inside: it must be a pure function of tensors."""
    if not callable(fn):
        raise UserError(f"allow_in_graph takes a function, got {type(fn).__name__}")
    from .rules.own_api import record_whole

    record_whole(fn)
    return fn
