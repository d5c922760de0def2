"""A mixture of backends: split a graph into the parts that one backend supports and the rest.

Between: an aten or prims graph and `supports(node)` -> a graph that calls one module per supported part, in the same dialect each.
Keeps:   the parts depend on each other in one direction only, random ops and checks stay in program order, and every part's results carry their `meta["val"]`.
Source:  layering of a dag by the number of changes of side on the longest path (longest-path layering, Healy and Nikolov 2013, section 13.3.2).

Why this is maximal: a supported node lies in part d + 1 only if some node of the rest stands on a path between it and part d. Putting any two parts
together would therefore close a cycle through the rest. It also makes as few parts as any acyclic split can have.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from .fxtools import add_node, graph_module, has_effect, output_of
from .interpreter import interpret

__all__ = ["compile_parts", "split_by_support"]

PREFIX = "part"


def split_by_support(gm: fx.GraphModule, supports: Callable[[fx.Node], bool]) -> fx.GraphModule:
    """`gm` as a graph whose `call_module` nodes `part0`, `part1`, ... hold what `supports` accepts; other nodes stay as they are.

    `supports` is asked once for each `call_function` node that makes a tensor; reading one result of several goes with the op that made them, and
    arithmetic on sizes stays outside, its results are inputs of the parts. Each part is a graph of the dialect of `gm`, its placeholders and outputs
    with their metadata; an empty part is never made. To use several backends, split the result again with the next one's `supports`.
    """
    layer, inside = _layers(gm.graph, supports)
    return _Splitter(gm, layer, inside).run()


def compile_parts(split: fx.GraphModule, compiler: Callable[[fx.GraphModule], Callable[..., Sequence[Any]]]) -> Callable[..., tuple[Any, ...]]:
    """A callable on the inputs of `split` that runs each part by what `compiler(part)` returns, and the rest op by op in eager PyTorch.

    Compiled parts take their flat inputs (tensors in any layout, sizes as ints) and return a flat sequence; they may return tensors in any layout:
    where a layout is promised, the reference interpreter makes it.
    """
    compiled = {name: _Compiled(compiler(part)) for name, part in _parts(split)}
    whole = graph_module(split.graph, dict(split.named_buffers(recurse=False)), compiled)
    return lambda *args: interpret(whole, *args)


class _Compiled(torch.nn.Module):
    def __init__(self, call: Callable[..., Sequence[Any]]) -> None:
        super().__init__()
        self.forward = call  # type: ignore[method-assign]


def _parts(split: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    for node in split.graph.nodes:
        if node.op == "call_module":
            yield str(node.target), split.get_submodule(node.target)  # type: ignore[misc]


def _layers(graph: fx.Graph, supports: Callable[[fx.Node], bool]) -> tuple[dict[fx.Node, int], set[fx.Node]]:
    """The layer of each node, and the supported nodes. Along every edge the layer never falls, and it rises from the rest into a part behind a part.

    -1: before any part. A supported node of layer d belongs to part d; a node of the rest of layer d runs behind part d.
    """
    layer: dict[fx.Node, int] = {}
    inside: set[fx.Node] = set()
    last_ordered: fx.Node | None = None
    for node in graph.nodes:
        if _is_supported(node, inside, supports):
            inside.add(node)
        before = list(node.all_input_nodes)
        if has_effect(node.target):  # draws random numbers, may raise: keeps its place among its like
            before += [last_ordered] if last_ordered is not None else []
            last_ordered = node
        if node in inside:
            layer[node] = max([0, *(layer[n] + (n not in inside) for n in before)])
        else:
            layer[node] = max([-1, *(layer[n] for n in before)])
    return layer, inside


def _is_supported(node: fx.Node, inside: set[fx.Node], supports: Callable[[fx.Node], bool]) -> bool:
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return node.args[0] in inside
    return isinstance(node.target, torch._ops.OpOverload) and _makes_tensors(node.meta.get("val")) and supports(node)


def _makes_tensors(val: Any) -> bool:
    return any(isinstance(v, torch.Tensor) for v in (val if isinstance(val, (tuple, list)) else (val,)))


class _Splitter:
    """Writes the outer graph and the parts, layer by layer."""

    def __init__(self, gm: fx.GraphModule, layer: dict[fx.Node, int], inside: set[fx.Node]) -> None:
        self.gm, self.layer, self.inside = gm, layer, inside
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.modules: dict[str, fx.GraphModule] = {}
        self.buffers: dict[str, Any] = {}

    def run(self) -> fx.GraphModule:
        output = output_of(self.gm.graph)
        last = max(self.layer.values())
        rest: dict[int, list[fx.Node]] = {d: [] for d in range(-1, last + 1)}
        members: dict[int, list[fx.Node]] = {d: [] for d in range(-1, last + 1)}
        for node in self.gm.graph.nodes:
            if node is not output:
                (members if node in self.inside else rest)[self.layer[node]].append(node)
        for d in range(-1, last + 1):
            if members[d]:
                self._call_part(f"{PREFIX}{d}", members[d])
            for node in rest[d]:
                self._copy_outside(node)
        self.graph.node_copy(output, self.env.__getitem__)
        split = graph_module(self.graph, self.buffers, self.modules)
        split.meta.update(self.gm.meta)
        return split

    def _copy_outside(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.buffers[str(node.target)] = getattr(self.gm, str(node.target))
        elif node.op == "call_module":
            self.modules[str(node.target)] = self.gm.get_submodule(str(node.target))  # type: ignore[assignment]
        self.env[node] = self.graph.node_copy(node, self.env.__getitem__)

    def _call_part(self, name: str, nodes: list[fx.Node]) -> None:
        members = set(nodes)
        inputs = list(dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in members))
        # a tuple of results does not cross the border: each of them is read inside
        outputs = [n for n in nodes if isinstance(n.meta.get("val"), torch.Tensor) and any(u not in members for u in n.users)]
        while name in self.modules or hasattr(self.gm, name):
            name += "_"
        self.modules[name] = _part_graph(inputs, nodes, outputs)
        call = add_node(self.graph, "call_module", name, tuple(self.env[n] for n in inputs), {}, name)
        call.meta = {"val": tuple(n.meta["val"] for n in outputs), "stack": nodes[0].meta.get("stack", ())}
        for i, n in enumerate(outputs):
            read = self.env[n] = add_node(self.graph, "call_function", operator.getitem, (call, i), {}, n.name)
            read.meta = dict(n.meta)


def _part_graph(inputs: list[fx.Node], nodes: list[fx.Node], outputs: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for n in inputs:
        env[n] = add_node(graph, "placeholder", n.name, (), {}, n.name)
        env[n].meta = {key: n.meta[key] for key in ("val", "stack") if key in n.meta}
    for n in nodes:
        env[n] = graph.node_copy(n, env.__getitem__)
    graph.output(tuple(env[n] for n in outputs))
    return graph_module(graph, {})
