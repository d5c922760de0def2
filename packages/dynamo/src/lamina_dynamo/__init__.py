"""Bytecode capture into FX graphs, guards, graph breaks and code caches."""

from typing import Any

from lamina_dynshape import mark_dynamic, mark_static, mark_unbacked, maybe_mark_dynamic

from .control import Unsupported

__version__ = "0.1.0"
__all__ = ["Unsupported", "allow_in_graph", "capture", "disable", "explain", "graph_break", "is_compiling", "mark_dynamic", "mark_static", "mark_unbacked", "maybe_mark_dynamic", "optimize", "reset"]

_WHERE = {"optimize": "runtime", "reset": "runtime", "disable": "eval_frame", "explain": "explain"}


def __getattr__(name: str) -> Any:
    """The rest at first use: it builds the native half, which an import must not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_WHERE.get(name, 'api')}"), name)
    globals()[name] = value
    return value
