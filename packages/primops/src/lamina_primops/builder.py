"""The builder of prims graphs: values instead of fakes, hash-consing instead of passes.

Decompositions call prims on `Value`s: a shape, strides, dtype and device, and the call that makes them. Each prim call is simplified (`simplify`), looked
up among the calls already made (common subexpressions cost nothing) and otherwise described by the prim's meta rule. FX nodes and
fakes are made at the end, for the live calls only (dead code costs no node), in creation order (random ops keep theirs).
Keeps:   a `Value` is immutable but for its strides, which are free in this dialect until it becomes a graph output.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from .fxtools import add_node, has_effect, target_name
from .prims import Prim, Spec
from .symbolic import SymbolNodes, is_symbolic, size_key

__all__ = ["Builder", "Call", "Value", "current"]


class Call:
    """One op of the graph under construction. `target` is an overload; `fallback` says why an ATen call is there."""

    __slots__ = ("args", "fallback", "kwargs", "live", "node", "outputs", "prim", "serial", "stack", "target", "val")

    def __init__(self, target: Any, prim: Prim | None, args: tuple[Any, ...], kwargs: dict[str, Any], serial: int, stack: Any) -> None:
        self.target, self.prim, self.args, self.kwargs, self.serial, self.stack = target, prim, args, kwargs, serial, stack
        self.fallback: str | None = None
        self.outputs: Any = None
        self.val: Any = None  # meta["val"] of a call that is no prim
        self.live = False
        self.node: fx.Node | None = None


class Value:
    """A tensor of the graph under construction; enough of a tensor for meta rules and decompositions."""

    __slots__ = ("call", "device", "dtype", "fake", "index", "node", "shape", "strides")

    def __init__(self, shape: tuple[Any, ...], strides: tuple[Any, ...], dtype: torch.dtype, device: torch.device, call: Call | None, index: int | None) -> None:
        self.shape, self.strides, self.dtype, self.device, self.call, self.index = shape, strides, dtype, device, call, index
        self.fake: Any = None
        self.node: fx.Node | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def stride(self) -> tuple[Any, ...]:
        return self.strides

    def __repr__(self) -> str:
        made = "input" if self.call is None else target_name(self.call.target)
        return f"Value({made}, {str(self.dtype).removeprefix('torch.')}{list(self.shape)})"


_LOCAL = threading.local()


def current() -> Builder | None:
    """The builder whose `with` block this thread is in."""
    return getattr(_LOCAL, "builder", None)


class Builder:
    """Builds one prims graph over `fake_mode`. Use as a context manager around decompositions."""

    def __init__(self, fake_mode: Any) -> None:
        from .simplify import SIMPLIFY

        self.fake_mode = fake_mode
        self.calls: list[Call] = []
        self.stack: tuple[Any, ...] = ()
        self.val: Any = None  # metadata of the ATen op being decomposed, when known
        self._made: dict[Any, Any] = {}
        self._simplify: dict[str, Callable[..., Any]] = SIMPLIFY
        self._symbolic: dict[int, tuple[Any, Call]] = {}  # SymFloat, SymBool -> the call that yields them
        self._outer: Builder | None = None

    def __enter__(self) -> Builder:
        self._outer, _LOCAL.builder = current(), self
        return self

    def __exit__(self, *exc: Any) -> None:
        _LOCAL.builder = self._outer

    # -- making values ----------------------------------------------------------------------------------------------------
    def input(self, fake: torch.Tensor) -> Value:
        """A tensor that comes from outside (placeholder or constant)."""
        v = Value(tuple(fake.shape), tuple(fake.stride()), fake.dtype, fake.device, None, None)
        v.fake = fake
        return v

    def emit(self, prim: Prim, args: tuple[Any, ...]) -> Any:
        """The value (or values) of a prim call: simplified, an equal earlier call, or a new one."""
        rule = self._simplify.get(prim.name)
        if rule is not None:
            found = rule(*args)
            if found is not None:
                return found
        key = (prim, *[_key(a) for a in args])
        found = self._made.get(key)
        if found is not None:
            return found
        spec = prim.meta(*args)
        call = self._call(prim.overload, prim, args, {})
        if type(spec) is Spec:
            out: Any = Value(spec.shape, spec.strides, spec.dtype, spec.device, call, None)
        else:
            out = tuple(Value(s.shape, s.strides, s.dtype, s.device, call, i) for i, s in enumerate(spec))
        call.outputs = self._made[key] = out
        return out

    def _call(self, target: Any, prim: Prim | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = Call(target, prim, args, kwargs, len(self.calls), self.stack)
        self.calls.append(call)
        return call

    def copy(self, x: Value, strides: Sequence[Any]) -> Value:
        """A `restride` that is shared with no other one: memory of its own."""
        from .prims import PRIMS

        call = self._call(PRIMS["restride"].overload, PRIMS["restride"], (x, list(x.shape), list(strides)), {})
        call.outputs = Value(x.shape, tuple(strides), x.dtype, x.device, call, None)
        return call.outputs

    def fallback(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str, val: Any = None) -> Any:
        """An ATen call that stays one. `val`: its metadata when known, else the op runs on fakes."""
        key = None
        if not has_effect(func):
            key = (func, *[_key(a) for a in args], *[(k, _key(a)) for k, a in sorted(kwargs.items())])
            found = self._made.get(key)
            if found is not None:
                return found
        if val is None:
            with self.fake_mode:
                val = func(*_map(args, self.fake), **_map(kwargs, self.fake))
        call = self._call(func, None, args, kwargs)
        call.fallback, call.val = reason, tuple(val) if isinstance(val, list) else val
        call.live = has_effect(func) or is_symbolic(val)
        call.outputs = self._outputs(call, val)
        if key is not None:
            self._made[key] = call.outputs
        return call.outputs

    def _outputs(self, call: Call, val: Any) -> Any:
        if isinstance(val, torch.Tensor):
            return self._value(call, val, None)
        if isinstance(val, (tuple, list)):
            return tuple(self._value(call, v, i) if isinstance(v, torch.Tensor) else v for i, v in enumerate(val))
        return val

    def _value(self, call: Call, fake: torch.Tensor, index: int | None) -> Value:
        v = Value(tuple(fake.shape), tuple(fake.stride()), fake.dtype, fake.device, call, index)
        v.fake = fake
        return v

    def symbolic(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], val: Any) -> Any:
        """Arithmetic on sizes that is no integer expression (floats, truth values): kept as it is."""
        call = self._call(target, None, args, kwargs)
        call.val = call.outputs = val
        call.live = True
        if is_symbolic(val):
            self._symbolic[id(val.node)] = (val, call)
        return val

    def fake(self, v: Any) -> Any:
        """The fake tensor of a value, made when first asked for; anything else as it is."""
        if type(v) is not Value:
            return v
        if v.fake is None or tuple(v.fake.stride()) != tuple(v.strides):
            v.fake = self.fake_mode.empty_strided(v.shape, v.strides, dtype=v.dtype, device=v.device)
        return v.fake

    # -- writing the graph --------------------------------------------------------------------------------------------------
    def write(self, graph: fx.Graph, outputs: Sequence[Any], symbols: SymbolNodes) -> None:
        """Append the live calls and the output. Input values must have their `node`."""
        self._mark(outputs)
        for call in self.calls:
            if call.live:
                self._write(graph, call, symbols)
        graph.output(tuple(self._argument(v, symbols, graph) for v in outputs))

    def _mark(self, outputs: Sequence[Any]) -> None:
        for v in _values(outputs):
            if v.call is not None:
                v.call.live = True
        for call in reversed(self.calls):
            if call.live:
                for v in _values((call.args, call.kwargs)):
                    if v.call is not None:
                        v.call.live = True

    def _write(self, graph: fx.Graph, call: Call, symbols: SymbolNodes) -> None:
        args = tuple([self._argument(a, symbols, graph) for a in call.args])
        kwargs = {k: self._argument(a, symbols, graph) for k, a in call.kwargs.items()} if call.kwargs else {}
        node = call.node = add_node(graph, "call_function", call.target, args, kwargs, target_name(call.target))
        node.meta["stack"] = call.stack
        if call.fallback is not None:
            node.meta["fallback"] = call.fallback
        out = call.outputs
        if type(out) is Value:
            out.node, node.meta["val"] = node, self.fake(out)
        elif call.prim is not None:
            node.meta["val"] = tuple(self.fake(v) for v in out)
        else:
            node.meta["val"] = call.val
            if is_symbolic(call.val):
                symbols.bind(call.val, node)

    def _argument(self, a: Any, symbols: SymbolNodes, graph: fx.Graph) -> Any:
        kind = type(a)
        if kind is Value:
            return a.node or self._part(a, graph)
        if kind is list or kind is tuple:
            return [self._argument(x, symbols, graph) for x in a]
        if kind is int or kind is float or not is_symbolic(a):
            return a
        found = self._symbolic.get(id(a.node))
        return symbols.node_of(a) if found is None else found[1].node

    def _part(self, v: Value, graph: fx.Graph) -> fx.Node:
        assert v.call is not None and v.index is not None
        source = v.call.node
        v.node = add_node(graph, "call_function", operator.getitem, (source, v.index), {}, "getitem")
        v.node.meta.update(val=self.fake(v), stack=v.call.stack)
        return v.node


def _key(a: Any) -> Any:
    """Hashable identity of an argument. 1, 1.0 and True differ, so do 0.0 and -0.0."""
    kind = type(a)
    if kind is Value:
        return a
    if kind is list or kind is tuple:
        return tuple([_key(x) for x in a])
    if kind is float:
        return (float, a.hex())
    if is_symbolic(a):
        key = size_key(a)
        return key if key is not a else id(a.node)
    return (kind, a)


def _values(a: Any) -> list[Value]:
    found: list[Value] = []
    todo = [a]
    while todo:
        x = todo.pop()
        if type(x) is Value:
            found.append(x)
        elif isinstance(x, (list, tuple)):
            todo.extend(x)
        elif isinstance(x, dict):
            todo.extend(x.values())
    return found


def _map(a: Any, fn: Callable[[Any], Any]) -> Any:
    if isinstance(a, (list, tuple)):
        return type(a)(_map(x, fn) for x in a)
    if isinstance(a, dict):
        return {k: _map(x, fn) for k, x in a.items()}
    return fn(a)
