"""Graphs with control flow that depends on data, for backends of straight graphs: cut there, and compile what lies between, and the parts.

Between: a `torch` graph with calls of `lamina_primops.control_flow` -> compiled segments, run in order with the decisions in Python.
Keeps:   program order; each segment is a `torch` graph with its sizes first; changes of PyTorch's state (grad mode, autocast) are steps of
         their own, and a segment is compiled under the state that it runs in.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lamina_dynshape.support.errors import Unsupported
from lamina_primops.control_flow import control_of, with_parts

__all__ = ["by_parts"]

Compile = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]


def by_parts(gm: fx.GraphModule, example_inputs: Sequence[Any], compile_part: Compile) -> Callable[..., tuple[Any, ...]]:
    """What `compile_part(gm, example_inputs)` gives, or the same of each segment and part, at fakes, where there is control flow."""
    if not any(control_of(n) for n in gm.graph.nodes):
        return compile_part(gm, example_inputs)
    holders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    sizes = [n for n in holders if n.meta.get("role") == "size"]
    with _state_kept():
        steps = [_step(gm, item, sizes, compile_part) for item in _cut(gm.graph)]
    output = next(n for n in gm.graph.nodes if n.op == "output")

    def call(*args: Any) -> tuple[Any, ...]:
        env = dict(zip(holders, args, strict=True))
        for step in steps:
            env.update(zip(step.gives, step.call(*fx.node.map_arg(step.takes, env.__getitem__)), strict=True))
        return tuple(fx.node.map_arg(output.args[0], env.__getitem__))

    return call


@dataclass(frozen=True)
class _Step:
    """`call(*takes)` gives the values of `gives`."""

    call: Callable[..., Sequence[Any]]
    takes: tuple[Any, ...]
    gives: tuple[fx.Node, ...]


def _is_state(node: fx.Node) -> bool:
    """Calls that set PyTorch's state give no value."""
    return node.op == "call_function" and node.meta.get("val") is None and getattr(node.target, "__name__", "") in _SETTERS


def _is_result(node: fx.Node) -> bool:
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and control_of(node.args[0]) is not None


_SETTERS = frozenset({"_set_grad_enabled", "set_autocast_enabled", "set_autocast_dtype", "autocast_increment_nesting", "autocast_decrement_nesting", "set_autocast_cache_enabled", "clear_autocast_cache"})


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """Grad mode as before; what else the steps set while compiling they set back themselves, as the program does."""
    before = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch._C._set_grad_enabled(before)


def _cut(graph: fx.Graph) -> Iterator[Any]:
    """Nodes of control flow and of state, one by one, and the lists of nodes between them."""
    run: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if "checkpoint" in node.meta:
            raise Unsupported("control flow next to checkpointed calls", saw=str(node))
        if control_of(node) is None and not _is_state(node) and not _is_result(node):
            run.append(node)
            continue
        if run:
            yield run
        run = []
        yield node
    if run:
        yield run


def _step(gm: fx.GraphModule, item: Any, sizes: list[fx.Node], compile_part: Compile) -> _Step:
    if isinstance(item, list):
        return _segment(item, sizes, compile_part)
    if _is_result(item):
        return _Step(lambda *args: (item.target(*args),), tuple(item.args), (item,))
    control = control_of(item)
    if control is None:
        item.target(*item.args, **item.kwargs)  # what is compiled next runs in this state
        return _Step(lambda *args: (item.target(*args), ())[1], tuple(item.args), ())
    parts = [_part(part, sizes, compile_part) for part in control.parts]

    def call(*args: Any) -> Sequence[Any]:
        now = args[: len(sizes)]
        ready = with_parts(control, [lambda *operands, part=part: part(*now, *operands) for part in parts])
        return (ready.run(*args[len(sizes) :]),)

    return _Step(call, (*sizes, *item.args), (item,))


def _part(part: fx.GraphModule, sizes: list[fx.Node], compile_part: Compile) -> Callable[..., Any]:
    """A branch or body as a graph that takes the sizes of the whole graph first."""
    graph = fx.Graph()
    env = {n: graph.node_copy(n) for n in sizes}
    for node in part.graph.nodes:
        env[node] = graph.node_copy(node, env.__getitem__)
    fixed = {n for n in part.graph.nodes if n.op == "placeholder" and not isinstance(n.meta["val"], torch.Tensor)}
    whole = _module(graph, [env[n] for n in fixed])
    compiled = by_parts(whole, _fakes(whole), compile_part)
    at = [i + len(sizes) for i, n in enumerate(n for n in part.graph.nodes if n.op == "placeholder") if n in fixed]
    return lambda *args: compiled(*[a for i, a in enumerate(args) if i not in at])


def _module(graph: fx.Graph, unused: Sequence[fx.Node] = ()) -> fx.GraphModule:
    for node in unused:  # operands that are no tensors were constants of the capture
        graph.erase_node(node)
    return fx.GraphModule(torch.nn.Module(), graph)


def _segment(nodes: list[fx.Node], sizes: list[fx.Node], compile_part: Compile) -> _Step:
    inside = set(nodes)
    takes = [*sizes, *dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in inside and n not in sizes)]
    gives = [n for n in nodes if any(user not in inside for user in n.users)]
    for n in [*takes[len(sizes) :], *gives]:
        if not isinstance(n.meta.get("val"), torch.Tensor):
            raise Unsupported("a value that is no tensor on both sides of control flow", saw=str(n))
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for n in takes:
        env[n] = graph.placeholder(n.name)
        env[n].meta.update({"source": n.name, "role": "input", **n.meta, "stack": ()})
    for n in nodes:
        env[n] = graph.node_copy(n, env.__getitem__)
    graph.output(tuple(env[n] for n in gives)).meta.update(val=tuple(n.meta["val"] for n in gives), stack=())
    segment = _module(graph)
    return _Step(compile_part(segment, _fakes(segment)), tuple(takes), tuple(gives))


def _fakes(gm: fx.GraphModule) -> list[Any]:
    return [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
