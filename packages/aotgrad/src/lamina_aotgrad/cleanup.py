"""Simplify a functional ATen graph: aliases, round trips through views, copies onto fresh memory, common subexpressions, dead code.

Between: joint trace -> partition; also forward-only graphs.
Keeps:   values and their geometry (sizes, strides, dtype) of every remaining node; the order and number of random ops; outputs that
         own their memory: none is a view of an input, of a constant or of another output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lamina_primops.fxtools import add_node, eliminate_dead, has_effect
from torch import Tensor, fx

from .checkpoint import common_regions
from .views import is_dense, memory_root, same_geometry, view_parent

__all__ = ["clean", "copy_of", "is_transient", "mark_transient", "own_outputs"]

aten = torch.ops.aten
_MAX_VIEW_WALK = 8  # views between a node and the ancestor it may equal


def clean(gm: fx.GraphModule, num_forward: int | None = None) -> None:
    """Simplify in place. `num_forward`: the first outputs must own their memory (all by default; gradients need not)."""
    graph = gm.graph
    _tangents_first(graph)
    eliminate_dead(graph)
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.native_batch_norm_backward.default and node.args[7]:
            node.args = (*node.args[:3], None, None, *node.args[5:])  # batch statistics: the running ones are not read
        other = _simpler(node)
        if other is None:
            key = _key(node)
            other = seen.setdefault(key, node) if key is not None else node
        if other is not node and not (is_transient(other) and memory_root(node) is not memory_root(other)):
            if "checkpoint" in other.meta:
                other.meta["checkpoint"] = common_regions(other, node)
            node.replace_all_uses_with(other)
    eliminate_dead(graph)
    own_outputs(graph, num_forward)
    gm.recompile()


def mark_transient(graph: fx.Graph, num_primals: int) -> None:
    """Mark the inputs and buffers that eager keeps nothing of for the backward: the caller may write them before it, so neither do we.

    What eager keeps is what calls of the backward read, which were traced last, and what checkpointed regions start from.
    """
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    tangents = set(holders[num_primals:])
    kept: set[fx.Node] = set()
    in_backward = False
    for node in graph.nodes:
        in_backward = in_backward or node in tangents
        if (in_backward and node.op == "call_function") or "checkpoint" in node.meta:
            kept.update(map(memory_root, node.all_input_nodes))
    if not in_backward:
        return
    for node in holders[:num_primals]:
        if node.meta["role"] in ("input", "buffer") and node not in kept and isinstance(node.meta["val"], Tensor):
            node.meta["transient"] = True


def is_transient(node: fx.Node) -> bool:
    """Whether a value has the memory of an input that must not be kept."""
    return "transient" in memory_root(node).meta


def _tangents_first(graph: fx.Graph) -> None:
    """Placeholders that were added in the middle of the trace go behind the first ones."""
    last: fx.Node | None = None
    moved = False
    for node in list(graph.nodes):
        if node.op == "placeholder":
            if moved and last is not None:
                last.append(node)
            last = node
        else:
            moved = True


def _simpler(node: fx.Node) -> fx.Node | None:
    """A node that already has this value and geometry, or None."""
    rule = _RULES.get(node.target)
    if rule is not None and (found := rule(node)) is not None:
        return found
    return _same_view(node) if view_parent(node) is not None else None


def _same_view(node: fx.Node) -> fx.Node | None:
    """An ancestor through views of the same memory that has the same geometry, or the source of a scatter read back."""
    val = node.meta["val"]
    if not isinstance(val, Tensor):
        return None
    base = node
    for _ in range(_MAX_VIEW_WALK):
        parent = view_parent(base)
        if parent is None:
            return None
        base, call, _item = parent
        if same_geometry(base.meta["val"], val):
            return base
        scattered = _SCATTER_OF.get(call.target)
        if base.op == "call_function" and base.target is scattered and call is node:
            if _arguments(call)[1:] == _arguments(base)[2:] and _same_layout(base.args[1], node):
                return base.args[1]
    return None


_SCATTER_OF = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
    aten.diagonal.default: aten.diagonal_scatter.default,
}


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """All arguments of a call by the schema's order, defaults filled in."""
    given = list(node.args)
    for argument in node.target._schema.arguments[len(given):]:
        given.append(node.kwargs[argument.name] if argument.name in node.kwargs else argument.default_value)
    return tuple(given)


def _same_layout(a: fx.Node, b: fx.Node) -> bool:
    """Same sizes, strides and dtype; the memory may differ."""
    x, y = a.meta["val"], b.meta["val"]
    if not (x.dtype == y.dtype and x.dim() == y.dim() and x.fake_device == y.fake_device):
        return False
    return all(map(_same_number, x.shape, y.shape)) and all(map(_same_number, x.stride(), y.stride()))


def _same_number(a: Any, b: Any) -> bool:
    if type(a) is int and type(b) is int:
        return a == b
    return type(a) is not int and type(b) is not int and (a.node is b.node or str(a) == str(b))


def _copied(node: fx.Node) -> fx.Node | None:
    """A copy of a value with the same layout is that value: nothing is written in a functional graph."""
    source = node.args[0]
    return source if isinstance(source, fx.Node) and _same_layout(source, node) else None


def _overwritten(node: fx.Node) -> fx.Node | None:
    """`copy(target, source)` is `source` where layouts agree."""
    source = node.args[1]
    return source if isinstance(source, fx.Node) and _same_layout(source, node) else None


def _fully_scattered(node: fx.Node) -> fx.Node | None:
    """A scatter that replaces everything is its source."""
    source = node.args[1]
    return source if _same_layout(source, node) else None


_RULES: dict[Any, Callable[[fx.Node], fx.Node | None]] = {
    aten.clone.default: _copied,
    aten._to_copy.default: _copied,
    aten.contiguous.default: _copied,
    aten.copy.default: _overwritten,
    aten.slice_scatter.default: _fully_scattered,
    aten.as_strided_scatter.default: _fully_scattered,
}


def _key(node: fx.Node) -> Any:
    """What makes two calls the same, or None when each call counts."""
    if has_effect(node.target):
        return None
    try:
        key = (node.target, _frozen(node.args), _frozen(node.kwargs) if node.kwargs else ())
        hash(key)
    except TypeError:
        return None
    return key


def _frozen(value: Any) -> Any:
    """A hashable copy in which 1, 1.0, True, 0.0 and -0.0 differ."""
    kind = type(value)
    if kind is fx.Node or kind is int or value is None or kind is str:
        return value
    if isinstance(value, (list, tuple)):
        return tuple([_frozen(v) for v in value])
    if isinstance(value, dict):
        return tuple([(k, _frozen(v)) for k, v in value.items()])
    return (kind, repr(value)) if kind is float else (kind, value)


def copy_of(graph: fx.Graph, value: fx.Node, root: fx.Node) -> fx.Node:
    """A copy of a view with its strides: a clone packs what has gaps, so of that the root is cloned and the views are made again.

    The memory format says that the clone stays: a compiler may drop others.
    """
    source = value if is_dense(value.meta["val"]) or not is_dense(root.meta["val"]) else root
    copy = add_node(graph, "call_function", aten.clone.default, (source,), {"memory_format": torch.preserve_format}, "clone")
    copy.meta.update(val=source.meta["val"], stack=value.meta.get("stack", ()))
    copies = {source: copy}
    chain: list[fx.Node] = []
    while value is not source:
        base = value.args[0]
        chain.append(value)
        value = base
    for node in reversed(chain):
        copies[node] = graph.node_copy(node, lambda n: copies.get(n, n))
        copies[node].meta = dict(node.meta)
    return copies[chain[0]] if chain else copy


def own_outputs(graph: fx.Graph, num_forward: int | None = None) -> None:
    """Give each of the first outputs memory of its own: a clone where it would share with an input, a constant or an earlier output."""
    output = next(iter(reversed(graph.nodes)))
    values = list(output.args[0])
    taken: set[fx.Node] = set()
    changed = False
    for position, value in enumerate(values[:num_forward]):
        if not isinstance(value, fx.Node) or not isinstance(value.meta["val"], Tensor):
            continue
        root = memory_root(value)
        if root.op == "call_function" and root not in taken:
            taken.add(root)
            continue
        with graph.inserting_before(output):
            values[position] = copy_of(graph, value, root)
        changed = True
    if changed:
        output.args = (tuple(values),)
