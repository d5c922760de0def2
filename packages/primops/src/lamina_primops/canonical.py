"""`lower(gm, to="aten")`: a graph of PyTorch's canonical ("core") ATen ops, for backends that take those instead of prims.

Between: aotgrad's graphs -> backends for core ATen.
Keeps:   core ops stay as they are; every other op is decomposed to prims, and those are written as the ATen ops they stand for. What has neither a core
         form nor a decomposition stays, as in prims graphs. Outputs have the strides of the graph that came in.
How: the mixed graph is run on fakes under the tracer, a prim by its line in `_FORMS`, else by its reference, which is made of ATen ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .fxtools import output_of
from .prims import Prim, prim_of
from .prims.pointwise import COMPARISONS
from .symbolic import known_equal
from .tracer import TraceMode, Tracer

__all__ = ["canonical_graph", "is_canonical"]

aten = torch.ops.aten


def is_canonical(overload: Any) -> bool:
    """Whether PyTorch lists the overload as core ATen."""
    return isinstance(overload, torch._ops.OpOverload) and torch.Tag.core in overload.tags


def _pad(x: Any, low: Any, high: Any, value: Any) -> Any:
    amounts = [n for pair in zip(reversed(low), reversed(high), strict=True) for n in pair]
    return aten.constant_pad_nd.default(x, amounts, value)


def _restride(x: Any, size: Any, stride: Any) -> Any:
    """A copy; channels-last and permuted layouts by copying the permuted tensor, anything else by PyTorch's own allocation."""
    order = sorted(range(x.dim()), key=lambda d: (stride[d], -d), reverse=True) if all(type(s) is int for s in stride) else list(range(x.dim()))
    out = x.permute(order).clone(memory_format=torch.contiguous_format).permute([order.index(d) for d in range(x.dim())])
    if all(known_equal(a, b) or known_equal(n, 1) for a, b, n in zip(out.stride(), stride, size, strict=True)):
        return out
    return aten.copy.default(aten.empty_strided.default(size, stride, dtype=x.dtype, device=x.device), x)


# Prims whose reference copies where ATen has a view, or writes in place.
_FORMS: dict[str, Callable[..., Any]] = {
    "expand": lambda x, size: aten.expand.default(x, size), "reshape": lambda x, size: aten.view.default(x.contiguous(), size), "permute": lambda x, dims: aten.permute.default(x, dims),
    "slice": lambda x, dim, start, end, step: aten.slice.Tensor(x, dim, start, end, step), "pad": _pad, "restride": _restride,
    "as_strided": lambda x, size, stride, offset: aten.as_strided.default(x.contiguous(), size, stride, offset),
    "convert": lambda x, dtype: aten._to_copy.default(x, dtype=dtype), "bitcast": lambda x, dtype: x.view(dtype),
    "maximum_scalar": lambda x, scalar: aten.clamp.default(x, scalar), "minimum_scalar": lambda x, scalar: aten.clamp.default(x, None, scalar),
    "rsub_scalar": lambda x, scalar: aten.add.Scalar(aten.neg.default(x), scalar), "rdiv_scalar": lambda x, scalar: aten.div.Tensor(aten.full.default([], scalar, dtype=x.dtype, device=x.device), x),
    "rpow_scalar": lambda x, scalar: aten.pow.Scalar(scalar, x), "div_scalar": lambda x, scalar: aten.div.Scalar(x, scalar),
    **{f"{name}_scalar": lambda x, scalar, _name=name: getattr(aten, _name).Scalar(x, scalar) for name in ("add", "sub", "mul", "fmod", "remainder", *COMPARISONS)},
    "pow_scalar": lambda x, scalar: aten.pow.Tensor_Scalar(x, scalar),
    "iota": lambda length, start, step, dtype, device: aten.arange.start_step(start, start + length * step, step, dtype=dtype, device=device),
    "var_mean": lambda x, dims, correction, keepdim: (aten.var.correction(x, dims, correction=correction, keepdim=keepdim), aten.mean.dim(x, dims, keepdim)),
}  # fmt: skip


def _form(prim: Prim) -> Callable[..., Any]:
    return _FORMS.get(prim.name, prim.reference)


def canonical_graph(mixed: fx.GraphModule, mode: Any) -> fx.GraphModule:
    """The ATen graph of a graph of prims and core ATen calls over `mode`'s fakes."""
    tracer = Tracer(mode)
    env: dict[fx.Node, Any] = {}
    with mode, TraceMode(tracer), torch.no_grad():
        for node in mixed.graph.nodes:
            if node.op == "output":
                continue
            with tracer.stack(node.meta.get("stack", ())):
                env[node] = _value(tracer, mixed, node, env)
    tracer.output([env[a] if isinstance(a, fx.Node) else a for a in output_of(mixed.graph).args[0]])
    lowered = tracer.graph_module()
    lowered.meta.update(mixed.meta)
    return lowered


def _value(tracer: Tracer, mixed: fx.GraphModule, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node.op == "placeholder":
        meta = {k: v for k, v in node.meta.items() if k not in ("val", "stack")}
        tracer.placeholder(node.name, node.meta["val"], **meta)
        return node.meta["val"]
    if node.op == "get_attr":
        return getattr(mixed, str(node.target))
    if not isinstance(node.target, torch._ops.OpOverload) and not isinstance(node.meta.get("val"), (torch.Tensor, tuple)):
        return node.meta["val"]  # arithmetic on sizes: the same symbol
    args, kwargs = fx.node.map_arg(node.args, env.__getitem__), fx.node.map_arg(node.kwargs, env.__getitem__)
    prim = prim_of(node.target)
    return node.target(*args, **kwargs) if prim is None else _form(prim)(*args)
