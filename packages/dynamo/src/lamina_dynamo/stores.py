"""Stores to attributes and deletions of them during capture: what is written to outside objects is kept aside in `cap.overlay`.

Between: STORE_ATTR, DELETE_ATTR, setattr, delattr -> the overlay, which `side_effects` writes back after the graph.
Keeps:   originals are not written to; setters, deleters and descriptors written in Python are interpreted.
Source:  CPython Objects/object.c `_PyObject_GenericSetAttrWithDict`.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .attributes import MODULE_TABLES, TENSOR_NAMES, class_lookup, guard_held, module_descriptor, raw_dict, tensor_attr, tensor_class_lookup
from .control import DELETED, MISSING, Observed, native, unsupported
from .guards import GuardKind
from .lift import HEAP_TYPE
from .source import ConstantSource, TypeAttrSource

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["delete_attr", "generic_delete", "generic_store", "overlay_store", "store_attr"]


def store_attr(cap: Capture, obj: Any, name: str, value: Any) -> None:
    """`obj.name = value`."""
    t = type(obj)
    if isinstance(obj, torch.Tensor):
        setter = tensor_class_lookup(cap, obj, "__setattr__")
        if setter is not MISSING:
            cap.call(setter[0], (obj, name, value))
        else:
            _store_tensor_attr(cap, obj, name, value)
        return
    if isinstance(obj, (type, types.ModuleType)):
        if id(obj) in cap.own:
            native(setattr, obj, name, value)
        elif isinstance(obj, types.ModuleType) and (described := module_descriptor(obj, name)) is not None:
            cap.call(type(described).__set__, (described, obj, value))
        elif isinstance(obj, types.ModuleType):
            cap.store_global(obj.__dict__, name, value)
        else:
            _store_class_attr(cap, obj, name, value)
        return
    setter = class_lookup(cap, t, "__setattr__")[0]
    if type(setter) is types.FunctionType:
        if setter is nn.Module.__setattr__ and _plain_module_store(cap, obj, name, value):
            return
        cap.call(setter, (obj, name, value))
        return
    generic_store(cap, obj, name, value)


def _store_class_attr(cap: Capture, cls: type, name: str, value: Any) -> None:
    """A number, text or the like that takes the place of another one in a class; a call that found another value there is captured anew.

    Once: a class that changes at each call (a counter) would have each call compiled.
    """
    old = cls.__dict__.get(name, MISSING)
    place = f"{cls.__module__}.{cls.__qualname__}.{name}"
    plain = type(value) in _PLAIN and type(old) is type(value) and type(cls).__setattr__ is type.__setattr__ and cls.__flags__ & HEAP_TYPE
    if not plain or not cap.policy.first_write(place):
        unsupported("class-attribute-write", "assigning an attribute of a class", saw=f"{cls.__qualname__}.{name}")
    if name not in cap.overlay.get(id(cls), ()):
        cap.guards.add(TypeAttrSource(ConstantSource(cls), name), GuardKind.EQUALS, old)
    overlay_store(cap, cls, name, value)
    for key in [key for key in cap.type_cache if key[1] == name and issubclass(key[0], cls)]:
        del cap.type_cache[key]


_PLAIN = (int, float, bool, str, bytes)


def generic_store(cap: Capture, obj: Any, name: str, value: Any) -> None:
    """object.__setattr__."""
    if isinstance(obj, torch.Tensor):
        _store_tensor_attr(cap, obj, name, value)
        return
    t = type(obj)
    raw = class_lookup(cap, t, name)
    if raw is not MISSING:
        rt = type(raw[0])
        if rt is property:
            if raw[0].fset is None:
                raise Observed(AttributeError(f"property {name!r} of {t.__qualname__!r} object has no setter"))
            cap.call(raw[0].fset, (obj, value))
            return
        setter = class_lookup(cap, rt, "__set__")
        if setter is not MISSING and type(setter[0]) is types.FunctionType:
            cap.call(setter[0], (raw[0], obj, value))
            return
    if id(obj) in cap.sources:
        if raw is MISSING and raw_dict(obj) is None:
            raise Observed(AttributeError(f"{t.__name__!r} object has no attribute {name!r}"))
        if name == "__dict__" or name == "__class__":
            unsupported("attribute-write", f"assigning {name} of an outside object")
        overlay_store(cap, obj, name, value)
    else:
        native(object.__setattr__, obj, name, value)


def _store_tensor_attr(cap: Capture, t: Any, name: str, value: Any) -> None:
    if id(t) in cap.wrappers and name not in TENSOR_NAMES:  # its __torch_dispatch__ runs natively, and reads it there
        if id(t) in cap.inputs:
            unsupported("tensor-attribute-write", "assigning an attribute of a tensor subclass with __torch_dispatch__", saw=name)
        native(object.__setattr__, t, name, value)
        return
    raw = tensor_class_lookup(cap, t, name)
    if raw is not MISSING and type(raw[0]) is property:
        if raw[0].fset is None:
            raise Observed(AttributeError(f"property {name!r} of {cap.type_of(t).__qualname__!r} object has no setter"))
        cap.call(raw[0].fset, (t, value))
    elif raw is MISSING and name in TENSOR_NAMES:
        native(setattr, t, name, value)
    else:
        overlay_store(cap, t, name, value)


def overlay_store(cap: Capture, obj: Any, name: str, value: Any) -> None:
    over = cap.overlay.get(id(obj))
    if over is None:
        over = cap.overlay[id(obj)] = {}
        cap.keep[id(obj)] = obj
    over[name] = value


def _plain_module_store(cap: Capture, obj: Any, name: str, value: Any) -> bool:
    """nn.Module.__setattr__ of a plain value under a name that is no member: a store to the instance."""
    if id(obj) not in cap.sources or isinstance(value, (nn.Parameter, nn.Module, nn.Buffer)):
        return False
    d = raw_dict(obj) or {}
    if any(name in (d.get(table) or ()) for table in MODULE_TABLES):
        return False
    if class_lookup(cap, type(obj), name) is not MISSING and type(class_lookup(cap, type(obj), name)[0]) is property:
        generic_store(cap, obj, name, value)
        return True
    overlay_store(cap, obj, name, value)
    return True


def delete_attr(cap: Capture, obj: Any, name: str) -> None:
    """`del obj.name`."""
    deleter = class_lookup(cap, type(obj), "__delattr__")[0]
    if type(deleter) is types.FunctionType:
        cap.call(deleter, (obj, name))
        return
    generic_delete(cap, obj, name)


def _delete_tensor_attr(cap: Capture, t: Any, name: str) -> None:
    if id(t) in cap.wrappers or name in TENSOR_NAMES:
        native(delattr, t, name)
        return
    tensor_attr(cap, t, name)
    if id(t) in cap.inputs:
        overlay_store(cap, t, name, DELETED)
    else:  # made in the frame
        del cap.overlay[id(t)][name]


def generic_delete(cap: Capture, obj: Any, name: str) -> None:
    """object.__delattr__."""
    if isinstance(obj, torch.Tensor):
        _delete_tensor_attr(cap, obj, name)
        return
    t = type(obj)
    raw = class_lookup(cap, t, name)
    if raw is not MISSING:
        if type(raw[0]) is property:
            if raw[0].fdel is None:
                raise Observed(AttributeError(f"property {name!r} of {t.__qualname__!r} object has no deleter"))
            cap.call(raw[0].fdel, (obj,))
            return
        deleter = class_lookup(cap, type(raw[0]), "__delete__")
        if deleter is not MISSING and type(deleter[0]) is types.FunctionType:
            cap.call(deleter[0], (raw[0], obj))
            return
    if id(obj) not in cap.sources:
        native(object.__delattr__, obj, name)
        return
    held = guard_held(cap, obj, cap.sources[id(obj)], name)
    if cap.overlay.get(id(obj), {}).get(name, MISSING if held else DELETED) is DELETED:
        if not held:
            native(object.__delattr__, obj, name)  # raises eager's exception
        raise Observed(AttributeError(f"{t.__name__!r} object has no attribute {name!r}"))
    if held:
        overlay_store(cap, obj, name, DELETED)
    else:  # made and deleted within the frame
        del cap.overlay[id(obj)][name]
