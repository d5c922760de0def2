"""FX dialects, the aten tracer, decompositions and the closed set of prims.

    trace(fn, fakes) -> aten graph;  lower(aten graph) -> prims graph;  verify(gm, dialect);  interpret(gm, *real inputs);  print_graph, parse_graph
"""

from lamina_primops.decompositions import DECOMPOSITIONS
from lamina_primops.dialects import VERSION
from lamina_primops.frames import Frame
from lamina_primops.interpreter import interpret
from lamina_primops.lowering import fallback_table, lower
from lamina_primops.mixture import compile_parts, split_by_support
from lamina_primops.prims import PRIMS, Prim
from lamina_primops.printer import parse_graph, print_graph
from lamina_primops.tracer import TraceMode, Tracer, trace
from lamina_primops.verify import verify

__version__ = "0.1.0"
__all__ = [
    "DECOMPOSITIONS", "PRIMS", "VERSION", "Frame", "Prim", "TraceMode", "Tracer", "compile_parts", "fallback_table", "interpret", "lower", "parse_graph",
    "print_graph", "split_by_support", "trace", "verify",
]  # fmt: skip
