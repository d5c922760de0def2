"""Cut a joint graph in two once it is known what to keep: which nodes go where, and the two graphs.

Between: the choice of saved values (`partition`) -> forward and backward ATen graphs.
Keeps:   forward(inputs) -> (outputs, saved values that are neither inputs nor outputs); backward(saved values, symbolic numbers last,
         then tangents and inputs that it writes) -> gradients, new values of those inputs. Random ops and effects run once, in the pass that traced them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape import expr_of
from lamina_primops.fxtools import add_node, graph_module, has_effect, target_name
from torch import SymInt, Tensor, fx

from .checkpoint import interior
from .cleanup import copy_of
from .joint import Joint
from .signature import SavedSource
from .views import memory_root

__all__ = ["Split", "bytes_of", "emit", "saved_bytes", "split_joint"]

aten = torch.ops.aten


def bytes_of(node: fx.Node) -> int:
    """Bytes of the elements of a node's tensor; 8 for a number. Symbolic sizes count by their hints or an estimate."""
    val = node.meta["val"]
    if not isinstance(val, Tensor):
        return 8
    return math.prod(map(_estimate, val.shape)) * val.dtype.itemsize


def _estimate(size: Any) -> int:
    if type(size) is int:
        return size
    from lamina_dynshape import estimate_of

    return estimate_of(size)


def saved_bytes(nodes: Iterable[fx.Node], split: Split) -> int:
    """Bytes that keeping `nodes` costs: inputs are alive anyway unless they are written, views of one storage count once."""
    roots = {memory_root(n): bytes_of(n) for n in nodes if isinstance(n.meta["val"], Tensor)}
    return sum(size for root, size in roots.items() if root.op == "call_function" or root in split.written)


@dataclass(slots=True)
class Split:
    """Which nodes of a joint graph belong where."""

    primals: list[fx.Node]
    tangents: list[fx.Node]
    outputs: list[Any]
    gradients: list[Any]
    forward: set[fx.Node]       # what the forward's outputs need
    backward: set[fx.Node]      # what depends on a tangent
    written: set[fx.Node]       # inputs that the program writes or reshapes: kept as copies
    order: dict[fx.Node, int]
    interior: set[fx.Node] = field(default_factory=set)  # values of checkpointed regions: never kept


def split_joint(joint: Joint) -> Split:
    """Sort the nodes of a joint graph; those in neither set are forward values that only the backward reads."""
    nodes = list(joint.graph_module.graph.nodes)
    holders = [n for n in nodes if n.op == "placeholder"]
    primals, tangents = holders[: joint.num_primals], holders[joint.num_primals :]
    flat = nodes[-1].args[0]
    outputs, gradients = flat[: joint.signature.num_outputs], flat[joint.signature.num_outputs :]
    backward = set(tangents)
    forward = {n for n in outputs if isinstance(n, fx.Node)}
    for node in nodes:
        if node.op != "call_function":
            continue
        if any(a in backward for a in node.all_input_nodes):
            backward.add(node)
        elif has_effect(node.target):
            forward.add(node)
    for node in reversed(nodes):
        if node in forward:
            forward.update(node.all_input_nodes)
    written = {primals[m.input] for m in joint.signature.input_mutations}
    split = Split(primals, tangents, list(outputs), list(gradients), forward, backward, written, {n: i for i, n in enumerate(nodes)})
    split.interior = interior(split)
    return split


class _Writer:
    """Copies parts of one graph into a new one, arguments before uses."""

    def __init__(self, constants: fx.GraphModule) -> None:
        self.graph = fx.Graph()
        self._module = constants
        self._constants: dict[str, Tensor] = {}
        self._copies: dict[fx.Node, fx.Node] = {}

    def placeholder(self, node: fx.Node, name: str | None = None) -> None:
        """`node` becomes an input."""
        name = name or node.name
        copy = add_node(self.graph, "placeholder", name, (), {}, name)
        copy.meta = dict(node.meta)
        self._copies[node] = copy

    def write(self, node: fx.Node) -> fx.Node:
        """The copy of `node`, made now together with what it needs."""
        copies = self._copies
        stack = [node]
        while stack:
            top = stack[-1]
            if top in copies:
                stack.pop()
                continue
            missing = [a for a in top.all_input_nodes if a not in copies]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            copies[top] = self._copy(top)
        return copies[node]

    def _copy(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            self._constants[node.target] = getattr(self._module, node.target)
            copy = add_node(self.graph, "get_attr", node.target, (), {}, node.name)
        else:
            load = self._copies.__getitem__
            args = fx.node.map_arg(node.args, load)
            copy = add_node(self.graph, node.op, node.target, args, fx.node.map_arg(node.kwargs, load) if node.kwargs else {}, node.name)
        copy.meta = dict(node.meta)
        return copy

    def clone(self, node: fx.Node) -> fx.Node:
        """A copy in fresh memory of the copy of `node`."""
        copy = add_node(self.graph, "call_function", aten.clone.default, (self.write(node),), {}, "clone")
        copy.meta = {"val": node.meta["val"], "stack": node.meta.get("stack", ())}
        return copy

    def finish(self, values: Sequence[Any]) -> fx.GraphModule:
        """Close with these outputs."""
        self.graph.output(tuple(values))
        return graph_module(self.graph, self._constants)


def emit(joint: Joint, split: Split, saved: Sequence[fx.Node]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The forward and backward graphs that keep `saved`; fills the signature's `saved` fields."""
    signature = joint.signature
    saved = [*saved, *_symbols_of(split, saved)]
    saved = sorted(saved, key=lambda n: not isinstance(n.meta["val"], Tensor))  # stable: symbolic numbers last
    signature.saved = [n.meta["val"] for n in saved]
    signature.num_saved_symbols = sum(not isinstance(v, Tensor) for v in signature.saved)
    forward, signature.saved_sources = _forward(joint, split, saved)
    return forward, _backward(joint, split, saved)


def _symbols_of(split: Split, saved: Sequence[fx.Node]) -> list[fx.Node]:
    """Numbers of the forward, not saved yet, that tell the symbols in the backward's inputs: a compiler takes the sizes of its loops from them."""
    told = [*split.primals, *(n for n in split.order if n.op == "call_function" and n in split.forward)]
    sizes: dict[Any, fx.Node] = {}
    for n in told:
        if isinstance(n.meta["val"], SymInt):
            sizes.setdefault(expr_of(n.meta["val"]), n)
    if not sizes:
        return []
    wanted: dict[fx.Node, None] = {}
    for node in (*saved, *split.tangents):
        val = node.meta["val"]
        numbers = (*val.shape, *val.stride(), val.storage_offset()) if isinstance(val, Tensor) else (val,)
        symbols = {s for number in numbers if isinstance(number, SymInt) for s in expr_of(number).free_symbols}
        wanted.update((sizes[s], None) for s in sorted(symbols, key=str) if s in sizes and sizes[s] not in saved)
    return list(wanted)


def _forward(joint: Joint, split: Split, saved: Sequence[fx.Node]) -> tuple[fx.GraphModule, list[SavedSource]]:
    signature = joint.signature
    writer = _Writer(joint.graph_module)
    for node in split.primals:
        writer.placeholder(node)
    for node in sorted(split.forward, key=split.order.__getitem__):
        if node.op != "placeholder":
            writer.write(node)
    taken_over = {k for k, _ in signature.mutations}
    values: list[Any] = [writer.write(n) if isinstance(n, fx.Node) else n for n in split.outputs]
    input_of = {n: i for i, n in enumerate(split.primals)}
    output_of = {n: k for k, n in enumerate(split.outputs) if isinstance(n, fx.Node) and k not in taken_over}
    sources = []
    for node in saved:
        if node in input_of and node not in split.written:
            sources.append(SavedSource(True, input_of[node]))
        elif node in output_of:
            sources.append(SavedSource(False, output_of[node]))
        else:
            sources.append(SavedSource(False, len(values)))
            values.append(writer.clone(node) if node in input_of else writer.write(node))
    _separate(writer, split, values, set(saved))
    return writer.finish(values), sources


def _separate(writer: _Writer, split: Split, values: list[Any], saved: set[fx.Node]) -> None:
    """An output that is a view of a saved value gets its own memory: a write to it would not show in the saved value's version."""
    for k, node in enumerate(split.outputs):
        if isinstance(node, fx.Node) and node not in saved and memory_root(node) in saved:
            copy = writer.write(node)
            values[k] = copy_of(writer.graph, copy, memory_root(copy))


def _backward(joint: Joint, split: Split, saved: Sequence[fx.Node]) -> fx.GraphModule:
    writer = _Writer(joint.graph_module)
    for i, node in enumerate(saved):
        writer.placeholder(node, f"saved{i}_{target_name(node.target) if node.op == 'call_function' else node.name}")
    for node in split.tangents:
        writer.placeholder(node)
    for node in sorted(split.backward, key=split.order.__getitem__):
        if node.op == "call_function" and has_effect(node.target):
            writer.write(node)
    return writer.finish([writer.write(n) if isinstance(n, fx.Node) else n for n in split.gradients])
