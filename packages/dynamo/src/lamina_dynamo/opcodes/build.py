"""Building and unpacking of containers, strings and slices; structural pattern matching."""

from __future__ import annotations

import collections.abc
import operator
from typing import Any

import torch
from lamina_dynshape import hint_of

from ..attributes import class_lookup
from ..control import MISSING, Observed, native, observe
from ..frames import Frame
from ..texts import joined
from . import VERSION, handler
from .operators import refuse_user_keys, subscript, truth


def _take(s: list[Any], n: int) -> list[Any]:
    if not n:
        return []
    out = s[-n:]
    del s[-n:]
    return out


@handler("BUILD_TUPLE")
def build_tuple(f: Frame, n: int) -> None:
    f.stack.append(tuple(_take(f.stack, n)))


@handler("BUILD_LIST")
def build_list(f: Frame, n: int) -> None:
    f.stack.append(_take(f.stack, n))


@handler("BUILD_SET")
def build_set(f: Frame, n: int) -> None:
    items = _take(f.stack, n)
    refuse_user_keys(f.cap, *items)
    f.stack.append(native(set, items))


@handler("BUILD_MAP")
def build_map(f: Frame, n: int) -> None:
    items = _take(f.stack, 2 * n)
    refuse_user_keys(f.cap, *items[::2])
    f.stack.append(native(dict, list(zip(items[::2], items[1::2]))))


@handler("BUILD_CONST_KEY_MAP")
def build_const_key_map(f: Frame, n: int) -> None:
    keys = f.stack.pop()
    f.stack.append(dict(zip(keys, _take(f.stack, n))))


@handler("BUILD_STRING")
def build_string(f: Frame, n: int) -> None:
    f.stack.append(joined(_take(f.stack, n)))


@handler("BUILD_SLICE")
def build_slice(f: Frame, n: int) -> None:
    f.stack.append(slice(*_take(f.stack, n)))


@handler("LIST_APPEND")
def list_append(f: Frame, i: int) -> None:
    v = f.stack.pop()
    f.cap.call(f.stack[-i].append, (v,))


@handler("SET_ADD")
def set_add(f: Frame, i: int) -> None:
    v = f.stack.pop()
    refuse_user_keys(f.cap, v)
    native(f.stack[-i].add, v)


@handler("MAP_ADD")
def map_add(f: Frame, i: int) -> None:
    v, k = f.stack.pop(), f.stack.pop()
    refuse_user_keys(f.cap, k)
    native(operator.setitem, f.stack[-i], k, v)


@handler("LIST_EXTEND")
def list_extend(f: Frame, i: int) -> None:
    v = f.stack.pop()
    try:
        items = f.cap.sequence(v)
    except Observed as e:
        if isinstance(e.exc, TypeError) and not hasattr(v, "__iter__"):
            observe(TypeError(f"Value after * must be an iterable, not {type(v).__name__}"))
        raise
    f.stack[-i].extend(items)


@handler("SET_UPDATE")
def set_update(f: Frame, i: int) -> None:
    v = f.stack.pop()
    items = f.cap.sequence(v)
    refuse_user_keys(f.cap, *items)
    native(f.stack[-i].update, items)


@handler("DICT_UPDATE")
def dict_update(f: Frame, i: int) -> None:
    v = f.stack.pop()
    target = f.stack[-i]
    for k, x in mapping_items(f.cap, v):
        target[k] = x


@handler("DICT_MERGE")
def dict_merge(f: Frame, i: int) -> None:
    """`**v` of a call: names may not repeat."""
    v = f.stack.pop()
    target = f.stack[-i]
    for k, x in mapping_items(f.cap, v):
        if k in target:
            called = f.stack[-i - (3 if VERSION >= (3, 13) else 2)]
            name = f"{called.__module__}.{called.__qualname__}()" if hasattr(called, "__qualname__") else str(called)
            observe(TypeError(f"{name} got multiple values for keyword argument {k!r}"))
        target[k] = x


def mapping_items(cap: Any, v: Any) -> list[tuple[Any, Any]]:
    """(key, value) pairs of a mapping."""
    if isinstance(v, dict) and type(v).__iter__ in (dict.__iter__, collections.OrderedDict.__iter__) and type(v).keys in (dict.keys, collections.OrderedDict.keys):
        cap.refuse_large(v)
        return list(dict.items(v)) if not isinstance(v, collections.OrderedDict) else list(collections.OrderedDict.items(v))
    try:
        keys = cap.call(cap.getattr(v, "keys"), ())
    except Observed as e:
        if isinstance(e.exc, AttributeError):
            observe(TypeError(f"argument after ** must be a mapping, not {type(v).__name__}"))
        raise
    return [(k, subscript(cap, v, k)) for k in cap.sequence(keys)]


@handler("LIST_TO_TUPLE")
def list_to_tuple(f: Frame, arg: Any) -> None:
    f.stack[-1] = tuple(f.stack[-1])


# ---- unpacking ---------------------------------------------------------------------------------------------------------
@handler("UNPACK_SEQUENCE")
def unpack_sequence(f: Frame, n: int) -> None:
    v = f.stack.pop()
    f.cap.refuse_large(v)
    items = v if type(v) in (tuple, list) else _unpacked(f.cap, v)
    if len(items) != n:
        if len(items) > n:
            observe(ValueError(f"too many values to unpack (expected {n})"))
        observe(ValueError(f"not enough values to unpack (expected {n}, got {len(items)})"))
    f.stack.extend(items[::-1])


def _unpacked(cap: Any, v: Any) -> Any:
    try:
        return cap.sequence(v)
    except Observed as e:
        if isinstance(e.exc, TypeError) and not hasattr(type(v), "__iter__") and not hasattr(type(v), "__getitem__"):
            observe(TypeError(f"cannot unpack non-iterable {type(v).__name__} object"))
        raise


@handler("UNPACK_EX")
def unpack_ex(f: Frame, arg: int) -> None:
    before, after = arg & 255, arg >> 8
    items = list(_unpacked(f.cap, f.stack.pop()))
    if len(items) < before + after:
        observe(ValueError(f"not enough values to unpack (expected at least {before + after}, got {len(items)})"))
    end = len(items) - after
    f.stack.extend([*items[end:][::-1], items[before:end], *items[:before][::-1]])


# ---- strings -----------------------------------------------------------------------------------------------------------
@handler("FORMAT_VALUE")
def format_value(f: Frame, flags: int) -> None:
    spec = f.stack.pop() if flags & 4 else ""
    v = f.stack.pop()
    conversion = flags & 3
    v = f.cap.convert_value(_unread(f, v), conversion)
    f.stack.append(f.cap.format(v, spec))


def _unread(f: Frame, v: Any) -> Any:
    """`v`, with what its symbolic numbers are now where the text is the message of an assertion that holds: nobody reads it, so it makes no size constant."""
    if type(v) not in (torch.SymInt, torch.SymFloat, torch.Size):
        return v
    at = len(f.stack) - 1
    while at > 0 and type(f.stack[at]) is str:
        at -= 1
    called = any(x is torch._assert for x in f.stack[max(0, at - 2) : at])
    if not called or type(f.stack[at]) not in (bool, torch.SymBool) or not truth(f.cap, f.stack[at]):
        return v
    return torch.Size(map(hint_of, v)) if type(v) is torch.Size else hint_of(v)


@handler("CONVERT_VALUE")
def convert_value(f: Frame, conversion: int) -> None:
    f.stack[-1] = f.cap.convert_value(f.stack[-1], conversion)


@handler("FORMAT_SIMPLE")
def format_simple(f: Frame, arg: Any) -> None:
    v = f.stack.pop()
    f.stack.append(f.cap.format(_unread(f, v), ""))


@handler("FORMAT_WITH_SPEC")
def format_with_spec(f: Frame, arg: Any) -> None:
    spec, v = f.stack.pop(), f.stack.pop()
    f.stack.append(f.cap.format(_unread(f, v), spec))


# ---- match -------------------------------------------------------------------------------------------------------------
@handler("GET_LEN")
def get_len(f: Frame, arg: Any) -> None:
    f.stack.append(f.cap.call(len, (f.stack[-1],)))


@handler("MATCH_MAPPING")
def match_mapping(f: Frame, arg: Any) -> None:
    f.stack.append(isinstance(f.stack[-1], collections.abc.Mapping))


@handler("MATCH_SEQUENCE")
def match_sequence(f: Frame, arg: Any) -> None:
    v = f.stack[-1]
    f.stack.append(isinstance(v, collections.abc.Sequence) and not isinstance(v, (str, bytes, bytearray)))


@handler("MATCH_KEYS")
def match_keys(f: Frame, arg: Any) -> None:
    keys, subject = f.stack[-1], f.stack[-2]
    values = []
    for k in keys:
        if not truth(f.cap, k in subject):
            f.stack.append(None)
            return
        values.append(subscript(f.cap, subject, k))
    f.stack.append(tuple(values))


_POSITIONAL_SELF = (bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple)


@handler("MATCH_CLASS")
def match_class(f: Frame, n: int) -> None:
    names, cls, subject = f.stack.pop(), f.stack.pop(), f.stack.pop()
    if not f.cap.call(isinstance, (subject, cls)):
        f.stack.append(None)
        return
    try:
        out = []
        if n:
            if cls in _POSITIONAL_SELF:
                out.append(subject)
            else:
                if (known := class_lookup(f.cap, cls, "__match_args__")) is MISSING or len(known[0]) < n:
                    given = 0 if known is MISSING else len(known[0])
                    observe(TypeError(f"{cls.__name__}() accepts {given} positional sub-pattern{'' if given == 1 else 's'} ({n} given)"))
                out += [f.cap.getattr(subject, a) for a in f.cap.getattr(cls, "__match_args__")[:n]]
        out += [f.cap.getattr(subject, a) for a in names]
    except Observed as e:
        if not isinstance(e.exc, AttributeError):
            raise
        f.stack.append(None)
        return
    f.stack.append(tuple(out))


