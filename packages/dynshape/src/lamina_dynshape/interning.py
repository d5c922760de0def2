"""The tables that make structural equality identity: one node for each structure, as long as somebody holds it.

Nodes are held by their table while a compilation runs, since the same ones are asked for again and again; `release`, called when it is over, keeps
those that others hold and lets go of the rest.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from lamina_dynshape.support.memory import at_release

__all__ = ["NodeTable"]


class NodeTable(dict[Any, Any]):
    """key -> node, for the nodes met since the last release; `table[key]` is None where there is no node."""

    def __init__(self) -> None:
        super().__init__()
        self._held: WeakValueDictionary[Any, Any] = WeakValueDictionary()  # nodes from before, by the same keys
        at_release(self.release)

    def __missing__(self, key: Any) -> Any:
        node = self._held.get(key)
        if node is not None:
            self[key] = node
        return node

    def release(self) -> None:
        """Keep what is held elsewhere only. Each node is in one of the two tables at every moment: other threads may look for it."""
        for key, node in list(self.items()):
            self._held[key] = node
            del self[key]
