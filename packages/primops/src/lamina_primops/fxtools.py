"""Small helpers around `torch.fx`: cheap node creation, dead code, structural equality.

`torch.fx.Graph.create_node` walks its arguments as a pytree to warn about symbolic leaves (25 us per node); `add_node` makes the same node in 3 us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch.fx._lazy_graph_module import _make_graph_module, _use_lazy_graph_module
from torch.fx.node import Node

__all__ = ["add_node", "all_arguments", "eliminate_dead", "graph_module", "has_effect", "is_random", "output_of", "placeholders", "target_name"]


def add_node(graph: fx.Graph, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Node:
    """Insert a node at the graph's insertion point. `name` must be an identifier; it is made unique."""
    namespace = graph._graph_namespace
    unique = namespace.create_name(name, None)
    try:
        node = Node(graph, unique, op, target, args, kwargs, None)
        namespace.associate_name_with_obj(unique, node)
        graph._insert(node)
        graph._find_nodes_lookup_table.insert(node)
        graph._len += 1
    except AttributeError:  # another release of torch.fx keeps other books: take the public, slower way
        return graph.create_node(op, target, args, kwargs, name)
    return node


def target_name(target: Any) -> str:
    """Identifier to name results after: `aten.add.Tensor` gives `add`, `operator.mul` gives `mul`."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return getattr(target, "__name__", "value").strip("_") or "value"


def all_arguments(value: Any) -> Iterator[Any]:
    """Leaves of a node's arguments: lists, tuples, dicts and slices are walked."""
    if isinstance(value, (list, tuple)):
        for v in value:
            yield from all_arguments(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from all_arguments(v)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def placeholders(graph: fx.Graph) -> list[Node]:
    """Inputs of the graph in order (they come first)."""
    found = []
    for n in graph.nodes:
        if n.op != "placeholder":
            if n.op != "get_attr":
                break
            continue
        found.append(n)
    return found


def output_of(graph: fx.Graph) -> Node:
    """The output node."""
    for n in reversed(graph.nodes):
        if n.op == "output":
            return n
    raise ValueError("the graph has no output")


_RANDOM: dict[Any, bool] = {}


def is_random(target: Any) -> bool:
    """Whether the op draws from a generator: it must stay, and in order."""
    known = _RANDOM.get(target)
    if known is None:
        tags = getattr(target, "tags", ())
        known = _RANDOM[target] = torch.Tag.nondeterministic_seeded in tags
    return known


@cache
def has_effect(target: Any) -> bool:
    """Whether a call does more than give its result: draws random numbers, writes, raises on bad values, or gives no result at all.

    Such a call stays although nothing uses it, runs exactly once, and equals no other call.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return False
    schema = target._schema
    return schema.is_mutable or not schema.returns or is_random(target) or "_assert" in schema.name


def _removable(node: Node) -> bool:
    return node.op in ("get_attr", "call_function") and not has_effect(node.target)


def eliminate_dead(graph: fx.Graph, removable: Callable[[Node], bool] = _removable) -> int:
    """Erase nodes without users, last first; random ops, assertions and mutations stay. Returns how many were erased."""
    erased = 0
    for node in reversed(graph.nodes):
        if not node.users and removable(node):
            graph.erase_node(node)
            erased += 1
    return erased


def graph_module(graph: fx.Graph, constants: Mapping[str, torch.Tensor], modules: Mapping[str, torch.nn.Module] = MappingProxyType({})) -> fx.GraphModule:
    """A module around `graph` with its constant tensors as buffers that no state dict holds, and the modules that it calls."""
    root = torch.nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    for name, value in constants.items():
        root.register_buffer(name, value, persistent=False)
    with _use_lazy_graph_module(True):  # Python text is made when somebody calls the module, not at each stage
        return _make_graph_module(root, graph)
