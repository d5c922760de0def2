"""Python's implicit protocols on values during capture: iteration, truth of tensors, formatting, callbacks, making objects.

Between: opcode handlers and rules -> values; C code -> interpreted functions (trampolines).
Keeps:   C code never runs the program's Python functions natively: callables given to it are trampolines, iterables
         written in Python are wrapped in iterators that interpret.
"""

from __future__ import annotations

import enum
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch

from .attributes import class_lookup, load_attr, tensor_class_lookup
from .instance_dict import InstanceDict
from . import lift
from .control import MISSING, STANDS_FOR, CopyDict, Observed, native, observe, unsupported
from .overrides import new_tensor
from .generators import InterpretedGenerator
from .loops import refuse_growing
from .guards import GuardKind
from .source import ItemSource
from .texts import OpenText, is_open, shown

__all__ = ["Protocols"]

K = GuardKind
_FUNCTION = types.FunctionType
_PLAIN = frozenset({
    list, tuple, dict, set, frozenset, str, bytes, int, float, bool, type(None), range, deque, OrderedDict, defaultdict, torch.Size, slice, InterpretedGenerator, InstanceDict, enumerate, zip, reversed, map, filter,
    type(iter([])), type(iter(())), type(iter({})), type({}.keys()), type({}.values()), type({}.items()), type(iter({}.items())), type(iter({}.values())), type(iter(range(0))), type(iter("")),
    types.GeneratorType, torch.SymInt, types.BuiltinFunctionType, type,
})  # fmt: skip
_CALLABLES = frozenset({types.FunctionType, types.MethodType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType})
_VIEWS = frozenset({type({}.keys()), type({}.values()), type({}.items()), type(OrderedDict().keys()), type(OrderedDict().values()), type(OrderedDict().items())})
_FOREIGN_ITERATORS = (types.GeneratorType, types.CoroutineType)


class InterpretedIterator:
    """An iterator whose `__next__` is the program's, for C code to consume."""

    __slots__ = ("cap", "inner")

    def __init__(self, cap: Any, inner: Any) -> None:
        self.cap, self.inner = cap, inner

    def __iter__(self) -> InterpretedIterator:
        return self

    def __next__(self) -> Any:
        try:
            return self.cap.next(self.inner)
        except Observed as e:
            if isinstance(e.exc, StopIteration):
                raise e.exc from None
            raise


class SequenceIterator:
    """Iteration by `__getitem__` from 0 until IndexError."""

    __slots__ = ("cap", "i", "obj")

    def __init__(self, cap: Any, obj: Any) -> None:
        self.cap, self.obj, self.i = cap, obj, 0

    def __iter__(self) -> SequenceIterator:
        return self

    def __next__(self) -> Any:
        method = class_lookup(self.cap, type(self.obj), "__getitem__")[0]
        try:
            v = self.cap.call(method, (self.obj, self.i))
        except Observed as e:
            if isinstance(e.exc, IndexError):
                raise StopIteration from None
            raise
        self.i += 1
        return v


class _Text:
    """Shows a text in the place of an object."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Protocols:
    """Mixin of `Capture`."""

    # ---- iteration ---------------------------------------------------------------------------------------------------
    def iter(self, v: Any) -> Any:
        """`iter(v)`."""
        t = type(v)
        if t in _PLAIN:
            self.refuse_large(v)
            if id(v) in self.sources:
                if hasattr(t, "__next__"):
                    return v
                self.refuse_foreign(v)
            return native(iter, v)
        if isinstance(v, torch.Tensor):
            method = tensor_class_lookup(self, v, "__iter__")
            return native(iter, v) if method is MISSING else self.call(method[0], (v,))
        found = class_lookup(self, t, "__iter__")
        if found is MISSING:
            if class_lookup(self, t, "__getitem__") is not MISSING:
                return SequenceIterator(self, v)
            observe(TypeError(f"{t.__name__!r} object is not iterable"))
        if isinstance(v, type) and found[1].__module__ == "enum":  # a generator of the metaclass
            return iter(native(list, v))
        if type(found[0]) is _FUNCTION and not found[0].__module__.startswith("lamina_dynamo"):
            return self.call(found[0], (v,))
        if isinstance(v, type):
            return native(iter, v)
        self.refuse_foreign(v)
        self.refuse_opaque(v)
        return native(iter, v)

    def next(self, it: Any) -> Any:
        """`next(it)`; StopIteration is the program's."""
        t = type(it)
        if t in _PLAIN:
            if t in _FOREIGN_ITERATORS or id(it) in self.sources:
                self.refuse_foreign(it)
            return native(next, it)
        found = class_lookup(self, t, "__next__")
        if found is MISSING:
            observe(TypeError(f"{t.__name__!r} object is not an iterator"))
        if type(found[0]) is _FUNCTION and not found[0].__module__.startswith("lamina_dynamo"):
            return self.call(found[0], (it,))
        self.refuse_foreign(it)
        return native(next, it)

    def refuse_foreign(self, v: Any) -> None:
        """Advancing an outside iterator would change it, or show values that are not lifted; so do views of outside dictionaries."""
        t = type(v)
        outside = id(v) in self.sources and id(v) not in self.original_of
        if t in _FOREIGN_ITERATORS or outside and (t in _VIEWS or hasattr(t, "__next__") and t is not InterpretedGenerator):
            unsupported("foreign-iterator", "advancing an iterator that was made outside of the compiled function", saw=t.__name__, hint="pass the list, or make the iterator inside")

    def iterate(self, v: Any) -> Any:
        """A native iterator over `v`."""
        return iter(self.plain_iterable(v))

    def sequence(self, v: Any) -> list[Any] | tuple[Any, ...]:
        """All items."""
        t = type(v)
        if t is tuple or t is list:
            self.refuse_large(v)
            return v
        return native(list, self.plain_iterable(v))

    def plain_iterable(self, v: Any) -> Any:
        """`v` in a form that C code may iterate; what is no iterable is left alone."""
        t = type(v)
        if t in _PLAIN or t in _CALLABLES or isinstance(v, (torch.Tensor, type)):
            self.refuse_large(v)
            if t is types.GeneratorType or id(v) in self.sources:
                self.refuse_foreign(v)
            return v
        found = class_lookup(self, t, "__iter__")
        if found is MISSING:
            return SequenceIterator(self, v) if class_lookup(self, t, "__getitem__") is not MISSING and class_lookup(self, t, "__len__") is not MISSING else v
        if type(found[0]) is _FUNCTION and not found[0].__module__.startswith("lamina_dynamo"):
            if isinstance(v, dict):
                self.refuse_large(v)
                return v
            return InterpretedIterator(self, self.iter(v))
        self.refuse_opaque(v)
        return v

    def plain_iterables(self, args: Any) -> Any:
        return [self.plain_iterable(a) for a in args]

    def pairs_of(self, v: Any) -> Any:
        """A mapping written in Python as the pairs that C code would ask it for; other values as they are."""
        if type(v) in _PLAIN or isinstance(v, dict) or class_lookup(self, type(v), "keys") is MISSING:
            return v
        return [(k, self.call(load_attr(self, v, "__getitem__"), (k,))) for k in self.sequence(self.call(load_attr(self, v, "keys"), ()))]

    def note_iterator(self, it: Any) -> None:
        self.created[id(it)] = (it, self.step)

    # ---- callbacks ---------------------------------------------------------------------------------------------------
    def trampoline(self, fn: Any) -> Any:
        """A native callable that interprets `fn`."""
        if fn is None:
            return fn
        return lambda *a, **k: self.call(fn, a, k)

    # ---- attributes --------------------------------------------------------------------------------------------------
    def getattr(self, obj: Any, name: str) -> Any:
        return load_attr(self, obj, name)

    def closure_of(self, fn: Any) -> Any:
        from .calls import closure_of

        return closure_of(self, fn)

    # ---- tensors -----------------------------------------------------------------------------------------------------
    def tensor_truth(self, t: Any) -> bool:
        known = self.recorder.number(t)
        if known is not None:
            return bool(known)
        if t.numel() != 1:
            native(bool, torch.empty(0) if t.numel() == 0 else t)
        unsupported("data-dependent-branch", "data-dependent branch", saw=self.describe(t), hint="torch.where, or move the branch outside the compiled function")

    def describe(self, t: Any) -> str:
        with torch._C.DisableTorchFunction():
            return f"Tensor {str(t.dtype).removeprefix('torch.')}{list(t.shape)} on {t.device}"

    def any_tensor(self, args: Any, kwargs: Any) -> bool:
        """Whether the arguments hold a value that only the run knows: a tensor, a symbolic number, state of an outside object in C."""
        return _any_within((*args, *(kwargs or {}).values()), lambda x: isinstance(x, torch.Tensor | torch.SymInt | torch.SymFloat) or id(x) in self.opaque)

    def any_unknown(self, args: Any, kwargs: Any) -> bool:
        """Whether the arguments hold such a value or may hide one, as iterators, views of dictionaries and functions do.
        What NumPy computes from the others is the same at each call, or comes back to us (`TensorArray`)."""
        return _any_within((*args, *(kwargs or {}).values()), lambda x: id(x) in self.opaque or not issubclass(STANDS_FOR.get(type(x), type(x)), (*_CONTAINERS, *_KNOWN_TO_NUMPY)))

    def concrete(self, v: Any) -> Any:
        """`v` with numbers for symbols, where C code reads the digits. The sizes are static from then on."""
        t = type(v)
        if t in _NUMBERS:
            return native(_NUMBERS[t], v)
        if t in (list, tuple, set, frozenset, torch.Size) and self._has_symbol(v):
            return t(map(self.concrete, v))
        if t is dict and self._has_symbol(v):
            return {self.concrete(k): self.concrete(x) for k, x in v.items()}
        return v

    def _has_symbol(self, v: Any, depth: int = 0) -> bool:
        if isinstance(v, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return True
        if type(v) not in (list, tuple, set, frozenset, dict, torch.Size) or depth > 8:
            return False
        return any(self._has_symbol(x, depth + 1) for x in ([*v, *v.values()] if type(v) is dict else v))

    # ---- text --------------------------------------------------------------------------------------------------------
    def convert_value(self, v: Any, conversion: int) -> Any:
        if conversion == 0:
            return v
        return self.call((str, repr, ascii)[conversion - 1], (v,))

    def format(self, v: Any, spec: str) -> Any:
        if is_open(self, v):
            return shown(self, v, format, spec)
        method = class_lookup(self, type(v), "__format__")
        if method is not MISSING and type(method[0]) is _FUNCTION and method[1].__module__ != "enum":
            return self.call(method[0], (v, spec))
        text = self.printable(v)
        return native(format, text, spec) if type(text) is not OpenText else shown(self, text, format, spec)

    def printable(self, v: Any) -> Any:
        """`v`, or its text where C formatting would run the program's `__str__` or `__repr__`."""
        if type(v) in (str, int, float, bool, type(None), torch.dtype, torch.device):
            return v
        if is_open(self, v):
            return shown(self, v, str)
        if type(v) in _NUMBERS or type(v) is torch.Size:  # text needs the values
            return self.concrete(v)
        if isinstance(v, (list, tuple, dict, set)):
            self.refuse_opaque(v)
            v = self.concrete(v)
            if self.any_tensor((v,), None):
                unsupported("tensor-text", "the text of a tensor's value", hint="format outside of the compiled function")
            return self._with_texts(v)
        self.refuse_opaque(v)
        if isinstance(v, BaseException) and id(v) in self.sources:
            self.printable(load_attr(self, v, "args"))  # guards what the text is made of
            if isinstance(v, (OSError, UnicodeError, SyntaxError, ImportError)):
                self.refuse_mutation(v)
        for name in ("__str__", "__repr__"):
            found = class_lookup(self, type(v), name)
            if found is not MISSING and type(found[0]) is _FUNCTION and not _own_or_std(found[0]):
                return self.call(found[0], (v,))
        if type(v).__repr__ is object.__repr__ and type(v).__str__ is object.__str__ and not isinstance(v, types.FunctionType):
            unsupported("object-text", "the text of an object, which says where it is in memory", saw=type(v).__qualname__, hint="give the class a __repr__")
        return v

    def _with_texts(self, v: Any, around: tuple[int, ...] = ()) -> Any:
        """A container whose items show what the program's `__repr__` says."""

        def show(x: Any) -> Any:
            if id(x) in (*around, id(v)):
                return _Text("{...}" if type(x) is dict else "[...]" if type(x) is list else "(...)")
            if type(x) in (list, tuple, dict):
                return self._with_texts(x, (*around, id(v)))
            if x is None or type(x) in (str, int, float, bool, bytes, complex, list, tuple, dict, set) or isinstance(x, (type, enum.Enum)):
                return x
            return _Text(self.call(repr, (x,)))

        if type(v) in (list, tuple):
            return type(v)(map(show, v))
        return {show(k): show(x) for k, x in v.items()} if type(v) is dict else v

    # ---- large dictionaries --------------------------------------------------------------------------------------------
    def is_large_dict(self, d: Any) -> bool:
        """A dictionary that is read key by key; anything else that is done with it is refused."""
        return type(d) is dict and id(d) in self.opaque

    def large_dict_item(self, d: Any, key: Any) -> Any:
        if key in d:
            src = ItemSource(self.sources[id(d)], key)
            return self.lift(d[key], src)
        self.guard(self.sources[id(d)], K.NO_KEY, key)
        raise Observed(KeyError(key))

    def large_dict_method(self, d: Any, name: str, args: Any) -> Any:
        if name in ("get", "__getitem__", "__contains__"):
            key = args[0]
            if key in d:
                if name == "__contains__":
                    self.guard(self.sources[id(d)], K.HAS_KEY, key)
                    return True
                return self.large_dict_item(d, key)
            self.guard(self.sources[id(d)], K.NO_KEY, key)
            if name == "__getitem__":
                raise Observed(KeyError(key))
            return False if name == "__contains__" else args[1] if len(args) > 1 else None
        if name == "__len__":
            self.guard(self.sources[id(d)], K.LEN, len(d))
            return len(d)
        self.refuse_large(d)
        return None

    def refuse_large(self, d: Any) -> None:
        if id(d) in self.growing:
            refuse_growing(self, (d,))
        if isinstance(d, dict) and id(d) in self.opaque:
            if len(d) <= lift.MAX_COPIED:
                raise CopyDict(d)
            unsupported("large-dict", "a whole pass over, or a change of, a very large dictionary from outside", saw=f"{len(d)} entries")

    def refuse_user_keys(self, *keys: Any) -> None:
        from .opcodes.operators import refuse_user_keys

        refuse_user_keys(self, *keys)

    def refuse_opaque(self, *values: Any) -> None:
        """What outside objects of C types hold is not guarded: nothing may be computed from it at capture."""
        if not self.opaque:
            return
        for v in values:
            if id(v) in self.opaque:
                self.refuse_large(v)
                unsupported("opaque", "an operation on an outside object of a type implemented in C", saw=type(v).__qualname__, hint="pass tensors, numbers or Python objects")

    def refuse_mutation(self, v: Any) -> None:
        self.refuse_large(v)
        unsupported("foreign-mutation", "changing an outside object of a kind that is not modelled", saw=type(v).__qualname__)

    # ---- objects -----------------------------------------------------------------------------------------------------
    def new_object(self, new: Any, args: Any, kwargs: Any) -> Any:
        """`new(cls, ...)` where `new` is a `__new__` written in C."""
        cls = args[0]
        if issubclass(cls, torch.Tensor):
            return new_tensor(self, cls, args[1:], kwargs or {})
        if getattr(new, "__self__", None) is object or new is object.__new__:
            return native(object.__new__, cls)
        return native(new, *self.plain_iterables(args), **(kwargs or {}))


_CONTAINERS = (list, tuple, dict, set, frozenset, torch.Size)
_KNOWN_TO_NUMPY = (int, float, complex, str, bytes, type(None), type, slice, range, type(...), np.dtype, np.generic, np.ndarray)


def _any_within(values: tuple[Any, ...], test: Any) -> bool:
    """Whether the test holds for one of the values, or for something that their lists, tuples, dictionaries and sets hold."""
    seen: set[int] = set()  # containers may contain themselves

    def holds(x: Any) -> bool:
        if test(x):
            return True
        if type(x) not in _CONTAINERS or id(x) in seen:
            return False
        seen.add(id(x))
        return any(map(holds, (*x.keys(), *x.values()) if type(x) is dict else x))

    return any(map(holds, values))


_NUMBERS = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}


def _own_or_std(fn: Any) -> bool:
    return fn.__module__ in ("enum", "lamina_dynamo.instance_dict")
