"""Checkpointed regions in a joint graph: what the backward must compute again, and what must be kept to do so.

Between: joint trace (marks nodes with their regions and the policy's word) -> partition.
Keeps:   eager's rule: of a region only what its values are made of from outside is kept, what random ops drew in it, and what a
         selective policy saves. Nested regions: the outermost decides.
"""

from __future__ import annotations

import inspect
import operator
from typing import TYPE_CHECKING, Any

from lamina_primops.fxtools import has_effect
from lamina_primops.regions import Region
from torch import fx
from torch._ops import OpOverload
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext

if TYPE_CHECKING:
    from .split import Split

__all__ = ["common_regions", "interior", "is_kept", "mark"]

_SAVING = (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE, True)
_TELLS_OUTPUT = "op_output" in inspect.signature(SelectiveCheckpointContext).parameters  # from torch 2.12 on


def mark(after: fx.Node, regions: tuple[Region, ...]) -> None:
    """Give the nodes traced after `after` their regions, and ask the policies about them."""
    node = after.next
    while node.op != "root":
        node.meta["checkpoint"] = regions
        if isinstance(node.target, OpOverload) and any(r.policy is not None and _saves(r.policy, node) for r in regions):
            node.meta["policy_saves"] = True
        node = node.next


def _saves(policy: Any, node: fx.Node) -> bool:
    """Whether a selective checkpoint's policy keeps the result of this call."""
    value = lambda n: n.meta["val"]
    context = SelectiveCheckpointContext(is_recompute=False, **({"op_output": node.meta["val"]} if _TELLS_OUTPUT else {}))
    return policy(context, node.target, *fx.node.map_arg(node.args, value), **fx.node.map_arg(node.kwargs, value)) in _SAVING


def common_regions(a: fx.Node, b: fx.Node) -> tuple[Region, ...]:
    """Regions that hold both nodes: those of one node that stands for the two."""
    found = []
    for x, y in zip(a.meta.get("checkpoint", ()), b.meta.get("checkpoint", ())):
        if x is not y:
            break
        found.append(x)
    return tuple(found)


def interior(split: Split) -> set[fx.Node]:
    """Forward values that may not be kept: no forward call outside of their region reads them."""
    found: set[fx.Node] = set()
    outputs = {n for n in split.outputs if isinstance(n, fx.Node)}
    for node in split.order:
        if node.op != "call_function" or node in split.backward or node in outputs or is_kept(node):
            continue
        if node in split.forward:
            users = [u for u in node.users if u in split.forward]
            if any(all(r in u.meta.get("checkpoint", ()) for u in users) for r in node.meta.get("checkpoint", ())):
                found.add(node)
        elif any(a in found for a in node.all_input_nodes) or node.meta.get("checkpoint"):
            found.add(node)
    return found


def is_kept(node: fx.Node) -> bool:
    """Whether a call is never computed again: it has an effect (random numbers), or a policy saves it."""
    call = node.args[0] if node.target is operator.getitem and isinstance(node.args[0], fx.Node) else node
    return has_effect(call.target) or "policy_saves" in call.meta
