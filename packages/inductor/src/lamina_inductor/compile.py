"""`compile_graph`: an ATen graph in, a native callable out.

Stages: graph cache -> layouts -> lower to prims -> `driver` (loop graph, schedule, C++) -> shared object -> entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape.support.errors import LaminaError
from lamina_dynshape.support.logs import log
from lamina_dynshape.support.memory import collect_new
from lamina_dynshape.support.timers import stage
from lamina_dynshape.support.toolchain import compile_shared

from . import cache
from .config import config
from .runtime.fallbacks import make_callbacks
from .runtime.load import load_entry
from .unbacked import compile_around, makes_unbacked

__all__ = ["CompiledGraph", "GraphData", "compile_graph", "compile_prims", "prepare_graph"]

# No contraction into fused multiply-adds: a value that two kernels, or two loops of one, both compute must come out the same to the last bit, since
# programs compare them (x == x.amax(), argmax, the gradient of amax). Polynomials of the prelude ask for theirs.
FLAGS = ("-O3", "-ffp-contract=off", "-std=c++17", "-march=native", "-fopenmp", "-fwrapv", "-fno-math-errno", "-fno-trapping-math", "-fno-semantic-interposition",
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
    decided: list[Any] = field(default_factory=list)  # conditions on sizes that the code relies upon, beyond those known before


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
    def boxed(self) -> Callable[[list[Any]], tuple]:
        """A call that takes its arguments in one list, empties it, and drops each tensor after its last use."""
        return self.entry.boxed  # type: ignore[attr-defined]

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
                  options: Any = None) -> Any:
    """Compile an ATen-dialect graph, or load what an earlier process compiled from an equal one."""
    return prepare_graph(gm, fake_inputs, kind=kind, signature=signature, options=options)()


def prepare_graph(gm: torch.fx.GraphModule, fake_inputs: Sequence[Any] = (), *, kind: str = "inference", signature: Any = None,
                  options: Any = None) -> Callable[[], Any]:
    """The Python half of `compile_graph`, done now. The function returned runs the C++ compiler and loads, in any thread."""
    if makes_unbacked(gm):
        parts = compile_around(gm, lambda part: compile_graph(part, kind=kind))
        return lambda: parts
    own = getattr(signature, "num_outputs", None) if kind == "forward" else None  # what a forward saves, the program does not see
    key, env = None, cache.environment(gm)
    known = len(env.taken) if env is not None else 0
    if config.cache:
        with stage("graph cache"):
            key = cache.graph_key(gm, kind, own, config)
            found = cache.load(key)
        if found is not None and (not found.decided or env.hold(found.decided)):
            try:
                stored = CompiledGraph(found)
                return lambda: stored
            except (OSError, ImportError, LaminaError) as error:  # such as a library that was deleted
                log("cache").info("stored graph does not load: %s", error)
    from lamina_primops import lower

    from .driver import generate
    from .extern import prefetch
    from .layout import assign
    prefetch(gm)
    with stage("lower"):
        if kind == "inference":  # training graphs are cut from a joint graph that has its layouts already
            assign(gm)
        prims = lower(gm, to="prims")
    data = generate(prims, f"graph_{kind}", own)
    data.decided = list(env.taken[known:]) if env is not None else []
    del prims
    collect_new()

    def build() -> CompiledGraph:
        compiled = CompiledGraph(data)
        if key is not None:
            cache.store(key, data)
        return compiled

    return build


def compile_prims(gm: torch.fx.GraphModule, *, kind: str = "inference", name: str | None = None) -> CompiledGraph:
    """Compile a prims-dialect graph."""
    from .driver import generate
    return CompiledGraph(generate(gm, name or f"graph_{kind}"))


def build_loops(gm: torch.fx.GraphModule) -> Any:
    """The loop graph of a prims graph."""
    from .driver import build_loops as build
    return build(gm)
