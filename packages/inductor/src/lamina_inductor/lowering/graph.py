"""`GraphLowering`: walks a prims graph and makes the loop graph.

Between: a verified prims `GraphModule` -> `LoopGraph`.
Keeps:   nodes are appended in an order that respects their data; a value is in memory (realised) when something must read it there.
Realisation rule: a value is computed where it is used (inlined) unless (a) a library call, a scatter or the caller reads it, (b) it has several
uses and is not trivial, (c) it is broadcast or gathered and not trivial, (d) its body would grow past `config.max_inline_loads`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from lamina_dynshape import hint_of
from lamina_dynshape.expr import Expr, integer, symbol
from lamina_dynshape.float_expr import FloatExpr, float_symbol
from lamina_dynshape.support.errors import Unsupported

from ..config import config
from ..ir.buffers import ONE, ZERO, Buffer, StridedView, as_exprs, contiguous_strides, dense_strides, stride_order
from ..ir.extern import ExternKernel
from ..ir.nodes import LoopGraph, real_bits, real_of_bits
from . import build
from .registry import RULES
from .symbols import expr_of, symbol_ranges
from .values import Value

__all__ = ["GraphLowering", "lower_graph"]

_VIEWS = frozenset({"expand", "reshape", "permute", "slice", "flip"})
_MEMORY_READERS = frozenset({"mm", "bmm", "convolution", "as_strided"})
_EXPANDING = frozenset({"expand", "index", "index_select", "gather"})


class GraphLowering:
    """State of one lowering. Extern rules use `realize`, `new_buffer`, `add_extern`, `value`."""

    def __init__(self, gm: torch.fx.GraphModule, own: int | None = None) -> None:
        self.gm, self.own = gm, own
        self.graph = LoopGraph()
        self.env: dict[torch.fx.Node, Any] = {}
        self.node: torch.fx.Node | None = None

    # -- for rules -----------------------------------------------------------------------------------------------------
    def value(self, buffer: Buffer) -> Value:
        return Value(buffer.dtype, buffer.size, view=buffer.view(), origin=buffer.origin)

    def new_buffer(self, dtype: torch.dtype, size: Sequence[Any], stride: Sequence[Any] | None = None, prefix: str = "buf") -> Buffer:
        """A new intermediate; row-major unless strides are given."""
        size = as_exprs(size)
        stride = contiguous_strides(size) if stride is None else as_exprs(stride)
        b = Buffer(self.graph.fresh(prefix), dtype, size, stride, origin=self.origin())
        self.graph.buffers.append(b)
        return b

    def add_extern(self, kernel: ExternKernel) -> None:
        kernel.origin = kernel.origin or self.origin()
        self.graph.nodes.append(kernel)

    def realize(self, x: Value, stride: Sequence[Any] | None = None, *, order: Sequence[int] | None = None) -> StridedView:
        """`x` in memory: where it is already, or computed now, with `stride` exactly, or dense in `order`, or in its own order."""
        if x.view is not None:
            if stride is None or same_strides(x.size, x.view.stride, as_exprs(stride)):
                return x.view
            return self._store(x, as_exprs(stride))
        if stride is not None:
            view = self._store(x, as_exprs(stride))
        else:
            order = order if order is not None else x.order
            view = self._store(x, dense_strides(x.size, order) if order is not None and len(order) == len(x.size) else contiguous_strides(x.size))
        x.become(view)
        return view

    def realize_into(self, target: StridedView, x: Value) -> None:
        """Compute `x` into a place of an existing buffer."""
        self.graph.nodes.append(build.make_store(self.graph, target, x))

    def _store(self, x: Value, stride: tuple[Expr, ...]) -> StridedView:
        buffer = self.new_buffer(x.dtype, x.size, stride)
        self.graph.nodes.append(build.make_store(self.graph, buffer.view(), x))
        return buffer.view()

    def origin(self) -> str:
        """The user's source line of the FX node being lowered."""
        stack = self.node.meta.get("stack") if self.node is not None else None
        if not stack:
            return ""
        f = stack[-1]
        return f"{f.file.rsplit('/', 1)[-1]}:{f.line}"

    def expr(self, x: Any) -> Expr:
        return x if isinstance(x, Expr) else expr_of(x)

    def exprs(self, xs: Sequence[Any]) -> tuple[Expr, ...]:
        return tuple(self.expr(x) for x in xs)

    def meta_strides(self, node: torch.fx.Node | None = None, output: int | None = None) -> tuple[Expr, ...]:
        """Strides that the FX metadata promises."""
        val = (node or self.node).meta["val"]  # type: ignore[union-attr]
        return self.exprs((val if output is None else val[output]).stride())

    def meta_size(self, node: torch.fx.Node | None = None, output: int | None = None) -> tuple[Expr, ...]:
        val = (node or self.node).meta["val"]  # type: ignore[union-attr]
        return self.exprs((val if output is None else val[output]).shape)

    def dense_strides(self, node: torch.fx.Node) -> tuple[Expr, ...]:
        """Dense strides in the node's memory order."""
        order = self._order(node)
        size = self.meta_size(node)
        return contiguous_strides(size) if order is None else dense_strides(size, order)

    # -- the walk --------------------------------------------------------------------------------------------------------
    def run(self) -> LoopGraph:
        for node in self.gm.graph.nodes:
            self.node = node
            self.env[node] = self._lower_node(node)
        return self.graph

    def _lower_node(self, node: torch.fx.Node) -> Any:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            return self._constant(node)
        if node.op == "output":
            return self._output(node)
        val = node.meta.get("val")
        if isinstance(val, (int, float, bool)) and not isinstance(val, torch.Tensor) and not RULES.get(node.target):
            return integer(val) if isinstance(val, int) and not isinstance(val, bool) else val
        if isinstance(val, torch.SymInt):
            return self.expr(val)
        if isinstance(val, (torch.SymFloat, torch.SymBool)):
            return val.node.expr
        if node.target is operator.getitem:
            return self.env[node.args[0]][node.args[1]]
        args = torch.fx.node.map_arg(node.args, lambda n: self.env[n])
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: self.env[n])
        result = self._apply(node, args, kwargs)
        if isinstance(result, Value) and result.view is None:
            self._finish(node, result)
        return result

    def _apply(self, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        for rule in RULES.get(node.target, ()):
            result = rule(self, node, *args, **kwargs)
            if result is not NotImplemented:
                return result
        from .fallback import fallback
        return fallback(self, node, args, kwargs)

    def _finish(self, node: torch.fx.Node, x: Value) -> None:
        """Give a lazy value its memory order, and realise it when the rule above says so."""
        x.origin = x.origin or self.origin()
        if x.order is None:
            x.order = self._order(node)
        if self.must_realize(node, x):
            self.realize(x)

    def _order(self, node: torch.fx.Node) -> tuple[int, ...] | None:
        wanted = node.meta.get("stride_order")
        if wanted is not None:
            return tuple(wanted)
        val = node.meta.get("val")
        if not isinstance(val, torch.Tensor):
            return None
        size, stride = self.exprs(val.shape), self.exprs(val.stride())
        if any(t is ZERO and s is not ONE for s, t in zip(size, stride, strict=True)):
            return None
        return stride_order(size, stride, self.graph.hints)

    def must_realize(self, node: torch.fx.Node, x: Value) -> bool:
        """See the realisation rule in the module docstring; `x` is the lazy value of `node`."""
        uses = self._uses(node)
        if any(kind == "memory" for kind, _ in uses):
            return not (x.loads == 0 and x.cost == 0)  # a constant is made again by each reader
        if x.loads > config.max_inline_loads or x.cost > config.max_inline_cost:
            return True
        trivial = x.cost <= 2 and x.loads <= 1 or x.loads == 0 and x.cost <= 8
        if trivial:
            return False
        return len(uses) > 1 or any(kind == "expand" for kind, _ in uses)

    def _uses(self, node: torch.fx.Node) -> list[tuple[str, torch.fx.Node]]:
        """(kind, user) for each consumer, looking through views; kind is memory, expand or loop."""
        found: list[tuple[str, torch.fx.Node]] = []
        for user in node.users:
            name = prim_name(user)
            if name is None or name in _MEMORY_READERS:
                found.append(("memory", user))
            elif name in _VIEWS:
                below = self._uses(user)
                grows = name == "expand" and _grows(node, user)
                found.extend(("expand" if grows and kind == "loop" else kind, u) for kind, u in below)
            elif name in _EXPANDING and user.args[0] is node:
                found.append(("expand", user))
            else:
                found.append(("loop", user))
        return found

    # -- ends --------------------------------------------------------------------------------------------------------------
    def _placeholder(self, node: torch.fx.Node) -> Any:
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            b = Buffer(f"arg{len(self.graph.inputs)}", val.dtype, self.exprs(val.shape), self.exprs(val.stride()), kind="input")
            self.graph.inputs.append(b)
            self.graph.buffers.append(b)
            return self.value(b)
        if isinstance(val, torch.SymFloat):
            return self._real_input(val)
        e = self.expr(val) if isinstance(val, (int, torch.SymInt)) and not isinstance(val, bool) else val
        self.graph.inputs.append(e)  # type: ignore[arg-type]
        if isinstance(e, Expr):
            for s in e.free_symbols:
                lo_hi, hint = symbol_ranges(val, s)
                self.graph.ranges[s] = lo_hi
                self.graph.hints[s] = hint
        return e

    def _real_input(self, val: torch.SymFloat) -> Any:
        """A real number comes as its bits, under the name of its symbol; one that was computed before the graph under a name of its own."""
        e = val.node.expr
        if e.op != "real":
            e = float_symbol(symbol(f"given{len(self.graph.inputs)}"))
        bits = e.args[0]
        self.graph.inputs.append(bits)
        self.graph.reals.add(bits)
        self.graph.ranges[bits] = None, None
        self.graph.hints[bits] = real_bits(hint_of(val))
        return e

    def real(self, e: FloatExpr) -> Expr:
        """A symbol for the bits of a real number that is computed at the start of each call. Raises Unsupported where an operator of the graph makes it."""
        for leaf in e.leaves():
            if leaf.op == "real" and leaf.args[0] not in self.graph.reals:
                raise Unsupported("symbolic real number in a kernel", saw=str(e), code="symbolic_real")
        if e.op == "real":
            return e.args[0]
        if e not in self.graph.computed:
            bits = self.graph.computed[e] = symbol(self.graph.fresh("real"))
            self.graph.ranges[bits] = None, None
            self.graph.hints[bits] = real_bits(e.evaluate({s: real_of_bits(n) if s in self.graph.reals else n for s, n in self.graph.hints.items()}))
        return self.graph.computed[e]

    def _constant(self, node: torch.fx.Node) -> Any:
        t = self.gm
        for part in str(node.target).split("."):
            t = getattr(t, part)
        if not isinstance(t, torch.Tensor):
            return t
        t = t.detach()
        b = Buffer(f"const{len(self.graph.constants)}", t.dtype, as_exprs(t.shape), as_exprs(t.stride()), kind="constant")
        self.graph.constants.append((b, t))
        self.graph.buffers.append(b)
        return self.value(b)

    def _output(self, node: torch.fx.Node) -> None:
        flat = node.args[0] if isinstance(node.args[0], (tuple, list)) else (node.args[0],)
        makers = {v.view.buffer: n for n, v in self.env.items() if n.op in ("placeholder", "get_attr") and isinstance(v, Value) and v.view is not None}
        for k, arg in enumerate(flat):
            if not isinstance(arg, torch.fx.Node):
                self.graph.outputs.append(integer(arg) if isinstance(arg, int) and not isinstance(arg, bool) else arg)
                continue
            x = self.env[arg]
            if not isinstance(x, Value):
                self.graph.outputs.append(x)
                continue
            self.node = arg
            stride = None if x.view is not None and x.view.buffer.kind == "input" and x.view.is_whole else self.meta_strides(arg)
            view = self.realize(x, stride)
            if makers.setdefault(view.buffer, arg) is not arg and (self.own is None or k < self.own):  # such as the clone of a view
                view = self._store(x, self.meta_strides(arg))
            self.graph.outputs.append(view)


def prim_name(node: torch.fx.Node) -> str | None:
    """Name of the prim that the node calls, None for anything else."""
    target = node.target
    if node.op == "call_function" and getattr(target, "namespace", "") == "lamina":
        return target.__name__.partition(".")[0]  # type: ignore[union-attr]
    return None


def _grows(node: torch.fx.Node, user: torch.fx.Node) -> bool:
    a, b = node.meta.get("val"), user.meta.get("val")
    return not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)) or tuple(expr_of(s) for s in a.shape) != tuple(expr_of(s) for s in b.shape)


def same_strides(size: Sequence[Expr], have: Sequence[Expr], want: Sequence[Expr]) -> bool:
    """Equal where they matter (dimensions of size 1, and empty tensors, may have any)."""
    return any(s is ZERO for s in size) or all(a is b or s is ONE for s, a, b in zip(size, have, want, strict=True))


def lower_graph(gm: torch.fx.GraphModule, own: int | None = None) -> LoopGraph:
    """The loop graph of a prims graph. The first `own` outputs (None: all) share memory with no input and no other output, as prims say; the rest may."""
    from . import pointwise, reduction, views, indexing  # noqa: F401, I001  (rules)
    from .. import extern  # noqa: F401
    return GraphLowering(gm, own).run()
