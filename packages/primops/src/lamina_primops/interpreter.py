"""The reference interpreter: runs a graph of any dialect op by op in eager PyTorch. It is what the other stages are tested against.

Promised layouts are kept: results of prims may have any strides, so graph outputs and operands of ATen calls in a prims graph are brought to the
strides of their `meta["val"]`. The same holds for results of modules, which are parts compiled by a backend (see `mixture`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .prims import prim_of
from .symbolic import size_key

__all__ = ["interpret"]


def interpret(gm: fx.GraphModule, *args: Any) -> tuple[Any, ...]:
    """Outputs of `gm` on real inputs (tensors, numbers), as a flat tuple. No gradients are recorded."""
    with torch.no_grad():
        return _Run(gm).run(args)


class _Run:
    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.env: dict[fx.Node, Any] = {}
        self.sizes: dict[Any, int] = {}  # symbol -> size, to evaluate the strides in meta

    def run(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        graph = self.gm.graph
        inputs = [n for n in graph.nodes if n.op == "placeholder"]
        if len(inputs) != len(args):
            raise TypeError(f"the graph takes {len(inputs)} inputs, got {len(args)}")
        for n, a in zip(inputs, args, strict=True):
            self.env[n] = a
            self._learn(n.meta.get("val"), a)
        lowered = any(n.op == "call_module" or "fallback" in n.meta or prim_of(n.target) is not None for n in graph.nodes)
        for n in graph.nodes:
            if n.op == "output":
                flat = n.args[0] if isinstance(n.args[0], (tuple, list)) else (n.args[0],)
                return tuple(self._promised(v) if lowered else self._value(v) for v in flat)
            if n.op != "placeholder":
                self.env[n] = self._step(n, lowered)
        raise ValueError("the graph has no output")

    def _step(self, n: fx.Node, lowered: bool) -> Any:
        if n.op == "get_attr":
            return getattr(self.gm, n.target)
        strict = lowered and isinstance(n.target, torch._ops.OpOverload) and prim_of(n.target) is None
        read = self._promised if strict else self._value
        args, kwargs = [read(a) for a in n.args], {k: read(a) for k, a in n.kwargs.items()}
        if n.op == "call_method":
            return getattr(args[0], n.target)(*args[1:], **kwargs)
        if n.op == "call_module":
            return self.gm.get_submodule(n.target)(*args, **kwargs)
        out = n.target(*args, **kwargs)
        self._learn(n.meta.get("val"), out)  # sizes may appear here that no input tells
        return out

    def _value(self, a: Any) -> Any:
        if isinstance(a, fx.Node):
            return self.env[a]
        return fx.node.map_arg(a, lambda n: self.env[n])

    def _promised(self, a: Any) -> Any:
        return fx.node.map_arg(a, self._in_layout)

    def _in_layout(self, n: fx.Node) -> Any:
        x, val = self.env[n], n.meta.get("val")
        if not isinstance(x, torch.Tensor) or not isinstance(val, torch.Tensor) or n.op in ("placeholder", "get_attr"):
            return x
        strides = tuple(self._size(s) for s in val.stride())
        if all(s == t or d == 1 for s, t, d in zip(x.stride(), strides, x.shape, strict=True)) or x.numel() == 0:
            return x
        one = x[tuple(slice(0, 1) if s == 0 else slice(None) for s in strides)]  # a broadcast dimension is one element expanded
        return torch.empty_strided(one.shape, strides, dtype=x.dtype, device=x.device).copy_(one).expand(x.shape)

    # -- symbolic sizes ---------------------------------------------------------------------------------------------------
    def _learn(self, val: Any, real: Any) -> None:
        if isinstance(val, torch.Tensor) and isinstance(real, torch.Tensor):
            for v, r in zip(val.shape, real.shape, strict=False):
                if type(v) is not int:
                    self.sizes.setdefault(size_key(v), r)
        elif isinstance(val, torch.SymInt):
            self.sizes.setdefault(size_key(val), real)
        elif isinstance(val, (tuple, list)) and isinstance(real, (tuple, list)):
            for v, r in zip(val, real, strict=False):
                self._learn(v, r)

    def _size(self, s: Any) -> int:
        key = size_key(s)
        if isinstance(key, int):
            return key
        return self.sizes[key] if key in self.sizes else key.evaluate(self.sizes)
