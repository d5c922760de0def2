"""Bytecode capture into FX graphs, guards, graph breaks and code caches."""

from .api import allow_in_graph, capture, disable, graph_break, is_compiling, mark_dynamic, optimize, reset
from .control import Unsupported

__version__ = "0.1.0"
__all__ = ["Unsupported", "allow_in_graph", "capture", "disable", "graph_break", "is_compiling", "mark_dynamic", "optimize", "reset"]
