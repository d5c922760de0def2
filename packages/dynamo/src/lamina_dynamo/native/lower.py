"""Lower guard records to the flat tables of a native program.

Between: `Guard` records -> `Program(...)` of the extension (program.h reads the tables in this order).
Keeps:   parents come before children, the checks of a node are contiguous, cheap guards on arguments come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch

from .. import source as src
from ..guards import Guard, GuardKind, ShapeCondition, TensorSpec
from ..source import Source
from .shapes import compile_condition

__all__ = ["lower"]

# Order as in the enums of program.h and checks.h.
_ACCESS = ("SLOT", "GLOBALS", "CELL", "CONST", "ATTR", "INST_DICT", "TYPE_OF", "TYPE_ATTR", "ITEM", "KEY", "CODE", "CLOSURE", "DEFAULT", "KWDEFAULT", "METHOD_SELF", "METHOD_FUNC", "CALL", "FREE_CELL", "JOIN", "MEMBER")  # fmt: skip
_KINDS = ("TYPE", "ID", "EQUALS", "NONE", "NOT_NONE", "BOOL", "LEN", "DICT_KEYS", "HAS_KEY", "NO_KEY", "HAS_ATTR", "NO_ATTR", "TENSOR", "WEAK_TYPE", "MRO")
_MEMBERS = ("__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__", "__annotations__")  # order as in abi.h
ACCESS = {name: i for i, name in enumerate(_ACCESS)}
KINDS = {GuardKind[name]: i for i, name in enumerate(_KINDS)}
_LEAF = {src.SizeSource: 0, src.StrideSource: 1, src.OffsetSource: 2}
_LEAF_INT = 3
_WEAK = {GuardKind.ID, GuardKind.TYPE, GuardKind.WEAK_TYPE}
_RELATION = {GuardKind.ALIAS: 0, GuardKind.NO_ALIAS: 1, GuardKind.NO_OVERLAP: 2}
_NEEDS_DICT = {GuardKind.LEN, GuardKind.DICT_KEYS, GuardKind.HAS_KEY, GuardKind.NO_KEY}


class _Tables:
    def __init__(self, arg_names: Sequence[str], free_names: Sequence[str]) -> None:
        self.slots = {n: i for i, n in enumerate(arg_names)}
        self.free = {n: i for i, n in enumerate(free_names)}
        self.nodes: list[list[Any]] = []  # access, parent, index, key, is_container
        self.node_of: dict[Any, int] = {}
        self.checks: list[tuple[int, int, int, Any, bool]] = []
        self.leaves: list[tuple[int, int, int]] = []
        self.leaf_of: dict[Source, int] = {}

    # ---- nodes ----
    def node(self, s: Source) -> int:
        found = self.node_of.get(s)
        if found is None:
            found = self.node_of[s] = self._make(s)
        return found

    def _add(self, access: str, parent: int = -1, index: int = 0, key: Any = None) -> int:
        self.nodes.append([ACCESS[access], parent, index, key, False])
        return len(self.nodes) - 1

    def _child(self, access: str, base: Source, index: int = 0, key: Any = None) -> int:
        return self._add(access, self.node(base), index, key)

    def _item(self, parent: int, key: Any) -> int:
        self.nodes[parent][4] = True
        return self._add("ITEM", parent, key if type(key) is int and abs(key) < 2**62 else 0, key)

    def _constant(self, value: Any) -> int:
        key = ("const", id(value))
        if key not in self.node_of:
            self.node_of[key] = self._add("CONST", key=value)
        return self.node_of[key]

    def _make(self, s: Source) -> int:
        match s:
            case src.LocalSource():
                return self._add("SLOT", index=self.slots[s.local])
            case src.GlobalsSource():
                return self._add("GLOBALS")
            case src.GlobalSource():
                return self._item(self.node(src.GlobalsSource()), s.key)
            case src.BuiltinSource():
                import builtins

                return self._item(self._constant(vars(builtins)), s.key)
            case src.CellSource():
                return self._add("CELL", index=self.free[s.cell])
            case src.FreeCellSource():
                return self._add("FREE_CELL", index=self.free[s.cell])
            case src.ConstantSource():
                return self._constant(s.value)
            case src.AttrSource():
                return self._child("ATTR", s.base, key=s.attr)
            case src.InstanceDictSource():
                return self._child("INST_DICT", s.base)
            case src.TypeSource():
                return self._child("TYPE_OF", s.base)
            case src.TypeAttrSource():
                return self._child("TYPE_ATTR", s.base, key=s.attr)
            case src.ItemSource():
                return self._item(self.node(s.base), s.key)
            case src.KeySource():
                parent = self.node(s.base)
                self.nodes[parent][4] = True
                return self._add("KEY", parent, s.index)
            case src.CodeSource():
                return self._child("CODE", s.base)
            case src.MemberSource():
                return self._child("MEMBER", s.base, _MEMBERS.index(s.attr))
            case src.ClosureSource():
                return self._child("CLOSURE", s.base, s.index)
            case src.DefaultsSource():
                return self._child("DEFAULT", s.base, s.index)
            case src.KwDefaultsSource():
                return self._child("KWDEFAULT", s.base, key=s.key)
            case src.MethodSelfSource():
                return self._child("METHOD_SELF", s.base)
            case src.MethodFunctionSource():
                return self._child("METHOD_FUNC", s.base)
            case src.CallSource():
                return self._child("CALL", s.base, key=s.function)
            case src.RowSource():
                row = self._child("JOIN", s.base, -1)
                for more in s.more.sources:
                    row = self._add("JOIN", row, self.node(more))
                return row
            case src.SizeSource() | src.StrideSource():
                return self._child("CALL", s.base, key=_number(type(s).method, s.dim))
            case src.OffsetSource():
                return self._child("CALL", s.base, key=_number("storage_offset"))
        raise TypeError(f"no native reader for {type(s).__name__}")

    # ---- numbers ----
    def leaf(self, s: Source) -> int:
        if s not in self.leaf_of:
            self.leaf_of[s] = len(self.leaves)
            self.leaves.append(self.number(s))
        return self.leaf_of[s]

    def number(self, s: Source) -> tuple[int, int, int]:
        kind = _LEAF.get(type(s))
        if kind is None:
            return self.node(s), _LEAF_INT, 0
        return self.node(s.parent), kind, getattr(s, "dim", 0)  # type: ignore[arg-type]

    # ---- checks ----
    def check(self, index: int, g: Guard) -> None:
        node = self.node(g.source)
        if g.kind in _NEEDS_DICT:
            self.nodes[node][4] = True
        expected = _tensor_table(g.expected) if g.kind is GuardKind.TENSOR else g.expected
        weak = not g.expected.cls.__module__.startswith("torch") if g.kind is GuardKind.TENSOR else g.kind in _WEAK
        self.checks.append((KINDS[g.kind], node, index, expected, weak))


def _number(method: str, *args: int) -> Any:
    def read(t: Any) -> int:
        with torch._C.DisableTorchFunctionSubclass():  # the question is ours, not the program's
            return getattr(t, method)(*args)

    read.__name__ = method
    return read


def _tensor_table(spec: TensorSpec) -> tuple[Any, ...]:
    keys = spec.keys
    return spec.cls, spec.dtype, str(spec.device), keys, spec.sizes, spec.strides, spec.requires_grad


def _rank(g: Guard) -> tuple[int, int]:
    """Arguments first, shallow before deep: what differs from call to call decides early."""
    chain = list(g.source.chain())
    return (0 if isinstance(chain[-1], src.LocalSource) and len(chain) == 1 else 1, len(chain))


def lower(ext: ModuleType, guards: Sequence[Guard], arg_names: Sequence[str], free_names: Sequence[str], supplied: Iterable[Source], cls: type) -> Any:
    """The native program of `guards`, an instance of `cls`."""
    t = _Tables(arg_names, free_names)
    shapes: list[tuple[int, list[tuple[int, int]]]] = []
    aliases: list[tuple[int, int, tuple[int, ...]]] = []
    state, state_index = None, -1
    across: list[tuple[int, Guard]] = []
    for i, g in sorted(enumerate(guards), key=lambda ig: _rank(ig[1])):
        match g.kind:
            case GuardKind.GLOBAL_STATE:
                state, state_index = _state_words(g.expected), i
            case GuardKind.SHAPE | GuardKind.ALIAS | GuardKind.NO_ALIAS | GuardKind.NO_OVERLAP:
                across.append((i, g))
            case GuardKind.EQUALS if type(g.source) in _LEAF and type(g.expected) is int:
                shapes.append((i, compile_condition(ShapeCondition("n == " + str(g.expected), (("n", g.source),)), t.leaf)))
            case _:
                t.check(i, g)
    for i, g in across:
        if g.kind is GuardKind.SHAPE:
            shapes.append((i, compile_condition(g.expected, t.leaf)))
        else:
            others = (g.expected,) if g.kind is GuardKind.ALIAS else g.expected
            aliases.append((i, _RELATION[g.kind], tuple(t.node(s) for s in (g.source, *others))))
    out: list[Any] = [t.number(s) if type(s) in _LEAF else t.node(s) for s in supplied]
    t.checks.sort(key=lambda c: c[1])
    program = cls(len(t.slots), [tuple(n) for n in t.nodes], t.checks, t.leaves, shapes, aliases, out, state, state_index)
    program.leaf_sources = list(t.leaf_of)
    return program


def _state_words(s: Any) -> tuple[int, ...]:
    from dataclasses import astuple

    return tuple(int(v) for v in astuple(s))
