"""Graphs with sizes and numbers that only the running program knows: compiled in parts, cut at the operators that make them.

Between: an ATen graph with unbacked symbols -> a callable that runs compiled parts and, between them, the operators that make sizes (`nonzero`, `item`).
Keeps:   behind a cut such a size is an input of the next part, like any dynamic size; a part that does not lower is run operator by operator, counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lamina_dynshape import expr_of
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported
from lamina_dynshape.support.logs import log
from lamina_primops import compile_parts, interpret, split_by_support
from lamina_primops.fxtools import add_node, all_arguments, placeholders

__all__ = ["compile_around", "makes_unbacked"]

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def _numbers(val: Any, start: bool = True) -> Iterator[Any]:
    """The symbolic numbers in a value: sizes, strides and (`start`) offset of tensors, numbers themselves."""
    for v in all_arguments(val):
        for n in (*v.shape, *v.stride(), *([v.storage_offset()] if start else [])) if isinstance(v, torch.Tensor) else (v,):
            if isinstance(n, _SYMBOLIC):
                yield n


def _symbols(val: Any, start: bool = True) -> set[Any]:
    """The symbols of sizes that a value is told in."""
    return {s for n in _numbers(val, start) if isinstance(n, torch.SymInt) for s in expr_of(n).free_symbols}


def makes_unbacked(gm: torch.fx.GraphModule) -> bool:
    """Whether an operator of the graph makes a size or number that depends on data, or an input has such a size that is no input itself."""
    if all(n.node.has_hint() for node in gm.graph.nodes for n in _numbers(node.meta.get("val"))):
        return False
    return bool(_untold(gm)) or any(node.op == "call_function" and not _is_known_before(node) for node in gm.graph.nodes)


def compile_around(gm: torch.fx.GraphModule, compile_part: Callable[[torch.fx.GraphModule], Callable[..., Any]]) -> Callable[..., tuple[Any, ...]]:
    """A callable on the inputs of `gm`, whose parts between the operators that make sizes are compiled."""
    split = split_by_support(gm, _is_known_before)
    for call in [n for n in split.graph.nodes if n.op == "call_module"]:
        _give_sizes(split, call)
    split.recompile()

    def compiler(part: torch.fx.GraphModule) -> Callable[..., Any]:
        try:
            return compile_part(part)
        except Unsupported as error:
            counters["fallbacks"][error.what] += 1
            log("output_code").info("a part with sizes that depend on data runs operator by operator: %s", error)
            return lambda *args: interpret(part, *args)

    return compile_parts(split, compiler)


def _is_known_before(node: torch.fx.Node) -> bool:
    """Whether the sizes of the results follow from what the operator gets, and it takes and makes no real number that depends on data."""
    given = {s for n in node.all_input_nodes for s in _symbols(n.meta.get("val"))}
    reals = (n for i in (node, *node.all_input_nodes) for n in _numbers(i.meta.get("val")) if not isinstance(n, torch.SymInt))
    return _symbols(node.meta.get("val")) <= given and all(n.node.has_hint() for n in reals)


def _untold(gm: torch.fx.GraphModule) -> set[Any]:
    """Symbols in the sizes of a graph's inputs that are not among its inputs. Where an input starts is no size: kernels get its address."""
    vals = [n.meta.get("val") for n in placeholders(gm.graph)]
    return {s for v in vals for s in _symbols(v, start=False)} - {expr_of(v) for v in vals if isinstance(v, torch.SymInt)}


def _give_sizes(split: torch.fx.GraphModule, call: torch.fx.Node) -> None:
    """Make each symbol that a part's inputs are told in an input of the part."""
    part = split.get_submodule(str(call.target))
    for symbol in sorted(_untold(part), key=str):
        node, val = _reading(split.graph, call, symbol)
        with part.graph.inserting_before(next(iter(part.graph.nodes))):
            size = add_node(part.graph, "placeholder", str(symbol), (), {}, str(symbol))
        size.meta.update(val=val, stack=())
        call.args = (node, *call.args)
    part.recompile()


def _reading(graph: torch.fx.Graph, call: torch.fx.Node, symbol: Any) -> tuple[torch.fx.Node, Any]:
    """A node before `call` that yields the symbol's value: its own, or the size of a tensor."""
    for node in graph.nodes:
        if node is call:
            break
        val = node.meta.get("val")
        if isinstance(val, torch.SymInt) and expr_of(val) is symbol:
            return node, val
        for d, n in enumerate(val.shape if isinstance(val, torch.Tensor) else ()):
            if isinstance(n, torch.SymInt) and expr_of(n) is symbol:
                with graph.inserting_before(call):
                    size = add_node(graph, "call_function", torch.ops.aten.sym_size.int, (node, d), {}, f"{symbol}_size")
                size.meta.update(val=n, stack=node.meta.get("stack", ()))
                return size, n
    raise Unsupported("a number that only the running program knows, and that no result shows", saw=str(symbol), code="unbacked")
