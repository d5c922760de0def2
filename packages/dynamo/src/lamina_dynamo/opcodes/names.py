"""Globals, attributes, names of class bodies, imports."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import torch

from ..attributes import load_attr
from ..stores import delete_attr, store_attr
from ..control import DELETED, MISSING, native, observe
from ..frames import NULL, Frame
from ..guards import GuardKind
from ..lift import is_torch_owned
from ..peer import is_peer, peer_module
from ..source import BuiltinSource, ConstantSource, GlobalSource, GlobalsSource, ItemSource, Source
from . import VERSION, handler

_BUILTINS = builtins.__dict__


def read_global(f: Frame, name: str) -> Any:
    """A global or builtin, lifted and guarded at its first read."""
    cap, g = f.cap, f.globals
    key = (id(g), name)
    if key in cap.globals_overlay:
        found = cap.globals_overlay[key]
        if found is not DELETED:
            return found
    elif (cached := cap.global_cache.get(key, MISSING)) is not MISSING:
        return cached
    elif name in g:
        source: Source
        owned = is_torch_owned(g.get("__name__"))
        if owned:
            source = ConstantSource(g[name])
        else:
            source = GlobalSource(name) if g is cap.root_globals else ItemSource(ConstantSource(g), name)
        v = cap.global_cache[key] = cap.lift(g[name], source)
        return v
    elif not is_torch_owned(g.get("__name__")):
        cap.guards.add(GlobalsSource() if g is cap.root_globals else ConstantSource(g), GuardKind.NO_KEY, name)
    if name in _BUILTINS:
        cap.guard(BuiltinSource(name), GuardKind.ID, _BUILTINS[name])
        if key not in cap.globals_overlay:
            cap.global_cache[key] = _BUILTINS[name]
        return _BUILTINS[name]
    cap.guards.add(ConstantSource(_BUILTINS), GuardKind.NO_KEY, name)
    observe(NameError(f"name {name!r} is not defined"))


def _global_arg(program: Any, ins: Any) -> tuple[str, bool]:
    return program.code.co_names[ins.arg >> 1], bool(ins.arg & 1)


@handler("LOAD_GLOBAL", arg=_global_arg)
def load_global(f: Frame, arg: tuple[str, bool]) -> None:
    name, null = arg
    v = read_global(f, name)
    if VERSION >= (3, 13):
        f.stack.append(v)
        if null:
            f.stack.append(NULL)
    else:
        if null:
            f.stack.append(NULL)
        f.stack.append(v)


@handler("STORE_GLOBAL", arg="name")
def store_global(f: Frame, name: str) -> None:
    f.cap.store_global(f.globals, name, f.stack.pop())


@handler("DELETE_GLOBAL", arg="name")
def delete_global(f: Frame, name: str) -> None:
    try:
        read_global(f, name)
    finally:
        pass
    f.cap.store_global(f.globals, name, DELETED)


# ---- class bodies ------------------------------------------------------------------------------------------------------
@handler("LOAD_NAME", arg="name")
def load_name(f: Frame, name: str) -> None:
    ns = f.namespace
    f.stack.append(ns[name] if ns is not None and name in ns else read_global(f, name))


@handler("LOAD_LOCALS")
def load_locals(f: Frame, arg: Any) -> None:
    f.stack.append(f.namespace)


@handler("LOAD_FROM_DICT_OR_GLOBALS", arg="name")
def load_from_dict_or_globals(f: Frame, name: str) -> None:
    f.stack.pop()
    load_name(f, name)


@handler("SETUP_ANNOTATIONS")
def setup_annotations(f: Frame, arg: Any) -> None:
    """Of a class body."""
    assert f.namespace is not None
    f.namespace.setdefault("__annotations__", {})


@handler("STORE_NAME", arg="name")
def store_name(f: Frame, name: str) -> None:
    ns = f.namespace
    assert ns is not None
    ns[name] = f.stack.pop()


@handler("DELETE_NAME", arg="name")
def delete_name(f: Frame, name: str) -> None:
    ns = f.namespace
    assert ns is not None
    if name not in ns:
        observe(NameError(f"name {name!r} is not defined"))
    del ns[name]


@handler("LOAD_BUILD_CLASS")
def load_build_class(f: Frame, arg: Any) -> None:
    f.stack.append(builtins.__build_class__)


@handler("LOAD_ASSERTION_ERROR")
def load_assertion_error(f: Frame, arg: Any) -> None:
    f.stack.append(AssertionError)


# ---- attributes --------------------------------------------------------------------------------------------------------
@handler("LOAD_ATTR", arg="name", until=(3, 11))
def load_attr_311(f: Frame, name: str) -> None:
    s = f.stack
    s[-1] = load_attr(f.cap, s[-1], name)


def _attr_arg(program: Any, ins: Any) -> tuple[str, bool]:
    return program.code.co_names[ins.arg >> 1], bool(ins.arg & 1)


@handler("LOAD_ATTR", arg=_attr_arg, since=(3, 12))
def load_attr_312(f: Frame, arg: tuple[str, bool]) -> None:
    name, method = arg
    s = f.stack
    s[-1] = v = load_attr(f.cap, s[-1], name)
    if method:
        if VERSION >= (3, 13):
            s.append(NULL)
        else:
            s[-1:] = (NULL, v)


@handler("LOAD_METHOD", arg="name")
def load_method(f: Frame, name: str) -> None:
    s = f.stack
    v = load_attr(f.cap, s[-1], name)
    s[-1:] = (NULL, v)


@handler("LOAD_SUPER_ATTR", arg=lambda p, i: (p.code.co_names[i.arg >> 2], i.arg & 1))
def load_super_attr(f: Frame, arg: Any) -> None:
    name, method = arg
    obj, cls, sup = f.stack.pop(), f.stack.pop(), f.stack.pop()
    v = load_attr(f.cap, f.cap.call(sup, (cls, obj)), name)
    if not method:
        f.stack.append(v)
    elif VERSION >= (3, 13):
        f.stack += [v, NULL]
    else:
        f.stack += [NULL, v]


@handler("STORE_ATTR", arg="name")
def store_attr_(f: Frame, name: str) -> None:
    obj = f.stack.pop()
    store_attr(f.cap, obj, name, f.stack.pop())


@handler("DELETE_ATTR", arg="name")
def delete_attr_(f: Frame, name: str) -> None:
    delete_attr(f.cap, f.stack.pop(), name)


# ---- imports -----------------------------------------------------------------------------------------------------------
@handler("IMPORT_NAME", arg="name")
def import_name(f: Frame, name: str) -> None:
    fromlist, level = f.stack.pop(), f.stack.pop()
    if level == 0 and is_peer(name):
        f.stack.append(peer_module(name) if fromlist else torch)
        return
    try:
        m = native(__import__, name, f.globals, None, fromlist, level)
    finally:
        if level == 0 and not is_torch_owned(name):  # what the name stands for now
            known = ConstantSource(sys.modules)
            f.cap.guards.add(*((ItemSource(known, name), GuardKind.ID, sys.modules[name]) if name in sys.modules else (known, GuardKind.NO_KEY, name)))
    f.stack.append(m)


@handler("IMPORT_FROM", arg="name")
def import_from(f: Frame, name: str) -> None:
    m = f.stack[-1]
    try:
        v = load_attr(f.cap, m, name)
    except Exception:
        full = f"{getattr(m, '__name__', '')}.{name}"
        if full not in sys.modules:
            where = getattr(m, "__file__", None) or "unknown location"
            observe(ImportError(f"cannot import name {name!r} from {getattr(m, '__name__', '')!r} ({where})", name=name, path=getattr(m, "__file__", None)))
        v = sys.modules[full]
    f.stack.append(v)
