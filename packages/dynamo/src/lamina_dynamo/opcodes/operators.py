"""Unary, binary, in-place and comparison operators, subscripts, truth."""

from __future__ import annotations

import dataclasses
import operator
from types import FunctionType
from typing import Any

import numpy as np
import torch

from ..arrays import as_tensor_key
from ..assumptions import assume
from ..attributes import class_lookup, guard_mro, tensor_class_lookup
from ..bytecode import Instruction
from ..computed_numbers import of_operator
from ..control import MISSING, native, observe, unsupported, values
from ..draws import refuse_to_decide
from ..frames import Frame
from ..lift import is_torch_owned
from ..texts import OpenText, is_open, joined, percent
from . import handler

_BINARY = (
    operator.add, operator.and_, operator.floordiv, operator.lshift, operator.matmul, operator.mul, operator.mod, operator.or_, operator.pow, operator.rshift, operator.sub, operator.truediv, operator.xor,
    operator.iadd, operator.iand, operator.ifloordiv, operator.ilshift, operator.imatmul, operator.imul, operator.imod, operator.ior, operator.ipow, operator.irshift, operator.isub, operator.itruediv, operator.ixor,
)  # fmt: skip
_SIGNS = ("+", "&", "//", "<<", "@", "*", "%", "|", "** or pow()", ">>", "-", "/", "^")
_SYMBOLS = {**dict(zip(_BINARY, _SIGNS)), **{op: "**=" if "pow" in s else f"{s}=" for op, s in zip(_BINARY[13:], _SIGNS)}}
_DUNDER = {op: f"__{op.__name__.strip('_')}__" for op in _BINARY}
_COMPARE = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge}
_SWAPPED = {operator.lt: "__gt__", operator.le: "__ge__", operator.eq: "__eq__", operator.ne: "__ne__", operator.gt: "__lt__", operator.ge: "__le__"}
_SIMPLE = frozenset({int, float, bool, str, bytes, complex, type(None), list, dict, tuple, set, frozenset, torch.Size, torch.dtype, torch.device, slice, range, torch.SymInt, torch.SymBool, torch.SymFloat, type, FunctionType})

_ARRAYS = (np.ndarray, np.generic)


def python_method(cap: Any, obj: Any, name: str) -> Any:
    """The special method `name` of the object's class if it is written in Python, else None."""
    t = type(obj)
    if t in _SIMPLE:
        return None
    if isinstance(obj, torch.Tensor):
        if id(obj) not in cap.class_of:
            return None
        found = tensor_class_lookup(cap, obj, name)
    else:
        found = class_lookup(cap, t, name)
    return found[0] if found is not MISSING and type(found[0]) is FunctionType else None


def binary(cap: Any, op: Any, a: Any, b: Any) -> Any:
    """`a op b` with special methods written in Python interpreted."""
    if type(a) in _SIMPLE and type(b) in _SIMPLE:
        cap.refuse_opaque(a, b)
        found = of_operator(cap, op, a, b)
        return native(op, a, b) if found is MISSING else found
    if op in (operator.add, operator.iadd) and type(b) is OpenText and type(a) is str:  # C's str would refuse it
        return joined((a, b))
    name = _DUNDER.get(op) or f"__{op.__name__.strip('_')}__"
    plain = name
    if name.startswith("__i") and op in _DUNDER and name not in ("__invert__",):
        method = python_method(cap, a, name)
        if method is not None:
            out = cap.call(method, (a, b))
            if out is not NotImplemented:
                return out
        plain = "__" + name[3:]
    forward, backward = python_method(cap, a, plain), python_method(cap, b, f"__r{plain[2:]}")
    if backward is not None and _is_more_derived(cap, b, a):
        out = cap.call(backward, (b, a))
        if out is not NotImplemented:
            return out
        backward = None
    if forward is not None:
        out = cap.call(forward, (a, b))
        if out is not NotImplemented:
            return out
    elif backward is not None:
        c_method = getattr(type(a), plain, None)
        out = native(c_method, a, b) if c_method is not None else NotImplemented
        if out is not NotImplemented:
            return out
    if backward is not None:
        out = cap.call(backward, (b, a))
        if out is not NotImplemented:
            return out
    if forward is None and backward is None:
        cap.refuse_opaque(a, b)
        if isinstance(a, _ARRAYS) or isinstance(b, _ARRAYS):
            a, b = values((a, b))
        return native(op, a, b)
    observe(TypeError(f"unsupported operand type(s) for {_SYMBOLS[op]}: {type(a).__name__!r} and {type(b).__name__!r}"))


def _is_more_derived(cap: Any, b: Any, a: Any) -> bool:
    """Whether the right operand is asked first: its class is derived from the left one's."""
    of_a, of_b = cap.type_of(a), cap.type_of(b)
    guard_mro(cap, of_b)
    return of_b is not of_a and issubclass(of_b, of_a)


@handler("BINARY_OP", arg=lambda p, i: _BINARY[i.arg])
def binary_op(f: Frame, op: Any) -> None:
    s = f.stack
    b = s.pop()
    a = s[-1]
    if op is operator.mod and type(a) is str:
        from ..rules.builtins import make_printable

        if is_open(f.cap, b):
            s[-1] = percent(f.cap, a, b)
            return
        shown = make_printable(f.cap, b)
        if ("%r" in a or "%a" in a) and any(x is not y and type(x) is not type(y) for x, y in zip(*[v if type(v) is tuple else (v,) for v in (shown, b)])):
            unsupported("object-text", "%r of an object in a text", saw=a, hint="format it by an f-string")
        b = shown
    s[-1] = binary(f.cap, op, a, b)


def compare(cap: Any, op: Any, a: Any, b: Any) -> Any:
    """`a op b` of a rich comparison."""
    if type(a) in _SIMPLE and type(b) in _SIMPLE:
        cap.refuse_opaque(a, b)
        if type(a) is type(b) and type(a) in (list, tuple) and _compares_in_python(cap, (*a, *b)):
            return _compare_rows(cap, op, a, b)
        if op in (operator.eq, operator.ne) and type(a) is type(b) is dict and a.keys() == b.keys() and _compares_in_python(cap, (*a.values(), *b.values())):
            return _compare_rows(cap, op, list(a.values()), [b[k] for k in a])
        return native(op, a, b)
    method = python_method(cap, a, f"__{op.__name__}__")
    if method is not None:
        out = cap.call(method, (a, b))
        if out is not NotImplemented:
            return out
    elif op is operator.ne and (eq := python_method(cap, a, "__eq__")) is not None:
        out = cap.call(eq, (a, b))
        if out is not NotImplemented:
            return not truth(cap, out)
    other = python_method(cap, b, _SWAPPED[op])
    if other is not None:
        out = cap.call(other, (b, a))
        if out is not NotImplemented:
            return out
    if method is not None or other is not None:
        if op is operator.eq:
            return a is b
        if op is operator.ne:
            return a is not b
    cap.refuse_opaque(a, b)
    return native(op, a, b)


def _compares_in_python(cap: Any, items: Any) -> bool:
    """Whether C code that compares these would call the program."""
    return any(_compares_in_python(cap, v) if type(v) in (list, tuple) else type(v) not in _SIMPLE and not isinstance(v, torch.Tensor) and any(python_method(cap, v, n) for n in ("__eq__", "__lt__")) for v in items)


def _compare_rows(cap: Any, op: Any, a: Any, b: Any) -> Any:
    """Two lists or tuples, as C does it: the first items that are not equal decide, else the lengths."""
    for x, y in zip(a, b):
        if x is not y and not truth(cap, compare(cap, operator.eq, x, y)):
            return op is operator.ne if op in (operator.eq, operator.ne) else compare(cap, op, x, y)
    return op(len(a), len(b))


def _compare_arg(program: Any, ins: Any) -> tuple[Any, bool]:
    import dis
    import sys

    if sys.version_info >= (3, 13):
        return _COMPARE[dis.cmp_op[ins.arg >> 5]], bool(ins.arg & 16)
    shift = 4 if sys.version_info >= (3, 12) else 0
    return _COMPARE[dis.cmp_op[ins.arg >> shift]], False


@handler("COMPARE_OP", arg=_compare_arg)
def compare_op(f: Frame, arg: Any) -> None:
    op, as_bool = arg
    s = f.stack
    b = s.pop()
    out = compare(f.cap, op, s[-1], b)
    s[-1] = _for_next(f, out) if as_bool else out


@handler("IS_OP")
def is_op(f: Frame, invert: int) -> None:
    s = f.stack
    b = s.pop()
    a = s[-1]
    if a is not b and a is not None and b is not None:
        f.cap.guard_distinct(a, b)
    s[-1] = (a is b) != bool(invert)


def contains(cap: Any, container: Any, item: Any) -> bool:
    method = python_method(cap, container, "__contains__")
    if method is not None:
        return truth(cap, cap.call(method, (container, item)))
    if python_method(cap, container, "__iter__") is not None and class_lookup(cap, type(container), "__contains__") is MISSING:
        return any(x is item or truth(cap, compare(cap, operator.eq, x, item)) for x in cap.iterate(container))
    if type(container) in (list, tuple) and (python_method(cap, item, "__eq__") or any(python_method(cap, x, "__eq__") for x in container)):
        return any(x is item or truth(cap, compare(cap, operator.eq, x, item)) for x in container)
    refuse_user_keys(cap, item)
    if cap.is_large_dict(container):
        return cap.large_dict_method(container, "__contains__", (item,))
    cap.refuse_opaque(container, item)
    if isinstance(container, (set, frozenset, dict, list, tuple)):
        _tell_apart(cap, item, *container)
    return native(operator.contains, container, item)


@handler("CONTAINS_OP")
def contains_op(f: Frame, invert: int) -> None:
    container = f.stack.pop()
    s = f.stack
    s[-1] = contains(f.cap, container, s[-1]) != bool(invert)


def _tell_apart(cap: Any, *items: Any) -> None:
    """C code compares these with each other: what is compared by identity must stay as different as it is."""
    cap.told_apart.update((id(v), v) for v in items if isinstance(v, torch.Tensor) or type(v).__eq__ is object.__eq__)


def refuse_user_keys(cap: Any, *keys: Any) -> None:
    """C code hashes and compares keys: their class must not do it in Python, unless by what a dataclass or an enum was given."""
    _tell_apart(cap, *keys)
    for k in keys:
        t = type(k)
        if t in _SIMPLE or isinstance(k, (torch.Tensor, type)):
            if t is tuple:
                refuse_user_keys(cap, *k)
            continue
        for name in ("__hash__", "__eq__"):
            method = python_method(cap, k, name)
            if method is not None and not _generated(t, method):
                unsupported("user-hash", "a container that hashes or compares by the program's own methods", saw=t.__qualname__, hint="use keys of built-in types")
        if id(k) in cap.sources and dataclasses.is_dataclass(t) and (method := python_method(cap, k, "__hash__")) is not None:
            cap.call(method, (k,))  # what is hashed and compared is guarded


def _generated(t: type, method: Any) -> bool:
    frozen = getattr(t, "__dataclass_params__", None)
    return method.__module__ == "enum" or is_torch_owned(method.__module__) or frozen is not None and method.__code__.co_filename.startswith("<")


def truth(cap: Any, v: Any) -> bool:
    """`bool(v)`; a tensor's truth is a break, a symbolic one is guarded."""
    if v is True or v is False:
        return v
    if v is None:
        return False
    t = type(v)
    if t is torch.SymFloat:
        return bool(native(operator.truth, v != 0))
    if t is torch.SymBool and cap.drawn:
        refuse_to_decide(cap, v)
    if t in _SIMPLE:
        cap.refuse_opaque(v)
        return bool(native(operator.truth, v))
    if isinstance(v, torch.Tensor) and id(v) not in cap.class_of:
        return cap.tensor_truth(v)
    method = python_method(cap, v, "__bool__")
    if method is not None:
        return cap.call(method, (v,))
    method = python_method(cap, v, "__len__")
    if method is not None and class_lookup(cap, t, "__bool__") is MISSING:
        return cap.call(method, (v,)) != 0
    cap.refuse_opaque(v)
    if isinstance(v, torch.Tensor) and not cap.recorder.is_overridden(v):
        return cap.tensor_truth(v)
    return native(operator.truth, v)


@handler("UNARY_NOT")
def unary_not(f: Frame, arg: Any) -> None:
    f.stack[-1] = not truth(f.cap, f.stack[-1])


def condition(f: Frame, v: Any, jump: Instruction) -> bool:
    """Truth of what a jump depends on."""
    if isinstance(v, torch.SymBool) or (isinstance(v, torch.Tensor) and not f.cap.recorder.is_overridden(v)):
        taken = assume(f, v, jump)
        if taken is not None:
            return taken
    return truth(f.cap, v)


def _for_next(f: Frame, v: Any) -> bool:
    """Truth for the instruction that follows: 3.13's jumps take nothing but booleans, made by the instruction before."""
    following = f.program.instructions[f.pc]
    return condition(f, v, following) if following.op in ("POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE") else truth(f.cap, v)


@handler("TO_BOOL")
def to_bool(f: Frame, arg: Any) -> None:
    f.stack[-1] = _for_next(f, f.stack[-1])


def _unary(name: str, op: Any) -> None:
    dunder = f"__{op.__name__.strip('_')}__"

    @handler(name)
    def run(f: Frame, arg: Any) -> None:
        v = f.stack[-1]
        method = python_method(f.cap, v, dunder)
        f.cap.refuse_opaque(v)
        f.stack[-1] = f.cap.call(method, (v,)) if method is not None else native(op, v)


_unary("UNARY_NEGATIVE", operator.neg)
_unary("UNARY_POSITIVE", operator.pos)
_unary("UNARY_INVERT", operator.invert)


# ---- subscripts --------------------------------------------------------------------------------------------------------
def subscript(cap: Any, container: Any, key: Any) -> Any:
    """`container[key]`."""
    t = type(container)
    if t in _SIMPLE and t is not type:
        if cap.is_large_dict(container):
            return cap.large_dict_item(container, key)
        cap.refuse_opaque(container)
        refuse_user_keys(cap, key)
        return native(operator.getitem, container, key if t is dict else as_index(cap, key))
    if isinstance(container, torch.Tensor) and id(container) not in cap.class_of:
        return native(operator.getitem, container, as_tensor_key(key))
    method = python_method(cap, container, "__getitem__")
    if method is not None:
        return cap.call(method, (container, key))
    if isinstance(container, dict) and not native(operator.contains, container, key):
        missing = python_method(cap, container, "__missing__")
        if missing is not None:
            return cap.call(missing, (container, key))
        factory = getattr(container, "default_factory", None)
        if factory is not None and class_lookup(cap, t, "__missing__") is not MISSING:
            value = cap.call(factory, ())
            native(dict.__setitem__, container, key, value)
            return value
    if isinstance(container, type):
        hook = class_lookup(cap, type(container), "__getitem__")
        if hook is MISSING:
            found = class_lookup(cap, container, "__class_getitem__")
            made = getattr(found[0], "__func__", None) if found is not MISSING else None
            if type(made) is FunctionType and not is_torch_owned(made.__module__) and made.__module__ != "typing":
                return cap.call(made, (container, key))
            return native(operator.getitem, container, key)
    cap.refuse_opaque(container, key)
    return native(operator.getitem, container, key)


def as_index(cap: Any, key: Any) -> Any:
    """A place in a row, or a part of it, for C code: `__index__` of the program is interpreted."""
    if type(key) is slice:
        return slice(*[as_index(cap, v) for v in (key.start, key.stop, key.step)])
    method = None if isinstance(key, int) else python_method(cap, key, "__index__")
    return key if method is None else cap.call(method, (key,))


@handler("BINARY_SUBSCR")
def binary_subscr(f: Frame, arg: Any) -> None:
    s = f.stack
    key = s.pop()
    s[-1] = subscript(f.cap, s[-1], key)


@handler("BINARY_SLICE")
def binary_slice(f: Frame, arg: Any) -> None:
    s = f.stack
    stop, start = s.pop(), s.pop()
    s[-1] = subscript(f.cap, s[-1], slice(start, stop))


def store_subscript(cap: Any, container: Any, key: Any, value: Any) -> None:
    method = python_method(cap, container, "__setitem__")
    if method is not None:
        cap.call(method, (container, key, value))
        return
    if id(container) in cap.sources and id(container) not in cap.original_of and not isinstance(container, torch.Tensor):
        cap.refuse_mutation(container)
    if not isinstance(container, torch.Tensor):
        refuse_user_keys(cap, key)
    native(operator.setitem, container, as_tensor_key(key) if isinstance(container, torch.Tensor) else key, value)


@handler("STORE_SUBSCR")
def store_subscr(f: Frame, arg: Any) -> None:
    s = f.stack
    key, container, value = s.pop(), s.pop(), s.pop()
    store_subscript(f.cap, container, key, value)


@handler("STORE_SLICE")
def store_slice(f: Frame, arg: Any) -> None:
    s = f.stack
    stop, start, container, value = s.pop(), s.pop(), s.pop(), s.pop()
    store_subscript(f.cap, container, slice(start, stop), value)


@handler("DELETE_SUBSCR")
def delete_subscr(f: Frame, arg: Any) -> None:
    key, container = f.stack.pop(), f.stack.pop()
    method = python_method(f.cap, container, "__delitem__")
    if method is not None:
        f.cap.call(method, (container, key))
    else:
        f.cap.refuse_opaque(container)
        refuse_user_keys(f.cap, key)
        native(operator.delitem, container, key)
