"""The outputs of a functional graph while it is traced: nodes, the autograd tensors behind them, symbolic arguments of views.

Between: joint trace -> `GraphSignature`. Plain input writes come last, so that a backend may take them over.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, fx

from .views import SymbolRef, ViewSpec, ViewStep, as_strided_within, memory_root

__all__ = ["OutputTable"]


class OutputTable:
    """Graph outputs in order. An output is one (node, autograd tensor) pair and is listed once."""

    def __init__(self) -> None:
        self.nodes: list[fx.Node] = []
        self._tensors: list[Tensor | None] = []
        self._index: dict[tuple[fx.Node, int], int] = {}

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

    @staticmethod
    def by_geometry(node: fx.Node, base: fx.Node) -> ViewSpec | None:
        """A view by sizes, strides and offset, for two views of one storage neither of which leads to the other; static sizes only."""
        if memory_root(node) is not memory_root(base):
            return None
        val, start = node.meta["val"], base.meta["val"]
        delta = val.storage_offset() - start.storage_offset()
        numbers = (*val.shape, *val.stride(), delta)
        if val.dtype != start.dtype or not all(type(n) is int for n in numbers):
            return None
        return ViewSpec((ViewStep(as_strided_within, (tuple(val.shape), tuple(val.stride()), delta)),))
