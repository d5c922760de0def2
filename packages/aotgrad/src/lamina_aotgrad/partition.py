"""Split a joint graph into a forward and a backward: what to keep between the two, what to compute again.

Between: a cleaned joint graph -> two ATen graphs for the compilers.
Keeps:   random ops run once, in the forward; never more bytes kept than the plain split keeps; a kept input that the program writes is
         kept as a copy of its first value.

`default` keeps what the backward reads. `min_cut` may instead keep something smaller and recompute: legality is in `_must_keep`
(hazards), profit in `_ban_unprofitable` and `_cost` (heuristics). The cut is the minimum one nearest to the backward: least work again.
"""

from __future__ import annotations

from collections.abc import Callable

from lamina_dynshape.support.timers import stage
from torch import Tensor, fx

from .checkpoint import is_kept
from .cleanup import is_transient
from .joint import Joint
from .mincut import INFINITE, FlowNetwork
from .opinfo import is_cheap, is_pointwise, is_reduction, is_view
from .split import Split, bytes_of, emit, saved_bytes, split_joint

__all__ = ["Partitioner", "default", "min_cut"]

Partitioner = Callable[[Joint], tuple[fx.GraphModule, fx.GraphModule]]

def default(joint: Joint) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Keep what the backward reads; nothing but views is computed twice."""
    with stage("partition"):
        split = split_joint(joint)
        return emit(joint, split, _plain(split))


def min_cut(joint: Joint) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Keep the cheapest set of values from which the backward can be computed; see the module."""
    with stage("partition"):
        split = split_joint(joint)
        plain = _plain(split)
        limit = saved_bytes(plain, split)
        for cost in (_cost, _bytes_cost):
            saved = _cut(split, cost)
            if saved is not None and saved_bytes(saved, split) <= limit:
                return emit(joint, split, saved)
        return emit(joint, split, plain)


def _plain(split: Split) -> list[fx.Node]:
    """Forward values that backward nodes (or gradients) read, views by their base."""
    read: set[fx.Node] = {n for n in split.gradients if isinstance(n, fx.Node)}
    for node in split.backward:
        read.update(node.all_input_nodes)
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    todo = [n for n in read if n not in split.backward]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_view(node) or node in split.interior:
            todo += node.all_input_nodes  # the base, and symbolic sizes that the view is made with
        elif isinstance(node.meta["val"], (tuple, list)):
            todo += node.users
        elif node.op != "get_attr":
            found.add(node)
    return sorted(found, key=split.order.__getitem__)


def _cut(split: Split, cost: Callable[[fx.Node, Split, int], int]) -> list[fx.Node] | None:
    """Values to keep by minimum cut; None when there is no finite one."""
    candidates = _ancestors_of_backward(split)
    if not candidates:
        return []
    number = {n: i for i, n in enumerate(candidates)}
    source, sink = 2 * len(candidates), 2 * len(candidates) + 1
    network = FlowNetwork(2 * len(candidates) + 2)
    ends = {n for n in split.gradients if isinstance(n, fx.Node)}
    distance = _distance_to_backward(split, candidates, number)
    for node, i in number.items():
        network.add_edge(2 * i, 2 * i + 1, cost(node, split, distance[i]))
        if node.op == "placeholder" or _must_keep(node, split) or (node not in split.interior and _unprofitable(node, split)):
            network.add_edge(source, 2 * i, INFINITE)
        to_backward = node in ends
        for user in node.users:
            j = number.get(user)
            if j is not None:
                network.add_edge(2 * i + 1, 2 * j, INFINITE)
            to_backward = to_backward or user in split.backward
        if to_backward:
            network.add_edge(2 * i + 1, sink, INFINITE)
    if network.max_flow(source, sink) >= INFINITE:
        return None
    needed = network.sink_side(sink)
    return [n for n, i in number.items() if needed[2 * i + 1] and not needed[2 * i]]


def _ancestors_of_backward(split: Split) -> list[fx.Node]:
    """Forward values from which the backward is computed, in order."""
    found = {n for n in split.gradients if isinstance(n, fx.Node) and n not in split.backward}
    for node in split.backward:
        found.update(a for a in node.all_input_nodes if a not in split.backward)
    for node in sorted(split.order, key=split.order.__getitem__, reverse=True):
        if node in found:
            found.update(node.all_input_nodes)
    return sorted((n for n in found if n.op != "get_attr"), key=split.order.__getitem__)


def _distance_to_backward(split: Split, candidates: list[fx.Node], number: dict[fx.Node, int]) -> list[int]:
    """Fewest calls between a value and a backward node that reads it or what is made of it."""
    distance = [1 << 20] * len(candidates)
    for node in reversed(candidates):
        best = 1 << 20
        for user in node.users:
            if user in split.backward:
                best = 0
                break
            j = number.get(user)
            if j is not None:
                best = min(best, distance[j] + 1)
        distance[number[node]] = best
    return distance


def _must_keep(node: fx.Node, split: Split) -> bool:
    """Whether a second run is ruled out: effects happen once, and checkpointed regions start from values that are kept."""
    if is_kept(node):
        return True
    if node in split.interior or is_view(node) or isinstance(node.meta["val"], (tuple, list)):
        return False
    return any(user in split.interior or (is_view(user) and _feeds_region(user, split)) for user in node.users)


def _feeds_region(view: fx.Node, split: Split) -> bool:
    """Whether values of a checkpointed region are made of a view that is outside of it."""
    return view not in split.interior and any(u in split.interior or (is_view(u) and _feeds_region(u, split)) for u in view.users)


def _unprofitable(node: fx.Node, split: Split) -> bool:
    """Heuristics: expensive calls, and values that both passes hold in memory anyway (a matrix product reads them)."""
    if not is_cheap(node):
        return True
    if is_view(node) or not isinstance(node.meta["val"], Tensor):
        return False
    if node in split.forward and _is_stored(node, split.forward) and _is_stored(node, split.backward):
        return True
    return False


def _is_stored(node: fx.Node, side: set[fx.Node]) -> bool:
    """Whether a call on this side that reads memory, not registers, reads the value (through views too)."""
    for user in node.users:
        if is_view(user):
            if _is_stored(user, side):
                return True
        elif user.op == "output" or (user in side and not is_pointwise(user) and not is_reduction(user)):
            return True
    return False


def _bytes_cost(node: fx.Node, split: Split, distance: int) -> int:
    """Bytes to keep a value; views are kept by their base, inputs and constants are alive anyway (those the caller may write are not kept)."""
    if isinstance(node.meta["val"], (tuple, list)) or is_view(node) or node in split.interior:
        return INFINITE
    if not isinstance(node.meta["val"], Tensor):
        return 1
    if node.op == "placeholder" and node not in split.written:
        return INFINITE if is_transient(node) else 1
    return bytes_of(node) + 2


def _cost(node: fx.Node, split: Split, distance: int) -> int:
    """Bytes moved to keep a value: read in the backward, and written in the forward unless it is stored there anyway.

    Values nearer to their use in the backward cost a little less, so that little is recomputed.
    """
    size = _bytes_cost(node, split, distance)
    if size >= INFINITE or size == 1:
        return size
    stored = node in split.forward and _is_stored(node, split.forward)
    return int(min(size * (1 if stored else 2) * 1.1 ** min(distance, 100), INFINITE // 1024))
