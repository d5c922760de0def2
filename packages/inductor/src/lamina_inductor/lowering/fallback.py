"""What has no lowering: a call back into PyTorch from the middle of the native entry, counted by reason.

The callable takes the node's tensors (as real tensors with the strides of the metadata) and returns the outputs; the entry reaches it through
one C function pointer. This makes every op runnable; what matters for speed has a lowering or an extern kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lamina_dynshape.expr import Expr
from lamina_dynshape.float_expr import FloatExpr
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported

from ..ir.buffers import Buffer, StridedView
from ..ir.extern import CallWriter, EpilogueRef, ExternKernel
from .symbols import expr_of
from .values import Value

__all__ = ["FallbackKernel", "TensorSlot", "SizeSlot", "fallback"]


class TensorSlot:
    """Placeholder of the k-th tensor input in the argument structure of a fallback."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return TensorSlot, (self.number,)


class SizeSlot:
    """Placeholder of the k-th symbolic integer."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return SizeSlot, (self.number,)


class FallbackKernel(ExternKernel):
    """`attributes`: `target` (qualified op name), `structure` (args, kwargs with slots), `sizes` (Exprs), `returns` (how many tensors)."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        number = w.add_callback(self.attributes)  # type: ignore[attr-defined]
        ins = ", ".join(w.handle(v) for v in self.inputs if v is not None) or "0"
        outs = w.fresh("outs")
        sizes = ", ".join(w.expr(e) for e in self.attributes["sizes"]) or "0"
        n = len(self.outputs)
        w.line(f"H {outs}[{max(n, 1)}] = {{0}};")
        w.line(f"{{ H ins_[] = {{{ins}}}; i64 sizes_[] = {{{sizes}}}; "
               f"if (ctx->callback(ctx, {number}, {len(self.inputs)}, ins_, sizes_, {n}, {outs})) return 1; }}")
        for k, b in enumerate(self.outputs):
            w.assign_output(b, f"{outs}[{k}]")


def op_name(target: Any) -> str:
    """Name from which `torch.ops` finds the overload again."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}"
    raise NotImplementedError(f"no lowering for {target!r}, which is not an ATen overload; extend lamina_inductor.lowering")


def fallback(g: Any, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
    """Lower `node` to a call of the operator itself."""
    name = op_name(node.target)
    counters["fallbacks"][f"{name}: {node.meta.get('fallback', 'no lowering')}"] += 1
    tensors: list[StridedView] = []
    sizes: list[Expr] = []

    def slot(a: Any, n: Any) -> Any:
        if isinstance(a, Value):
            tensors.append(g.realize(a, _strides_of(g, n)))
            return TensorSlot(len(tensors) - 1)
        if isinstance(a, Expr):
            if a.is_const:
                return a.const
            sizes.append(a)
            return SizeSlot(len(sizes) - 1)
        if isinstance(a, torch.SymInt):
            return slot(expr_of(a), None)
        if isinstance(a, (FloatExpr, torch.SymFloat)):
            raise Unsupported("symbolic real number as an argument of an ATen call", saw=f"{a} of {node.target}", code="symbolic_real")
        if isinstance(a, dict):
            return {k: slot(v, n.get(k) if isinstance(n, dict) else None) for k, v in a.items()}
        if isinstance(a, (list, tuple)):
            nodes = n if isinstance(n, (list, tuple)) else [None] * len(a)
            return type(a)([slot(v, m) for v, m in zip(a, nodes, strict=True)]) if type(a) in (list, tuple) else [slot(v, m) for v, m in zip(a, nodes, strict=True)]
        return a

    structure = (slot(tuple(args), tuple(node.args)), slot(dict(kwargs), dict(node.kwargs)))
    val = node.meta["val"]
    flat = list(val) if isinstance(val, (tuple, list)) else [val]
    outputs: list[Buffer] = []
    results: list[Any] = []
    for v in flat:
        if isinstance(v, torch.Tensor):
            b = g.new_buffer(v.dtype, g.exprs(v.shape), g.exprs(v.stride()))
            outputs.append(b)
            results.append(g.value(b))
        else:
            results.append(v)
    kernel = FallbackKernel(g.graph.fresh("call"), list(tensors), outputs, {
        "target": name, "structure": structure, "sizes": sizes, "returns": [isinstance(v, torch.Tensor) for v in flat], "single": not isinstance(val, (tuple, list)),
    }, allocates=True)
    g.add_extern(kernel)
    return tuple(results) if isinstance(val, (tuple, list)) else results[0]


def _strides_of(g: Any, n: Any) -> Sequence[Expr] | None:
    val = n.meta.get("val") if isinstance(n, torch.fx.Node) else None
    if not isinstance(val, torch.Tensor):
        return None
    return g.exprs(val.stride())
