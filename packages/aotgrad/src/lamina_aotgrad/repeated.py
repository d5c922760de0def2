"""Writes to inputs inside checkpointed regions: eager makes them a second time when the backward computes the region again.

Between: joint trace (notes the writes of each region) -> partition: the second writes are backward nodes, that read the inputs as they are then.
Keeps:   the forward and the gradients; the last outputs of the joint graph are the new values of the signature's `repeated` inputs, its last
         placeholders those inputs at the time of the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lamina_dynshape.support.errors import Unsupported
from lamina_primops.fxtools import has_effect
from torch import fx

__all__ = ["RegionWrites", "repeat_writes"]

Write = tuple[int, fx.Node, fx.Node]  # input, its value when the region begins, and when it ends


class RegionWrites:
    """Notes, while a program is traced, which inputs each outermost checkpointed region writes. `written()` gives the present values of inputs."""

    def __init__(self, initial: Sequence[Any], written: Callable[[], Iterable[tuple[int, fx.Node]]]) -> None:
        self.regions: list[list[Write]] = []
        self._values = dict(enumerate(initial))
        self._written = written
        self._region: Any = None

    def enter(self, region: Any) -> None:
        """The next call of the program is in this region, or in none."""
        if region is self._region:
            return
        inside = self._region is not None
        self._region = region
        found: list[Write] = []
        for i, node in self._written():
            if node is not self._values[i]:
                found.append((i, self._values[i], node))
                self._values[i] = node
        if inside and found:
            self.regions.append(found)


def repeat_writes(graph: fx.Graph, regions: Sequence[Sequence[Write]]) -> list[int]:
    """Make each region's writes again, the last region first; the first and last values of each write are the last outputs. Returns the inputs written."""
    output = next(iter(reversed(graph.nodes)))
    flat = list(output.args[0])
    count = sum(2 * len(region) for region in regions)
    values, kept = iter(flat[len(flat) - count :]), flat[: len(flat) - count]
    now = [[(i, next(values), next(values)) for i, _, _ in region] for region in regions]
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    state: dict[int, fx.Node] = {}
    for i in sorted({i for region in now for i, _, _ in region}):
        with graph.inserting_after(holders[-1]):
            again = graph.create_node("placeholder", f"again{i}", name=f"again{i}")
        again.meta = {"val": holders[i].meta["val"], "stack": (), "role": "tangent"}
        holders.append(again)
        state[i] = again
    with graph.inserting_before(output):
        for region in reversed(now):
            _repeat(graph, region, state)
    output.args = ((*kept, *state.values()),)
    return list(state)


def _repeat(graph: fx.Graph, region: Sequence[Write], state: dict[int, fx.Node]) -> None:
    """Copies of the calls that lead from the values at a region's start to those at its end, on `state`, which they change."""
    copies = {before: state[i] for i, before, _ in region}
    for node in _between({b for _, b, _ in region}, {a for _, _, a in region}):
        if "policy_saves" in node.meta:
            return  # eager takes what it kept, and does not run the call
        if has_effect(node.target):
            raise Unsupported("write of random numbers to an input inside a checkpointed region", saw=str(node.target))
        copies[node] = graph.node_copy(node, lambda n: copies.get(n, n))
        copies[node].meta = dict(node.meta)
    state.update({i: copies.get(after, after) for i, _, after in region})


def _between(starts: set[fx.Node], ends: set[fx.Node]) -> list[fx.Node]:
    """Calls that depend on a start and that an end needs, in order."""
    needed = set(ends)
    todo = list(ends)
    while todo:
        for a in todo.pop().all_input_nodes:
            if a not in needed:
                needed.add(a)
                if a not in starts:
                    todo.append(a)
    found: list[fx.Node] = []
    depends = set(starts)
    for node in next(iter(ends)).graph.nodes:
        if node in needed and node not in starts and any(a in depends for a in node.all_input_nodes):
            depends.add(node)
            found.append(node)
    return found
