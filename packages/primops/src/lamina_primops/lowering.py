"""`lower(gm, to="prims")`: an aten graph becomes a prims graph, node by node, through the decompositions. `to="aten"`: core ATen (see `canonical`).

Between: aotgrad's graphs -> inductor.
Keeps:   outputs have the shape, dtype and strides of the aten graph's outputs (a `restride` says so where the lowered value differs), and memory of their
         own where the aten output has it; operands of ATen calls that stay have the strides that eager would give them; random ops keep their order.
Common subexpressions, dead code and constants are dealt with while building (see `builder`, `simplify`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import InternalError, UserError
from lamina_dynshape.support.timers import stage
from lamina_dynshape.support.verifylevel import verify_level
from torch import fx

from .builder import Builder, Value
from .canonical import canonical_graph, is_canonical
from .decompositions import DECOMPOSITIONS, EXTERN
from .dialects import is_symbolic_function
from .frames import stack_line
from .fxtools import add_node, graph_module
from .prims import prim_of
from .prims.spec import DtypeNotTaken
from .symbolic import SymbolNodes, is_symbolic, known_equal
from .verify import verify

__all__ = ["decompose", "fallback_table", "lower"]

_GLUE = frozenset({torch.ops.aten.sym_size.int, torch.ops.aten.sym_stride.int, torch.ops.aten.sym_numel.default, torch.ops.aten.sym_storage_offset.default})


def lower(gm: fx.GraphModule, to: str = "prims") -> fx.GraphModule:
    """The prims graph (or the core ATen graph) of an aten graph. Placeholders keep names, order and metadata; constants move to the new module."""
    if to not in ("prims", "aten"):
        raise UserError(f"cannot lower to {to!r}; the targets are 'prims' and 'aten'")
    with stage("lower"):
        if to == "aten":
            lowering = _Lowering(gm, keep=is_canonical)
            lowered = canonical_graph(lowering.run(), lowering.mode)
            if verify_level() >= 1:
                verify(lowered, "aten")
            return lowered
        lowered = _Lowering(gm).run()
        if verify_level() >= 1:
            verify(lowered, "prims")
    return lowered


def fallback_table() -> dict[str, str]:
    """ATen calls that stay in prims graphs by decision, with the reason. An overload that is neither here nor decomposed stays with `no decomposition`."""
    return {str(overload): reason for overload, reason in sorted(EXTERN.items(), key=lambda item: str(item[0]))}


def decompose(builder: Builder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], val: Any = None, lay: Callable[..., Any] | None = None) -> Any:
    """Result of one ATen op under `builder`: through its decomposition, else as a call that stays.

    `val`: its metadata when known; it holds for operands in eager's layout, which `lay(args)` gives them.
    """
    prim = prim_of(func)
    if prim is not None:
        return builder.emit(prim, args)
    if builder.keep is not None and builder.keep(func):
        return builder.fallback(func, args if lay is None else lay(args), kwargs, "canonical", val)
    rule = DECOMPOSITIONS.get(func)
    reason = EXTERN.get(func, "no decomposition")
    if rule is not None:
        if _plain(args) and _plain(kwargs.values()) and _plain((val,)):
            try:
                out, reason = rule.rule(*args, **kwargs), "decomposition does not cover these arguments"
            except DtypeNotTaken as e:
                out, reason = NotImplemented, f"decomposition does not cover the dtype: {e}"
            if out is not NotImplemented:
                return out
        else:
            reason = "complex or quantized dtype"
    counters["fallbacks"][str(func)] += 1
    if lay is not None:
        args = lay(args)
    return builder.fallback(func, args, kwargs, reason, val)


def _plain(values: Any) -> bool:
    """No complex or quantized tensors among the values (the dialect has none)."""
    for v in values:
        if isinstance(v, (Value, torch.Tensor)):
            if v.dtype.is_complex or v.dtype not in _DTYPES:
                return False
        elif isinstance(v, complex) or (isinstance(v, (list, tuple)) and not _plain(v)):
            return False
    return True


_DTYPES = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool}
)


class _Lowering:
    def __init__(self, gm: fx.GraphModule, keep: Callable[[Any], bool] | None = None) -> None:
        self.gm = gm
        self.mode = _fake_mode(gm)
        self.builder = Builder(self.mode, keep)
        self.graph = fx.Graph()
        self.symbols = SymbolNodes(self.graph, self._sym_int)
        self.env: dict[fx.Node, Any] = {}
        self.constants: dict[str, torch.Tensor] = {}

    def _sym_int(self, e: Any) -> Any:
        from lamina_dynshape import sym_int

        return sym_int(e, self.mode.shape_env)

    def run(self) -> fx.GraphModule:
        outputs: list[Any] = []
        with self.builder:
            for node in self.gm.graph.nodes:
                if node.op == "output":
                    outputs = self._outputs(node.args[0])
                else:
                    self.env[node] = self._lower(node)
            self.builder.write(self.graph, outputs, self.symbols)
        used = {n.target for n in self.graph.nodes if n.op == "get_attr" and n.users}
        for n in [n for n in self.graph.nodes if n.op == "get_attr" and not n.users]:
            self.graph.erase_node(n)
        lowered = graph_module(self.graph, {k: v for k, v in self.constants.items() if k in used})
        lowered.meta.update(self.gm.meta)
        return lowered

    # -- nodes ------------------------------------------------------------------------------------------------------------
    def _lower(self, node: fx.Node) -> Any:
        self.builder.stack = node.meta.get("stack", ())
        if node.op in ("placeholder", "get_attr"):
            return self._input(node)
        if node.op != "call_function":
            raise InternalError(f"{node.op} is not part of the aten dialect: {node.format_node()}")
        val = node.meta["val"]
        if node.target is operator.getitem:
            return self.env[node.args[0]][node.args[1]]
        if node.target in _GLUE or is_symbolic_function(node.target):
            return self._number(node, val)
        args, kwargs = [self._read(a) for a in node.args], {k: self._read(a) for k, a in node.kwargs.items()}
        return self._call(node, args, kwargs, val)

    def _input(self, node: fx.Node) -> Any:
        new = add_node(self.graph, node.op, node.target, (), {}, node.name)
        new.meta = dict(node.meta)
        val = node.meta.get("val")
        if node.op == "get_attr":
            self.constants[str(node.target)] = getattr(self.gm, str(node.target))
        if isinstance(val, torch.Tensor):
            value = self.builder.input(val)
            value.node = new
            self.symbols.bind_sizes(val.shape, new)
            return value
        self.symbols.bind(val, new)
        return val

    def _number(self, node: fx.Node, val: Any) -> Any:
        if not is_symbolic(val) or isinstance(val, torch.SymInt):
            return val  # an integer expression: rebuilt from its symbols where it is used
        return self.builder.symbolic(node.target, tuple(self._read(a) for a in node.args), {k: self._read(a) for k, a in node.kwargs.items()}, val)

    def _read(self, a: Any) -> Any:
        kind = type(a)
        if kind is fx.Node:
            return self.env[a]
        if isinstance(a, (list, tuple)):
            return [self._read(x) for x in a]
        return a

    def _call(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any], val: Any) -> Any:
        start = len(self.builder.calls)

        def lay(args: Any) -> Any:
            return tuple(self._in_layout(n, a) for n, a in zip(node.args, args, strict=True))

        self.builder.val = val
        try:
            out = decompose(self.builder, node.target, tuple(args), kwargs, val, lay)
        except (TypeError, ValueError, IndexError, AttributeError) as e:
            raise InternalError(self._message(node, str(e))) from e
        self._adopt(node, out, val, start)
        return tuple(out) if isinstance(out, list) else out

    def _in_layout(self, node: Any, value: Any) -> Any:
        """Operand of an ATen call with the strides that the aten graph gave it."""
        if isinstance(node, (list, tuple)):
            return [self._in_layout(n, v) for n, v in zip(node, value, strict=True)]
        if not isinstance(node, fx.Node) or not isinstance(value, Value):
            return value
        return _with_strides(self.builder, value, node.meta["val"].stride())

    def _adopt(self, node: fx.Node, out: Any, val: Any, start: int) -> None:
        """Check results against the aten node's metadata; values made for it take over its strides and fakes."""
        outs, vals = (out, val) if isinstance(out, (tuple, list)) else ((out,), (val,))
        for o, v in zip(outs, vals, strict=False):
            if type(o) is not Value or not isinstance(v, torch.Tensor):
                continue
            if o.dtype is not v.dtype or len(o.shape) != v.ndim or not all(_agree(a, b) for a, b in zip(o.shape, v.shape, strict=True)):
                raise InternalError(self._message(node, f"gives {str(o.dtype)}{list(o.shape)}, not {str(v.dtype)}{list(v.shape)}"))
            if o.call is not None and o.call.serial >= start and o.call.prim is not None and o.call.prim.name != "restride":
                o.strides = tuple(v.stride())
                if o.fake is None:
                    o.fake = v

    def _message(self, node: fx.Node, problem: str) -> str:
        where = stack_line(node.meta.get("stack", ()))
        return f"decomposition of {node.target} {problem}\n  node: {node.format_node()}" + (f"\n  from: {where}" if where else "")

    # -- outputs ----------------------------------------------------------------------------------------------------------
    def _outputs(self, nodes: Any) -> list[Any]:
        done: dict[Any, fx.Node] = {}
        outputs = []
        for n in nodes:
            value = self.env[n] if isinstance(n, fx.Node) else n
            if isinstance(value, Value):
                value = self._output(n, value, done)
            outputs.append(value)
        return outputs

    def _output(self, node: fx.Node, value: Value, done: dict[Any, fx.Node]) -> Value:
        """`value` with the promised strides and, unless the aten output is an input or an earlier output itself, memory of its own."""
        promised = tuple(node.meta["val"].stride())
        if node.op in ("placeholder", "get_attr"):
            return value
        taken = value.call is None or done.setdefault(value, node) is not node
        if taken or not _same_strides(value, promised):
            laid = _with_strides(self.builder, value, promised, fresh=taken)
            done.setdefault(laid, node)
            return laid
        return value


def _fake_mode(gm: fx.GraphModule) -> Any:
    """The mode of the graph's tensors; where it only computes numbers, a new one in their environment."""
    from lamina_dynshape import FakeMode, env_of, fake_mode_of

    values = [v for n in gm.graph.nodes for val in [n.meta.get("val")] for v in (val if isinstance(val, (tuple, list)) else (val,))]
    return fake_mode_of(*values) or FakeMode(env_of(*values))


def _agree(a: Any, b: Any) -> bool:
    """Whether two sizes are the same, as far as is known without a guard."""
    if type(a) is int and type(b) is int:
        return a == b
    return known_equal(a, b) or type(a) is not int or type(b) is not int


def _same_strides(value: Value, strides: Any) -> bool:
    for size, have, want in zip(value.shape, value.strides, strides, strict=True):
        if have is not want and not (type(size) is int and size <= 1) and not known_equal(have, want):
            return False
    return True


def _with_strides(builder: Builder, value: Value, strides: Any, *, fresh: bool = False) -> Value:
    """`value` in exactly this layout. Stride 0 (a broadcast dimension) is made by expanding a copy of one element; dense otherwise."""
    if not fresh and _same_strides(value, strides):
        return value
    from .prims import PRIMS

    flat = [d for d, (size, stride) in enumerate(zip(value.shape, strides, strict=True)) if type(stride) is int and stride == 0 and not known_equal(size, 1)]
    if flat and not fresh:
        inner = value
        for d in flat:
            inner = builder.emit(PRIMS["slice"], (inner, d, 0, 1, 1))
        inner = _with_strides(builder, inner, strides)
        return builder.emit(PRIMS["expand"], (inner, list(value.shape)))
    return builder.copy(value, strides) if fresh else builder.emit(PRIMS["restride"], (value, list(value.shape), list(strides)))
