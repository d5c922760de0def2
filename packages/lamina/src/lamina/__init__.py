"""lamina: a compiler for unmodified PyTorch programs.

    import lamina
    fast = lamina.compile(model)          # or @lamina.compile on a function

The stages below (lamina_dynamo, lamina_aotgrad, lamina_inductor) are imported when something is compiled, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamina_dynshape.support.counters import counters

from . import exc
from .api import compile, reset
from .backends import list_backends, lookup_backend, register_backend
from .module import CompiledModule
from .settings import config

if TYPE_CHECKING:
    from lamina_dynamo import (
        allow_in_graph,
        disable,
        explain,
        graph_break,
        is_compiling,
        mark_dynamic,
        mark_static,
        mark_unbacked,
        maybe_mark_dynamic,
    )

__version__ = "0.1.0"

__all__ = [
    "CompiledModule",
    "allow_in_graph",
    "compile",
    "config",
    "counters",
    "disable",
    "exc",
    "explain",
    "graph_break",
    "is_compiling",
    "list_backends",
    "lookup_backend",
    "mark_dynamic",
    "mark_static",
    "mark_unbacked",
    "maybe_mark_dynamic",
    "register_backend",
    "reset",
]

_FROM_DYNAMO = frozenset({"allow_in_graph", "disable", "explain", "graph_break", "is_compiling", "mark_dynamic", "mark_static", "mark_unbacked", "maybe_mark_dynamic"})


def __getattr__(name: str) -> Any:
    """The names of dynamo, imported on first use."""
    if name not in _FROM_DYNAMO:
        raise AttributeError(f"module 'lamina' has no attribute {name!r}")
    import lamina_dynamo

    value = getattr(lamina_dynamo, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
