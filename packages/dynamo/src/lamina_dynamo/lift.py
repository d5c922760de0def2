"""Lifting: what the interpreter sees of a value that comes from outside the frame, and the guards that this relies on.

Between: every read of a local, global, cell, attribute or item of the outside -> the interpreter's stack.
Keeps:   tensors become fakes; built-in mutable containers become shadows whose elements are lifted; constants are
         guarded by value; functions, classes and modules by identity; other objects by type, and stay themselves.
         The same outside object always gives the same lifted object.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import gc
import math
import operator
import os
import pathlib
import re
import string
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from typing import Any

import torch

from .control import MISSING, NotYet, refusal, unsupported
from .guards import GuardKind, TensorSpec
from .loops import grows, refuse_growing, was_symbolic
from .source import AttrSource, CallSource, CodeSource, ConstantSource, InstanceDictSource, ItemSource, KeySource, Source, cell_source

__all__ = ["HEAP_TYPE", "IMMUTABLE", "Lifting", "is_torch_owned", "unbound"]

K = GuardKind
LARGE_DICT = 400  # entries; larger dictionaries are only read by constant key, and copied when the program does more with them
_ENVIRONMENT = os.environ._data  # libraries, ours among them, add to it at any time: what the program does not ask for is not guarded
MAX_COPIED = 10_000  # entries of an outside dictionary that is copied at all
_SCALARS = frozenset({int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, range, slice, torch.iinfo, torch.finfo})
_BY_VALUE = frozenset({fractions.Fraction, type(pathlib.Path()), type(pathlib.PurePath())})  # of Python classes, but never changed
_SINGLETONS = frozenset({type(...), type(NotImplemented)})
_BOUND = frozenset({types.BuiltinFunctionType, types.MethodWrapperType})
_BY_IDENTITY = frozenset({
    types.BuiltinFunctionType, types.ModuleType, type, types.WrapperDescriptorType, types.MethodDescriptorType, types.MethodWrapperType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.CodeType, property, staticmethod, classmethod, types.GenericAlias, types.UnionType, functools._lru_cache_wrapper,
    torch._ops.OpOverload, torch._ops.OpOverloadPacket, type(torch.ops), type(torch.ops.aten),
})  # fmt: skip
_CONTAINERS = (list, dict, set, deque)


def _behind_proxy(proxy: Any) -> Any:
    (mapping,) = gc.get_referents(proxy)
    return mapping


class Lifting:
    """Mixin of `Capture`."""

    def lift(self, v: Any, source: Source) -> Any:
        """What the interpreter works on in place of the outside value `v`, reached by `source`."""
        if v is None:
            self.guard(source, K.NONE)
            return v
        if v is True or v is False:
            self.guard(source, K.BOOL, v)
            return v
        t = type(v)
        if t is int or t is float:
            return self._lift_number(v, source)
        if t in _SCALARS:
            self.guard(source, K.EQUALS, v)
            return v
        if t in _BOUND and not isinstance(v.__self__, (types.ModuleType, type, type(None))) and hasattr(v.__self__, v.__name__):
            return self._lift_bound_builtin(v, source)
        if t in _BY_IDENTITY or t in _SINGLETONS:
            return self._lift_identity(v, source)
        if t is types.FunctionType:
            return self._lift_function(v, source)
        known = self.lifted.get(id(v))
        if known is not None and self.keep.get(id(v)) is v:
            self._again(v, source)
            return known
        if id(v) in self.own:
            return v
        if isinstance(v, torch.Tensor):
            return self._lift_tensor(v, source)
        if isinstance(v, tuple):
            return self._lift_tuple(v, source)
        if isinstance(v, _CONTAINERS):
            return self._lift_container(v, source)
        if isinstance(v, (type, enum.Enum, types.ModuleType)):
            return self._lift_identity(v, source)
        if t is frozenset:
            self.guard(source, K.EQUALS, v)
            return v
        if t is types.MethodType:
            return self._lift_method(v, source)
        if t is functools.partial:
            return self._lift_partial(v, source)
        if t is super:
            return self._lift_super(v, source)
        if t is types.MappingProxyType:
            self.guard(source, K.TYPE, t)
            return self._lift_proxy(v, source)
        if t is types.CellType:
            return self.cell(v, AttrSource(source, "cell_contents"))
        if isinstance(v, (int, float, str)) or t.__module__ == "numpy" and hasattr(v, "item") and getattr(v, "shape", 1) == ():
            self.guard(source, K.EQUALS, v)
            return v
        if t in _BY_VALUE:
            self.guard(source, K.EQUALS, v)
            self.lifted[id(v)] = self.keep[id(v)] = v
            return v
        return self._lift_object(v, source)

    # ---- kinds -------------------------------------------------------------------------------------------------------
    def _lift_number(self, v: Any, source: Source) -> Any:
        varies = self.policy.varies(source.name(), v) or self.policy.dynamic is not False and was_symbolic(self, source)
        if varies and type(source) is not ConstantSource:
            return self.lift_changing(v, source)
        self.guard(source, K.EQUALS, v)
        return v

    def lift_changing(self, v: Any, source: Source) -> Any:
        """A number that may be another one at each call."""
        ordinary = abs(v) < 1 << 62 if type(v) is int else math.isfinite(v) and v != 0  # zeros have a sign that no condition tells
        self.guard(source, K.TYPE if ordinary else K.EQUALS, type(v) if ordinary else v)
        return self.symbolic_number(v, source) if ordinary else v

    def _lift_proxy(self, v: Any, source: Source) -> Any:
        """A view of our dictionary in place of the outside one."""
        ours = self.lifted[id(v)] = types.MappingProxyType(self.lift(_behind_proxy(v), CallSource(_behind_proxy, source)))
        self.keep[id(v)] = v
        self.remember(ours, source)
        return ours

    def _lift_identity(self, v: Any, source: Source) -> Any:
        self.guard(source, K.ID, v)
        if id(v) not in self.sources:
            self.remember(v, ConstantSource(v))
        return v

    def _lift_function(self, v: Any, source: Source) -> Any:
        if id(v) in self.own:
            return v
        if v.__closure__ or type(source.root).__name__ == "LocalSource":
            self.guard(CodeSource(source), K.ID, v.__code__)
            first = self.sources.get(id(v))
            if first is None:
                self.remember(v, source)
            elif first is not source:  # its cells were read by the other path
                self.guard(source, *((K.ID, v) if type(first) is ConstantSource else (K.ALIAS, first)))
            return v
        return self._lift_identity(v, source)

    def _again(self, v: Any, source: Source) -> None:
        """A known outside object reached by another path: it must stay the same one."""
        lifted = self.lifted[id(v)]
        first = self.sources.get(id(v)) or self.sources.get(id(lifted))
        if first is None:
            inp = self.inputs.get(id(lifted))
            first = inp.source if inp is not None else None
        if first is not None and first is not source:
            if type(first) is ConstantSource:
                self.guard(source, K.ID, v)
            else:
                self.guard(source, K.ALIAS, first)

    def _lift_tensor(self, v: torch.Tensor, source: Source) -> Any:
        from .overrides import class_as_fake
        from .wrappers import can_be_taken_apart, lift_wrapper

        with torch._C.DisableTorchFunction():
            if self.is_fake(v):
                return v
            if id(v) in self.recorder.ended:
                unsupported("functorch", "a tensor that outlives its functorch transform")
            if torch.nn.parameter.is_lazy(v):
                raise NotYet(refusal("lazy-module", "a parameter that the first call of a lazy module makes", saw=source.name()))
            if can_be_taken_apart(type(v)) and self.recorder.scope is None:
                return lift_wrapper(self, v, source)
            cls = class_as_fake(v)
            if v.layout is not torch.strided:
                unsupported("tensor-layout", "a tensor that is not strided", saw=str(v.layout))
            role = "parameter" if isinstance(v, torch.nn.Parameter) else "buffer" if _is_buffer(source) else "input"
            fake = self.add_input(v, source, role)
            inp = self.inputs[id(fake)]
            if cls is not None:
                self.class_of[id(fake)] = cls
            if type(source) is not ConstantSource:
                self.guards.add(source, K.TENSOR, TensorSpec.of(v, dynamic=inp.dynamic, dynamic_strides=[d for d, s in enumerate(fake.strides) if type(s) is not int]))
        return fake

    def _lift_tuple(self, v: tuple[Any, ...], source: Source) -> Any:
        plain = all(type(x) in _SCALARS or x is None or x is True or x is False for x in v)
        if plain and not (type(v) is tuple and self.policy.items_vary([ItemSource(source, i).name() for i in range(len(v))], v, source.name())):
            self.guard(source, K.EQUALS, v) if type(v) is tuple else self._guard_tuple(v, source)
            if type(v) is not tuple:
                for i, x in enumerate(v):
                    self.lift(x, ItemSource(source, i))
            return v
        self._guard_tuple(v, source)
        items = [self.lift(x, ItemSource(source, i)) for i, x in enumerate(v)]
        new = v if all(a is b for a, b in zip(items, v)) else type(v)(items) if hasattr(type(v), "n_sequence_fields") else tuple.__new__(type(v), items)
        self.lifted[id(v)] = new
        self.keep[id(v)] = v
        self.remember(new, source)
        return new

    def _guard_tuple(self, v: Any, source: Source) -> None:
        self.guard(source, K.TYPE, type(v))
        self.guard(source, K.LEN, len(v))

    def _lift_method(self, v: Any, source: Source) -> Any:
        self.guard(source, K.TYPE, types.MethodType)
        from .source import MethodFunctionSource, MethodSelfSource

        func = self.lift(v.__func__, MethodFunctionSource(source))
        new = types.MethodType(func, self.lift(v.__self__, MethodSelfSource(source)))
        self.lifted[id(v)] = new
        self.keep[id(v)] = v
        self.remember(new, source)
        return new

    def _lift_bound_builtin(self, v: Any, source: Source) -> Any:
        """A C method bound to an object, such as `list.append`: the method of the lifted object."""
        known = self.lifted.get(id(v))
        if known is not None:
            self._again(v, source)
            return known
        self.guard(source, K.TYPE, type(v))
        self.guard(AttrSource(source, "__name__"), K.EQUALS, v.__name__)
        owner = self.lift(v.__self__, AttrSource(source, "__self__"))
        raw = unbound(v)
        new = getattr(owner, v.__name__) if raw is None else raw.__get__(owner)
        self.lifted[id(v)] = new
        self.remember(v, source)
        return new

    def _lift_partial(self, v: functools.partial[Any], source: Source) -> Any:
        self.guard(source, K.TYPE, functools.partial)
        func = self.lift(v.func, AttrSource(source, "func"))
        args = self.lift(v.args, AttrSource(source, "args"))
        keywords = self.lift(v.keywords, AttrSource(source, "keywords"))
        new = functools.partial(func)
        new.__setstate__((func, args, keywords, {}))  # takes the dictionary itself: what is written to it is seen
        self.lifted[id(v)] = new
        self.keep[id(v)] = v
        self.remember(new, source)
        return new

    def _lift_super(self, v: Any, source: Source) -> Any:
        self.guard(source, K.TYPE, super)
        cls = self.lift(v.__thisclass__, AttrSource(source, "__thisclass__"))
        new = super(cls, self.lift(v.__self__, AttrSource(source, "__self__")))
        self.lifted[id(v)] = new
        self.keep[id(v)] = v
        self.remember(new, source)
        return new

    def _lift_object(self, v: Any, source: Source) -> Any:
        if isinstance(v, IMMUTABLE) or type(v).__module__ == "numpy" and type(v).__name__ in _NUMPY_FUNCTIONS:
            return self._lift_identity(v, source)
        if isinstance(v, weakref.ref):
            self.guard(source, K.TYPE, type(v))
            self.remember(v, source)
            self.lifted[id(v)] = v
            return v
        self.guard(source, K.TYPE, type(v))
        self.lifted[id(v)] = v
        self.remember(v, source)
        if _is_opaque(v):
            self.opaque.add(id(v))
        return v

    # ---- containers --------------------------------------------------------------------------------------------------
    def _lift_container(self, v: Any, source: Source) -> Any:
        t = type(v)
        self.guard(source, K.TYPE, t)
        if t is dict and any(getattr(self.keep[k], "__dict__", None) is v for k in self.overlay if not isinstance(self.keep[k], torch.Tensor)):
            unsupported("instance-dict", "the dictionary of an object whose attributes were written", hint="use setattr")
        large = isinstance(v, dict) and (v is _ENVIRONMENT or len(v) > (LARGE_DICT if t is dict else MAX_COPIED))
        if large and id(v) not in self.copied_dicts:
            self.opaque.add(id(v))
            self.lifted[id(v)] = v
            self.remember(v, source)
            return v
        if t is list and grows(self, v, source):
            self.opaque.add(id(v))
            self.growing[id(v)] = self.lifted[id(v)] = v
            self.remember(v, source)
            return v
        shadow = self._empty_like(v)
        self.lifted[id(v)] = shadow
        self.keep[id(v)] = v
        self.shadow_of[id(v)] = shadow
        self.original_of[id(shadow)] = v
        self.remember(shadow, source)
        if isinstance(v, dict):
            self._fill_dict(v, shadow, source)
            self.pristine[id(shadow)] = dict(_items(shadow))
        elif isinstance(v, set):
            self._fill_set(v, shadow, source)
            self.pristine[id(shadow)] = set(shadow)
        else:
            base = deque if isinstance(v, deque) else list
            self.guard(source, K.LEN, base.__len__(v))
            for i in range(base.__len__(v)):
                base.append(shadow, self.lift(base.__getitem__(v, i), ItemSource(source, i)))
            self.pristine[id(shadow)] = list(base.__iter__(shadow))
        return shadow

    def _empty_like(self, v: Any) -> Any:
        t = type(v)
        if t in (list, dict, set, OrderedDict):
            return t()
        if isinstance(v, defaultdict):
            new = t.__new__(t)
            defaultdict.__init__(new, v.default_factory)
            return new
        if isinstance(v, deque):
            new = t.__new__(t)
            deque.__init__(new, (), v.maxlen)
            return new
        return t.__new__(t)

    def _fill_dict(self, v: Any, shadow: Any, source: Source) -> None:
        put = OrderedDict.__setitem__ if isinstance(v, OrderedDict) else dict.__setitem__
        items = list(_items(v))
        if all(type(k) in (str, int, float, bool, type(None), bytes, torch.dtype, torch.device) or _plain_tuple(k) for k, _ in items):
            self.guard(source, K.DICT_KEYS, tuple(k for k, _ in items))
            for k, x in items:
                put(shadow, k, self.lift(x, ItemSource(source, k)))
            return
        self.guard(source, K.LEN, len(items))
        self.refuse_user_keys(*[k for k, _ in items])
        for i, (k, x) in enumerate(items):
            key = self.lift(k, KeySource(source, i))
            put(shadow, key, self.lift(x, CallSource(_NthValue.at(i), source)))

    def _fill_set(self, v: Any, shadow: Any, source: Source) -> None:
        if all(type(x) in _SCALARS or x is None or type(x) is bool for x in v):
            self.guard(CallSource(frozenset, source), K.EQUALS, frozenset(v))
            set.update(shadow, v)
            return
        self.guard(source, K.LEN, len(v))
        self.refuse_user_keys(*v)
        for i, x in enumerate(v):
            set.add(shadow, self.lift(x, CallSource(_NthValue.at(i), source)))

    # ---- constants met by native code ----------------------------------------------------------------------------------
    def lift_constant(self, t: torch.Tensor) -> Any:
        """The fake of a real tensor that reached a torch call without a source: a constant of the graph."""
        known = self.lifted.get(id(t))
        if known is not None and self.keep.get(id(t)) is t:
            return known
        refuse_growing(self, [v for v in self.growing.values() if any(x is t for x in v)])
        return self._lift_tensor(t, ConstantSource(t))

    def has_outside_tensor(self, args: Any) -> bool:
        for a in args:
            if isinstance(a, torch.Tensor):
                if not self.is_fake(a):
                    return True
            elif type(a) in (tuple, list) and self.has_outside_tensor(a):
                return True
        return False

    def lift_arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        def go(x: Any) -> Any:
            if isinstance(x, torch.Tensor) and not self.is_fake(x):
                return self.lift_constant(x)
            if type(x) in (tuple, list):
                return type(x)(map(go, x))
            return x

        return tuple(map(go, args)), {k: go(v) for k, v in kwargs.items()}

    # ---- cells -------------------------------------------------------------------------------------------------------
    def cell(self, outside: types.CellType, source: Source) -> types.CellType:
        """Our cell in place of an outside one: contents, from `source`, are lifted, writes stay ours until replayed."""
        if id(outside) in self.own_cells:
            return outside
        found = self.cell_of.get(id(outside))
        if found is not None:
            if source is not (first := self.own_cells[id(found)][2]):
                self.guard(cell_source(source), K.ALIAS, cell_source(first))
            return found
        ours = types.CellType()
        try:
            contents = outside.cell_contents
        except ValueError:
            pass
        else:
            ours.cell_contents = self.lift(contents, source)
        self.cell_of[id(outside)] = ours
        self.own_cells[id(ours)] = (ours, outside, source, _contents(ours))
        self.keep[id(outside)] = outside
        return ours

    def guard_empty(self, cell: types.CellType) -> None:
        """The program met an empty cell."""
        _, outside, source, before = self.own_cells.get(id(cell), (None, None, None, None))
        if outside is not None and before is MISSING:
            self.guard(CallSource(_is_empty, cell_source(source)), K.BOOL, True)

    def instance_dict_source(self, base: Source) -> Source:
        return InstanceDictSource(base)


def unbound(v: Any) -> Any:
    """The descriptor that a bound C method came from: where `super()` gave it, not the one that its name finds."""
    if type(v) is types.MethodWrapperType:
        return v.__objclass__.__dict__[v.__name__]
    found = (k.__dict__.get(v.__name__) for k in type(v.__self__).__mro__)
    return next((d for d in found if type(d) is types.MethodDescriptorType and d.__get__(v.__self__) == v), None)


_opaque_types: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by C code at run time
IMMUTABLE = (re.Pattern, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, operator.itemgetter, operator.attrgetter, operator.methodcaller, string.Template)
_NUMPY_FUNCTIONS = frozenset({"ufunc", "_ArrayFunctionDispatcher"})
_STORAGES = (torch.UntypedStorage, torch.TypedStorage)
_READ_BY_RULES = (types.FrameType, types.TracebackType, BaseException, functools.partial, super)


def _is_opaque(v: Any) -> bool:
    """Whether the object has state in C that no guard of ours looks at: arrays, buffers, locks, C iterators."""
    t = type(v)
    known = _opaque_types.get(t)
    if known is None:
        if t is object:  # a sentinel
            return False
        base = next(k for k in t.__mro__ if not k.__flags__ & HEAP_TYPE)
        made_in_c = base is not object or not hasattr(v, "__dict__") and not any("__slots__" in k.__dict__ for k in t.__mro__)
        known = _opaque_types[t] = issubclass(t, _STORAGES) or made_in_c and not issubclass(t, _READ_BY_RULES) and not any((k.__module__ or "").startswith(("torch", "pybind11", "lamina")) for k in t.__mro__)
    return known


class _NthValue:
    """Item number `i` of an iterable, as a pure function for `CallSource`. One object per number: sources are interned by identity."""

    _made: dict[int, _NthValue] = {}

    def __init__(self, i: int) -> None:
        self.i = i
        self.__name__ = f"item_{i}"

    def __call__(self, c: Any) -> Any:
        items = c.values() if isinstance(c, dict) else c
        return next(x for j, x in enumerate(items) if j == self.i)

    @classmethod
    def at(cls, i: int) -> _NthValue:
        return cls._made.setdefault(i, cls(i))


def _items(d: dict[Any, Any]) -> Any:
    """Items as C sees them, in the order of the kind of dictionary."""
    return OrderedDict.items(d) if isinstance(d, OrderedDict) else dict.items(d)


def _is_empty(cell: types.CellType) -> bool:
    return _contents(cell) is MISSING


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _plain_tuple(k: Any) -> bool:
    return type(k) is tuple and all(type(x) in (str, int, bool, float, type(None)) or _plain_tuple(x) for x in k)


def _is_buffer(source: Source) -> bool:
    base = getattr(source, "base", None)
    return isinstance(base, ItemSource) and base.key == "_buffers"


def is_torch_owned(module: str | None) -> bool:
    """Whether code of this module is PyTorch's own: its globals, classes and defaults are taken as constant."""
    return module is not None and (module == "torch" or module.startswith(("torch.", "torch._")))
