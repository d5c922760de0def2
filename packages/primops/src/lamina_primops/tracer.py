"""The aten tracer: a callable on fake tensors becomes an FX graph of functional `OpOverload` calls.

`TraceMode` is a dispatch mode above `FakeMode` and below autograd and functionalization: composite ops arrive as their parts, backward formulas as
the ops the engine emits. Each op is run on fakes once, for its result's metadata, and recorded by `Tracer`.
Keeps:   every node has `meta["val"]` and `meta["stack"]`; symbolic sizes are nodes, one per expression; detach and alias leave no node;
         in-place ops are refused (functionalization above turns them into pure ones); random ops keep their order.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lamina_dynshape import FakeTensor, is_wrapper_class
from lamina_dynshape.support.errors import InternalError, Unsupported
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .frames import Frame, location
from .fxtools import add_node, eliminate_dead, graph_module, has_effect, target_name
from .symbolic import SymbolNodes, is_symbolic
from .wrappers import take_apart

__all__ = ["TraceMode", "Tracer", "trace"]

aten = torch.ops.aten

_ATOMS = frozenset({int, float, bool, str, type(None), complex, torch.dtype, torch.device, torch.layout, torch.memory_format})
# Ops whose result is its operand as far as a functional graph can tell.
_ALIASES = frozenset({aten.detach.default, aten.alias.default, aten.lift.default, aten.detach_.default})
_LIFTS = frozenset({aten.lift_fresh.default, aten.lift_fresh_copy.default})
# Views that only set a lazy bit, which fakes do not carry: recorded as the op that does the work.
_EAGER = {aten._conj.default: aten._conj_physical.default, aten._neg_view.default: aten.neg.default}
# What C++ asks where it wants plain sizes: no operators of the dispatcher.
_QUESTIONS = frozenset({aten.size.default, aten.stride.default, aten.sym_size.default, aten.sym_stride.default})
_PURE, _ALIAS, _LIFT, _COMPOSITE, _MUTABLE, _SCALAR = range(6)
_KIND: dict[Any, int] = {aten._local_scalar_dense.default: _SCALAR, **dict.fromkeys(_ALIASES, _ALIAS), **dict.fromkeys(_LIFTS, _LIFT)}


def _kind_of(func: Any) -> int:
    kind = _KIND.get(func)
    if kind is None:
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        # With a kernel of its own (silu_backward on the CPU) an op is no composite here: the dispatcher prefers that kernel.
        if has(func.name(), "CompositeImplicitAutograd") and not has(func.name(), "CPU"):
            kind = _COMPOSITE
        else:
            kind = _MUTABLE if func._schema.is_mutable else _PURE
        _KIND[func] = kind
    return kind


_NUMBERS = (int, float, complex, bool)


@functools.cache
def _wants_tensor(func: Any) -> bool:
    """Whether the first operand is a tensor that no number can stand for. Wrapped numbers arrive as numbers, at operators too that refuse them."""
    schema = func._schema
    return schema.arguments[0].type.kind() == "TensorType" and not torch._C._should_allow_numbers_as_tensors(schema.name.partition("::")[2])


class Tracer:
    """Builds one aten graph. aotgrad drives it directly: `placeholder`, ops under `TraceMode(tracer)`, `output`, `graph_module`."""

    def __init__(self, fake_mode: Any) -> None:
        self.fake_mode = fake_mode
        self.graph = fx.Graph()
        self.constants: dict[str, torch.Tensor] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._parts: dict[int, tuple[fx.Node, int]] = {}  # results of multi-output ops whose getitem node is not made yet
        self._alive: list[Any] = []  # ids above stay valid while these live
        self._lifted: dict[int, Any] = {}  # real tensor -> fake
        self._known: dict[int, torch.Tensor] = {}  # fake -> the constant behind it
        self._stack: tuple[Frame, ...] = ()
        self.symbols = SymbolNodes(self.graph, self._sym_int, self._annotate)

    # -- inputs, outputs --------------------------------------------------------------------------------------------------
    def placeholder(self, name: str, value: Any, **meta: Any) -> fx.Node:
        """An input of the graph: a fake tensor, a SymInt or a number. Extra keywords go into the node's meta."""
        node = add_node(self.graph, "placeholder", name, (), {}, name)
        node.meta.update(val=value, stack=self._stack, **meta)
        self.bind(value, node)
        return node

    def bind(self, value: Any, node: fx.Node) -> None:
        """`node` yields `value` (fake tensor or symbolic number) from now on."""
        if isinstance(value, torch.Tensor):
            self._nodes[id(value)] = node
            self._alive.append(value)
            self.symbols.bind_sizes(value.shape, node)
        elif is_symbolic(value):
            self.symbols.bind(value, node)

    def output(self, values: Sequence[Any]) -> fx.Node:
        """Close the graph: one flat tuple of what `node_of` takes."""
        return self.graph.output(tuple(self.node_of(v) for v in values))

    def graph_module(self, *, dead_code: bool = True) -> fx.GraphModule:
        """The graph traced so far, without dead nodes, as a module with the lifted constants."""
        if dead_code:
            eliminate_dead(self.graph)
        used = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        return graph_module(self.graph, {k: v for k, v in self.constants.items() if k in used})

    @contextlib.contextmanager
    def stack(self, frames: Sequence[Frame]) -> Iterator[None]:
        """Nodes made inside come from these user frames, innermost last."""
        before, self._stack = self._stack, tuple(frames)
        try:
            yield
        finally:
            self._stack = before

    # -- values to nodes --------------------------------------------------------------------------------------------------
    def node_of(self, value: Any) -> Any:
        """The node that yields a fake tensor or symbolic number; other values are returned as they are. Real tensors become constants."""
        if isinstance(value, torch.Tensor):
            node = self._nodes.get(id(value))
            if node is not None:
                return node
            part = self._parts.get(id(value))
            if part is not None:
                return self._getitem(value, *part)
            if self._is_fake(value):
                raise InternalError(f"a fake tensor of shape {tuple(value.shape)} was not made under this tracer")
            return self._nodes[id(self._lift(value))]
        return self.symbols.node_of(value) if is_symbolic(value) else value

    def _is_fake(self, value: Any) -> bool:
        return getattr(value, "fake_mode", None) is not None

    def _getitem(self, value: torch.Tensor, source: fx.Node, i: int) -> fx.Node:
        import operator

        node = add_node(self.graph, "call_function", operator.getitem, (source, i), {}, "getitem")
        node.meta.update(val=value, stack=source.meta.get("stack", ()))
        self._nodes[id(value)] = node
        self.symbols.bind_sizes(value.shape, node)
        return node

    def _lift(self, real: torch.Tensor) -> Any:
        """Fake tensor of a real one that the program closes over or makes from Python data; the real one becomes a constant of the graph."""
        fake = self._lifted.get(id(real))
        if fake is None:
            name = f"_tensor_constant{len(self.constants)}"
            fake = self.fake_mode.from_real(real)
            node = add_node(self.graph, "get_attr", name, (), {}, name)
            node.meta.update(val=fake, stack=self._stack)
            self.constants[name] = real
            self._lifted[id(real)] = fake
            self._alive.append(real)
            self._known[id(fake)] = real
            self.bind(fake, node)
        return fake

    def _sym_int(self, e: Any) -> Any:
        from lamina_dynshape import sym_int

        return sym_int(e, self.fake_mode.shape_env)

    def _annotate(self, node: fx.Node) -> None:
        node.meta["stack"] = self._stack

    def _argument(self, a: Any) -> Any:
        kind = type(a)
        if kind in _ATOMS:
            return a
        if isinstance(a, torch.Tensor):
            return self._nodes.get(id(a)) or self.node_of(a)
        if isinstance(a, (list, tuple)):
            return [self._argument(x) for x in a]
        return self.symbols.node_of(a) if is_symbolic(a) else a

    def _faked(self, a: Any) -> Any:
        """`a` with real tensors replaced by fakes of lifted constants."""
        if isinstance(a, torch.Tensor):
            return a if self._is_fake(a) else self._lift(a)
        if isinstance(a, (list, tuple)):
            return type(a)(self._faked(x) for x in a)
        return a

    # -- ops --------------------------------------------------------------------------------------------------------------
    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op on fakes and record it. FakeMode must be active."""
        func = _EAGER.get(func, func)
        kind = _kind_of(func)
        if kind == _MUTABLE:
            raise Unsupported("in-place op below functionalization", where=location(self._stack), saw=str(func), hint="trace under functionalization")
        if args and type(args[0]) in _NUMBERS and _wants_tensor(func):
            with _disable_current_modes():
                args = (torch.tensor(args[0]), *args[1:])
        args = tuple([a if type(a) in _ATOMS else self._faked(a) for a in args])
        if kwargs:
            kwargs = {k: a if type(a) in _ATOMS else self._faked(a) for k, a in kwargs.items()}
        if kind == _LIFT:
            return args[0]
        if kind == _SCALAR and id(args[0]) in self._known:
            with _disable_current_modes():
                return self._known[id(args[0])].item()
        out = func(*args, **kwargs)
        if kind == _ALIAS:
            if out is not args[0]:
                self._share(out, args[0])
            return out
        self._record(func, args, kwargs, out)
        return out

    def _share(self, out: Any, source: Any) -> None:
        self._nodes[id(out)] = self.node_of(source)
        self._alive.append(out)
        if id(source) in self._known:
            self._known[id(out)] = self._known[id(source)]

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        effect = out is None and has_effect(func)
        if not effect and not isinstance(out, (torch.Tensor, list, tuple)) and not is_symbolic(out):
            return  # a plain number or None: known while tracing
        node = add_node(
            self.graph, "call_function", func, tuple([self._argument(a) for a in args]), {k: self._argument(a) for k, a in kwargs.items()}, target_name(func)
        )
        node.meta["stack"] = self._stack
        if isinstance(out, (list, tuple)):
            node.meta["val"] = tuple(out)
            for i, o in enumerate(out):
                if isinstance(o, torch.Tensor):
                    self._nodes.pop(id(o), None)
                    self._parts[id(o)] = (node, i)
                    self._alive.append(o)
        else:
            node.meta["val"] = out
            if not effect:
                self.bind(out, node)


class TraceMode(TorchDispatchMode):
    """Records every op that reaches it into `tracer`. Enter the fake mode before it."""

    def __init__(self, tracer: Tracer, decompositions: Mapping[Any, Callable[..., Any]] | None = None) -> None:
        super().__init__()
        self.tracer = tracer
        self.decompositions = decompositions or {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # keeps torch._dynamo unloaded: the default wraps the handler with it

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        for t in types:
            if t is not FakeTensor and is_wrapper_class(t):
                if any(torch._is_functional_tensor(x) for a in args if isinstance(a, t) for x in take_apart(a)[1]):
                    raise Unsupported("tensor subclass that code of the program makes where it is not captured", where=location(self.tracer._stack), saw=t.__qualname__)
                return NotImplemented  # the class's own `__torch_dispatch__` calls on what is inside
        kwargs = kwargs or {}
        if type(func) is torch._ops.OpOverloadPacket or func in _QUESTIONS:
            return self.tracer.fake_mode.dispatch(func, args, kwargs)
        if self.decompositions:
            rule = self.decompositions.get(func)
            if rule is not None:
                with self:
                    return rule(*args, **kwargs)
        if _kind_of(func) == _COMPOSITE:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return self.tracer.call(func, args, kwargs)


def trace(fn: Callable[..., Any], fake_args: Sequence[Any], *, decompositions: Mapping[Any, Callable[..., Any]] | None = None) -> fx.GraphModule:
    """The aten graph of `fn(*fake_args)`; the output is the flat tuple of the tensors and numbers in what it returns.

    `fake_args`: fake tensors of one mode, SymInts, numbers. `decompositions` are applied while tracing. In-place ops raise `Unsupported`: run
    functionalization above for those.
    """
    from lamina_dynshape import FakeMode, env_of, fake_mode_of

    mode = fake_mode_of(*fake_args) or FakeMode(env_of(*fake_args))
    tracer = Tracer(mode)
    for i, a in enumerate(fake_args):
        if isinstance(a, torch.Tensor) or is_symbolic(a):
            tracer.placeholder(f"arg{i}", a)
    with mode, TraceMode(tracer, decompositions):
        out = fn(*fake_args)
    tracer.output(torch.utils._pytree.tree_leaves(out))
    return tracer.graph_module()
