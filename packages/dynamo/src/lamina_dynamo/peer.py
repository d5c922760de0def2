"""The reference compiler's public names, as programs under capture see them: stand-ins that never import it.

Between: `import torch._dynamo`, `torch._dynamo.graph_break()` and the like in user code or PyTorch's -> rules.
"""

from __future__ import annotations

import types
from typing import Any

__all__ = ["STAND_INS", "is_peer", "peer_module"]

_PEER = "torch._dynamo"


def is_peer(module: str) -> bool:
    return module == _PEER or module.startswith(_PEER + ".")


def graph_break(msg: str = "") -> None:
    """Replaced by a rule during capture."""


def is_compiling() -> bool:
    return True


def _identity(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    return fn


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


STAND_INS: dict[str, Any] = {
    "graph_break": graph_break, "is_compiling": is_compiling, "allow_in_graph": _identity, "assume_constant_result": _identity, "run": _identity, "mark_dynamic": _nothing, "maybe_mark_dynamic": _nothing,
    "mark_static": _nothing, "mark_unbacked": _nothing, "mark_static_address": _nothing, "reset": _nothing,
}  # fmt: skip
_modules: dict[str, types.ModuleType] = {}


def peer_module(name: str) -> types.ModuleType:
    """A module of that name with the stand-ins."""
    found = _modules.get(name)
    if found is None:
        found = _modules[name] = types.ModuleType(name)
        found.__dict__.update(STAND_INS)
    return found
