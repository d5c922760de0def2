"""The outputs of a functional graph while it is traced: nodes, the autograd tensors behind them, symbolic arguments of views.

Between: joint trace -> `GraphSignature`. Plain input writes come last, so that a backend may take them over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx

from .views import SymbolRef, ViewSpec, ViewStep, as_strided_within, memory_root

__all__ = ["OutputTable"]


class OutputTable:
    """Graph outputs in order. An output is one (node, autograd tensor) pair and is listed once."""

    def __init__(self) -> None:
        self.nodes: list[fx.Node] = []
        self._tensors: list[Tensor | None] = []
        self._index: dict[tuple[fx.Node, int], int] = {}
        self.wrappers: list[tuple[int, Tensor]] = []  # (negative index, autograd tensor) of the differentiable outputs made of several

    def add(self, node: fx.Node, tensor: Tensor | None) -> int:
        """Index of the output `node`; `tensor` is what autograd knows it by."""
        key = (node, id(tensor))
        found = self._index.get(key)
        if found is None:
            found = self._index[key] = len(self.nodes)
            self.nodes.append(node)
            self._tensors.append(tensor)
        return found

    def add_last(self, node: fx.Node) -> int:
        """Index of a new output that nothing else shares."""
        self.nodes.append(node)
        self._tensors.append(None)
        return len(self.nodes) - 1

    def symbol(self, node: fx.Node) -> SymbolRef:
        """Make a symbolic number an output, for a view to read at run time."""
        return SymbolRef(self.add(node, None))

    def differentiable(self) -> Iterator[tuple[int, Tensor]]:
        """(index, autograd tensor) of the outputs that autograd knows."""
        for index, tensor in enumerate(self._tensors):
            if tensor is not None:
                yield index, tensor

    def by_geometry(self, node: fx.Node, base: fx.Node, node_of: Callable[[Any], Any]) -> ViewSpec | None:
        """A view by sizes, strides and offset, for two views of one storage neither of which leads to the other. `node_of`: of a symbolic number."""
        if memory_root(node) is not memory_root(base):
            return None
        val, start = node.meta["val"], base.meta["val"]
        delta = val.storage_offset() - start.storage_offset()
        if val.dtype != start.dtype:
            return None
        number = lambda n: n if type(n) is int else self.symbol(node_of(n))
        return ViewSpec((ViewStep(as_strided_within, (tuple(map(number, val.shape)), tuple(map(number, val.stride())), number(delta))),))
