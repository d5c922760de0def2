"""What the tests of primops share: fakes, graphs written by hand, comparison with eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lamina_dynshape import FakeMode, ShapeEnv
from lamina_primops import interpret, lower, trace
from torch import fx

lamina, aten = torch.ops.lamina, torch.ops.aten


def fakes(*reals: Any, symbolic: bool = False) -> list[Any]:
    """Fakes of real tensors in one mode; `symbolic`: every size above 1 is a symbol."""
    mode = FakeMode(ShapeEnv() if symbolic else None)
    if not symbolic:
        return [mode.from_real(t) for t in reals]
    return [mode.from_real(t, source=f"x{i}", dynamic_dims=set(range(t.ndim))) for i, t in enumerate(reals)]


class Graph:
    """An FX graph written node by node, with metadata computed on fakes unless given."""

    def __init__(self, *reals: torch.Tensor) -> None:
        self.graph = fx.Graph()
        self.inputs = []
        self.mode = FakeMode()
        for i, t in enumerate(reals):
            n = self.graph.placeholder(f"x{i}")
            n.meta.update(val=self.mode.from_real(t), stack=(), source=f"L['x{i}']", role="input")
            self.inputs.append(n)

    def call(self, target: Any, *args: Any, val: Any = ..., **kwargs: Any) -> fx.Node:
        n = self.graph.call_function(target, args, kwargs)
        if val is ...:
            with self.mode:
                val = target(*fx.node.map_arg(args, lambda a: a.meta["val"]), **kwargs)
        n.meta.update(val=val, stack=())
        return n

    def module(self, *outputs: Any) -> fx.GraphModule:
        self.graph.output(tuple(outputs))
        return fx.GraphModule(torch.nn.Module(), self.graph)


def prims_of(gm: fx.GraphModule) -> list[str]:
    """Names of the calls of a graph in order: `add`, `aten.sort.stable`, `operator.mul`."""
    names = []
    for n in gm.graph.nodes:
        if n.op == "call_function":
            text = str(n.target)
            names.append(text.removeprefix("lamina.").removesuffix(".default") if text.startswith("lamina.") else text)
    return names


def same_as_eager(fn: Callable[..., Any], inputs: Sequence[torch.Tensor], *, symbolic: bool = False, **tolerance: Any) -> fx.GraphModule:
    """Trace, lower and interpret `fn`; compare with eager: values, dtypes, shapes, strides of the outputs. Returns the prims graph."""
    expected = torch.utils._pytree.tree_leaves(fn(*inputs))
    gm = trace(fn, fakes(*inputs, symbolic=symbolic))
    lowered = lower(gm)
    for g in (gm, lowered):
        got = interpret(g, *inputs)
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, **tolerance)
            assert all(s == t or d <= 1 for s, t, d in zip(a.stride(), b.stride(), a.shape, strict=True)) or not a.numel()
    return lowered
