"""The stages between a prims graph and the tables of a native graph: loops, schedule, C++.

Imported when something is compiled, not when a stored graph is loaded.
"""

from __future__ import annotations

import torch
from lamina_dynshape.support.logs import artifact, log
from lamina_dynshape.support.timers import stage
from lamina_dynshape.support.verifylevel import verify_level

from . import extern  # noqa: F401  (registers extern rules and passes)
from .codegen.entry import GraphSource, full_source, write_graph
from .compile import GraphData
from .ir.nodes import LoopGraph
from .ir.printer import print_loops
from .ir.verify import verify_loops
from .lowering.graph import lower_graph
from .lowering.registry import LAYOUT_PASSES
from .schedule.fuse import schedule

__all__ = ["build_loops", "generate"]


def generate(gm: torch.fx.GraphModule, name: str, own: int | None = None) -> GraphData:
    """The C++ of a prims graph and its tables. `own`: as `lower_graph` takes it."""
    with stage("loops"):
        graph = build_loops(gm, own)
    if level := verify_level():
        verify_loops(graph, level=level)
    artifact(f"{name}_loops.py", lambda: print_loops(graph))
    with stage("schedule"):
        units = schedule(graph)
    with stage("codegen"):
        source: GraphSource = write_graph(graph, units, drops_inputs=name == "graph_backward")
        text = full_source(source)
    artifact(f"{name}_output.cpp", lambda: text)
    log("output_code").debug("%s", text)
    return GraphData(name, text, source.in_kinds, source.out_kinds, source.callbacks, source.objects, source.libraries, len(source.kernel_names),
                     source.kernel_calls, [c["target"] for c in source.callbacks], source.constants)


def build_loops(gm: torch.fx.GraphModule, own: int | None = None) -> LoopGraph:
    """Layout passes and lowering."""
    for fn in LAYOUT_PASSES:
        fn(gm)
    return lower_graph(gm, own)
