"""`compile_graph`: an ATen graph in, a native callable out.

The driver of the stages: lower to prims -> layout passes -> loop graph -> schedule -> C++ -> shared object -> entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape.support.logs import artifact, log
from lamina_dynshape.support.timers import stage
from lamina_dynshape.support.toolchain import compile_shared
from lamina_dynshape.support.verifylevel import verify_level

from .codegen.entry import GraphSource, full_source, write_graph
from .ir.nodes import LoopGraph
from .layout import assign
from .ir.printer import print_loops
from .ir.verify import verify_loops
from .lowering.registry import LAYOUT_PASSES
from .runtime.fallbacks import make_callbacks
from .runtime.load import load_entry

__all__ = ["CompiledGraph", "GraphData", "compile_graph", "compile_prims"]

FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp", "-fwrapv", "-fno-math-errno", "-fno-trapping-math", "-fno-semantic-interposition",
         "-mprefer-vector-width=512", "-fno-exceptions", "-fno-rtti", "-w")


@dataclass
class GraphData:
    """Everything that is needed to load a compiled graph in another process: plain data, picklable."""

    name: str
    source: str
    in_kinds: str
    out_kinds: str
    callbacks: list[dict[str, Any]]
    objects: list[Any]
    libraries: list[str]
    kernels: int
    kernel_calls: int
    fallbacks: list[str]
    constants: list[torch.Tensor] = field(default_factory=list)


class CompiledGraph:
    """Callable on flat positional arguments; returns a tuple. `entry` is the native object behind it."""

    def __init__(self, data: GraphData) -> None:
        self.data = data
        with stage("cxx"):
            libraries = tuple(data.libraries)
            path = compile_shared(data.source, name=data.name, flags=(*FLAGS, *libraries))
        self.entry: Callable[..., tuple] = load_entry(data.name, str(path), data.in_kinds, data.out_kinds, tuple(data.constants),
                                                      tuple(data.objects), make_callbacks(data.callbacks))

    def __call__(self, *args: Any) -> tuple:
        return self.entry(*args)

    @property
    def source(self) -> str:
        return self.data.source

    @property
    def kernels(self) -> int:
        """Distinct loop kernels."""
        return self.data.kernels

    @property
    def fallbacks(self) -> list[str]:
        return self.data.fallbacks

    def __reduce__(self) -> Any:
        return CompiledGraph, (self.data,)


def compile_graph(gm: torch.fx.GraphModule, fake_inputs: Sequence[Any] = (), *, kind: str = "inference", signature: Any = None,
                  options: Any = None) -> CompiledGraph:
    """Compile an ATen-dialect graph."""
    from lamina_primops import lower
    with stage("lower"):
        if kind == "inference":  # training graphs are cut from a joint graph that has its layouts already
            assign(gm)
        prims = lower(gm, to="prims")
    return compile_prims(prims, kind=kind)


def compile_prims(gm: torch.fx.GraphModule, *, kind: str = "inference", name: str | None = None) -> CompiledGraph:
    """Compile a prims-dialect graph."""
    return CompiledGraph(generate(gm, name or f"graph_{kind}"))


def generate(gm: torch.fx.GraphModule, name: str) -> GraphData:
    """The C++ of a prims graph and its tables."""
    with stage("loops"):
        graph = build_loops(gm)
    if level := verify_level():
        verify_loops(graph, level=level)
    artifact(f"{name}_loops.py", lambda: print_loops(graph))
    with stage("schedule"):
        from .schedule.fuse import schedule
        units = schedule(graph)
    with stage("codegen"):
        source: GraphSource = write_graph(graph, units)
        text = full_source(source)
    artifact(f"{name}_output.cpp", lambda: text)
    log("output_code").debug("%s", text)
    return GraphData(name, text, source.in_kinds, source.out_kinds, source.callbacks, source.objects, source.libraries, len(source.kernel_names),
                     source.kernel_calls, [c["target"] for c in source.callbacks], source.constants)


def build_loops(gm: torch.fx.GraphModule) -> LoopGraph:
    """Layout passes and lowering."""
    from .lowering.graph import lower_graph
    from . import extern  # noqa: F401, I001  (registers extern rules and passes)
    for fn in LAYOUT_PASSES:
        fn(gm)
    return lower_graph(gm)


