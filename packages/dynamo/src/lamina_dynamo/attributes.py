"""The attribute protocol on values during capture: reads are lifted and guarded.

Between: LOAD_ATTR, getattr, hasattr, super -> objects, and `cap.overlay`, which holds what was stored (`stores`).
Keeps:   no user code runs natively: properties, `__getattr__`, `__getattribute__`, descriptors written in Python are
         interpreted; what lives in C is called.
Source:  CPython Objects/object.c `_PyObject_GenericGetAttrWithDict`, Objects/typeobject.c `super_getattro`.
"""

from __future__ import annotations

import threading
import types
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .control import DELETED, MISSING, Observed, native, unsupported
from .guards import GuardKind
from .native import extension
from .lift import HEAP_TYPE, is_torch_owned
from .peer import peer_module
from .source import AttrSource, CallSource, CodeSource, ConstantSource, InstanceDictSource, ItemSource, MemberSource, Source, TypeAttrSource, instance_attr, module_member

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["MODULE_TABLES", "TENSOR_NAMES", "TensorSuper", "class_lookup", "generic_attr", "guard_held", "guard_mro", "has_attr", "has_method", "instance_lookup", "load_attr", "module_descriptor", "raw_dict", "tensor_attr", "tensor_class_lookup", "type_attr"]

K = GuardKind
_FUNCTION = types.FunctionType
_NATIVE_TYPES: set[type] = {
    int, float, bool, str, bytes, complex, type(None), list, dict, tuple, set, frozenset, slice, range, types.CellType, types.CodeType, type({}.keys()), type({}.values()), type({}.items()),
    torch.Size, torch.dtype, torch.device, torch.iinfo, torch.finfo, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.GetSetDescriptorType,
    type(iter([])), type(iter(())), type(iter({})), type(reversed([])), property, staticmethod, classmethod, types.MappingProxyType, types.GenericAlias,
}  # fmt: skip
_DATA = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset, type(None), torch.Tensor)
_C_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_GENERIC_IN_C = frozenset({"builtins", "collections", "types"})  # their classes' `__getattribute__` is object's, under a wrapper of its own
_MODULE_GETATTR = nn.Module.__getattr__
_OBJECT_GETATTRIBUTE = object.__getattribute__
MODULE_TABLES = ("_parameters", "_buffers", "_modules")


def class_lookup(cap: Capture, t: type, name: str) -> Any:
    """(raw class attribute, class that holds it), or MISSING; guarded."""
    key = (t, name)
    found = cap.type_cache.get(key)
    if found is None:
        found = MISSING
        for klass in t.__mro__:
            if name in cap.overlay.get(id(klass), ()):
                found = (cap.overlay[id(klass)][name], klass)
                break
            if name in klass.__dict__:
                found = (klass.__dict__[name], klass)
                break
        cap.type_cache[key] = found
        _guard_class_attr(cap, t, found, name)
    return found


def guard_mro(cap: Capture, t: type) -> None:
    """The class still derives from what it derives from, in this order."""
    if id(t) in cap.own:
        for base in t.__bases__:
            guard_mro(cap, base)
    elif _may_change(t):
        cap.guards.add(ConstantSource(t), K.MRO, t.__mro__)


def _may_change(t: type) -> bool:
    """Whether this is a class of the program's, which may be another at the next call."""
    return bool(t.__flags__ & HEAP_TYPE) and not is_torch_owned(t.__module__) and not t.__module__.startswith("lamina_dynamo.")


def _guard_class_attr(cap: Capture, t: type, raw: Any, name: str) -> None:
    """The class still holds this very attribute, or still none. One guard per class and name, however many instances."""
    if not _may_change(t):
        if t is torch.Tensor or raw is not MISSING and type(raw[0]) is _FUNCTION and issubclass(t, nn.Module):  # which programs patch
            cap.guards.add(*((ConstantSource(t), K.NO_ATTR, name) if raw is MISSING else (TypeAttrSource(ConstantSource(t), name), K.ID, raw[0])))
        return
    if id(t) in cap.own:  # what it inherits may still change
        if raw is MISSING or id(raw[1]) in cap.own or not raw[1].__flags__ & HEAP_TYPE:
            return
        t = raw[1]
    if raw is MISSING:
        cap.guards.add(ConstantSource(t), K.NO_ATTR, name)
    elif isinstance(raw[0], _DATA):  # whoever uses the value guards it
        cap.guards.add(TypeAttrSource(ConstantSource(t), name), K.TYPE, type(raw[0]))
    else:
        cap.guards.add(TypeAttrSource(ConstantSource(t), name), K.ID, raw[0])


def has_method(cap: Capture, obj: Any, name: str) -> bool:
    """Whether the object's class has the method `name`."""
    return class_lookup(cap, type(obj), name) is not MISSING


def load_attr(cap: Capture, obj: Any, name: str) -> Any:
    """`obj.name` as the program would see it; AttributeErrors are the program's, and that the attribute is missing is guarded."""
    try:
        return _load_attr(cap, obj, name)
    except Observed as e:
        if isinstance(e.exc, AttributeError):
            _guard_missing(cap, obj, name)
        raise


def _load_attr(cap: Capture, obj: Any, name: str) -> Any:
    t = type(obj)
    if t in _NATIVE_TYPES:
        return native(getattr, obj, name)
    if isinstance(obj, torch.Tensor):
        return tensor_attr(cap, obj, name)
    if isinstance(obj, types.ModuleType):
        return _module_attr(cap, obj, name)
    if isinstance(obj, type):
        return type_attr(cap, obj, name)
    if t is super or t is TensorSuper:
        return _super_attr(cap, obj, name)
    if t is _FUNCTION or t is types.MethodType:
        return _function_attr(cap, obj, name)
    if t in weakref.ProxyTypes:
        unsupported("weak-reference", "an attribute of a weak proxy", saw=name, hint="keep a weakref.ref, and call it")
    getter, owner = class_lookup(cap, t, "__getattribute__")
    if getter is _OBJECT_GETATTRIBUTE or type(getter) is types.WrapperDescriptorType and owner.__module__ in _GENERIC_IN_C:
        found = generic_attr(cap, obj, t, name)
        if found is not MISSING:
            return found
    elif type(getter) is _FUNCTION:
        try:
            return cap.call(getter, (obj, name))
        except Observed as e:
            if not isinstance(e.exc, AttributeError) or class_lookup(cap, t, "__getattr__") is MISSING:
                raise
    elif class_lookup(cap, t, name) is not MISSING or raw_dict(obj) is None:
        if isinstance(obj, threading.local):
            return _lift_native(cap, obj, name, native(getattr, obj, name))
        cap.refuse_opaque(obj)
        return native(getattr, obj, name)
    else:
        found = instance_lookup(cap, obj, name, True)
        if found is not MISSING:
            return found
    return _fallback(cap, obj, t, name)


def _fallback(cap: Capture, obj: Any, t: type, name: str) -> Any:
    hook = class_lookup(cap, t, "__getattr__")
    if hook is not MISSING:
        if type(hook[0]) is _FUNCTION and (src := cap.sources.get(id(obj))) is not None and raw_dict(obj) is not None and name not in cap.overlay.get(id(obj), ()):
            cap.guard_instance_missing(src, name)  # once it is there, the hook is not asked
        if hook[0] is _MODULE_GETATTR:
            return _nn_member(cap, obj, t, name)
        if type(hook[0]) is _FUNCTION:
            return cap.call(hook[0], (obj, name))
        return native(getattr, obj, name)
    try:
        _OBJECT_GETATTRIBUTE(obj, name)  # its text, in which C types have their module, and empty slots their own form
    except AttributeError as e:
        raise Observed(AttributeError(*e.args, name=name, obj=obj)) from None
    raise Observed(AttributeError(f"{t.__name__!r} object has no attribute {name!r}", name=name, obj=obj))  # deleted in the frame


def generic_attr(cap: Capture, obj: Any, t: type, name: str) -> Any:
    """object.__getattribute__; MISSING where it would raise AttributeError."""
    raw = class_lookup(cap, t, name)
    if raw is MISSING:
        return instance_lookup(cap, obj, name, False)
    value, owner = raw
    rt = type(value)
    if rt is _FUNCTION:
        found = instance_lookup(cap, obj, name, True)
        if found is not MISSING:
            return found
        return types.MethodType(value, obj)
    if rt is property:
        if value.fget is None:
            raise Observed(AttributeError(f"property {name!r} of {t.__qualname__!r} object has no getter"))
        if type(value.fget) is not _FUNCTION:
            return _lift_native(cap, obj, name, native(getattr, obj, name))
        return cap.call(value.fget, (obj,))
    getter = class_lookup(cap, rt, "__get__")
    if getter is not MISSING and (class_lookup(cap, rt, "__set__") is not MISSING or class_lookup(cap, rt, "__delete__") is not MISSING):
        return _data_descriptor(cap, obj, t, name, value, getter[0])
    found = instance_lookup(cap, obj, name, True)
    if found is not MISSING:
        return found
    return _class_value(cap, obj, t, name, raw, getter)


def _data_descriptor(cap: Capture, obj: Any, t: type, name: str, value: Any, getter: Any) -> Any:
    if name == "__dict__":
        from .instance_dict import instance_dict

        return instance_dict(cap, obj)
    if name == "__class__":
        return t
    if type(getter) is _FUNCTION:
        return cap.call(getter, (_descriptor(cap, value, t, name), obj, t))
    over = cap.overlay.get(id(obj))
    if over is not None and name in over:
        return MISSING if over[name] is DELETED else over[name]
    cap.refuse_opaque(obj)
    target = cap.original_of.get(id(obj), obj)
    try:
        found = value.__get__(target, t)
    except AttributeError:
        return MISSING
    except Exception as e:
        raise Observed(e) from e
    return _lift_native(cap, obj, name, found)


def _lift_native(cap: Capture, obj: Any, name: str, found: Any) -> Any:
    src = cap.sources.get(id(obj))
    return found if src is None else cap.lift(found, AttrSource(src, name))


def _descriptor(cap: Capture, value: Any, t: type, name: str) -> Any:
    """A descriptor written in Python: what it holds is read, and guarded, like any other object's."""
    if not {id(value), id(t)} & cap.own.keys() and id(value) not in cap.sources:
        cap.remember(value, TypeAttrSource(ConstantSource(t), name))
    return value


def _class_value(cap: Capture, obj: Any, t: type, name: str, raw: Any, getter: Any) -> Any:
    """A class attribute that is no data descriptor, seen through an instance."""
    value = raw[0]
    rt = type(value)
    if rt is staticmethod:
        return value.__func__
    if rt is classmethod:
        return types.MethodType(value.__func__, t)
    if getter is not MISSING:
        if type(getter[0]) is _FUNCTION:
            return cap.call(getter[0], (_descriptor(cap, value, t, name), obj, t))
        return native(value.__get__, obj, t)
    if id(raw[1]) in cap.own or name in cap.overlay.get(id(raw[1]), ()):
        return value
    if is_torch_owned(raw[1].__module__):
        return cap.lift(value, ConstantSource(value))
    return cap.lift(value, TypeAttrSource(ConstantSource(raw[1] if id(t) in cap.own else t), name))


def instance_lookup(cap: Capture, obj: Any, name: str, guard_missing: bool) -> Any:
    """What the instance itself holds under `name`."""
    over = cap.overlay.get(id(obj))
    if over is not None and name in over:
        found = over[name]
        return MISSING if found is DELETED else found
    target = cap.original_of.get(id(obj), obj)
    d = raw_dict(target)
    if d is None:
        return MISSING
    if id(d) in cap.shadow_of:
        unsupported("instance-dict", "attributes of an object whose dictionary is used as a dictionary", saw=name, hint="use getattr and setattr")
    src = cap.sources.get(id(obj))
    if name in d:
        return d[name] if src is None else cap.lift(d[name], instance_attr(src, name))
    if guard_missing and src is not None:
        cap.guard_instance_missing(src, name)
    return MISSING


def raw_dict(obj: Any) -> dict[str, Any] | None:
    """The instance's dictionary, without running user code."""
    try:
        d = _OBJECT_GETATTRIBUTE(obj, "__dict__")
    except (AttributeError, TypeError):
        return None
    return d if isinstance(d, dict) else None


# ---- nn.Module -------------------------------------------------------------------------------------------------------
def _nn_member(cap: Capture, obj: Any, t: type, name: str) -> Any:
    """nn.Module.__getattr__: parameters, buffers, submodules."""
    src = cap.sources.get(id(obj))
    d = raw_dict(obj) or {}
    over = cap.overlay.get(id(obj))
    for table_name in MODULE_TABLES:
        table = d.get(table_name)
        if over is not None and table_name in over:
            table = over[table_name]
        if table is None:
            continue
        shadow = cap.shadow_of.get(id(table)) if src is not None else table
        if shadow is not None:
            if name in shadow:
                return shadow[name]
        elif name in table:
            return cap.lift(table[name], module_member(src, table_name, name))
    raise Observed(AttributeError(f"'{t.__name__}' object has no attribute '{name}'", name=name, obj=obj))


# ---- other kinds of objects --------------------------------------------------------------------------------------------
def tensor_attr(cap: Capture, t: Any, name: str) -> Any:
    over = cap.overlay.get(id(t))
    if over is not None and name in over:
        if over[name] is DELETED:
            raise _no_tensor_attr(cap, t, name)
        return over[name]
    inp = cap.inputs.get(id(t))
    if inp is not None:
        extra = inp.real.__dict__
        if name in extra:
            return cap.lift(extra[name], instance_attr(inp.source, name))
    if name == "__class__":
        return cap.type_of(t)
    cls = cap.class_of.get(id(t))
    if cls is not None and (found := _subclass_attr(cap, t, cls, name)) is not MISSING:
        return found
    if name == "__dict__":
        unsupported("tensor-dict", "reading __dict__ of a tensor")
    raw = class_lookup(cap, torch.Tensor, name)
    if raw is MISSING and (inp is not None or name not in getattr(t, "__dict__", ())):
        raise _no_tensor_attr(cap, t, name)
    if raw is not MISSING and raw[0] is not _TENSOR_OWN.get(name):  # the program put it there
        return types.MethodType(raw[0], t) if type(raw[0]) is _FUNCTION else _patched_attr(cap, t, name, raw)
    return native(getattr, t, name)


def _patched_attr(cap: Capture, t: Any, name: str, raw: Any) -> Any:
    if type(raw[0]) is property and type(raw[0].fget) is _FUNCTION:
        return cap.call(raw[0].fget, (t,))
    return _class_value(cap, t, torch.Tensor, name, raw, class_lookup(cap, type(raw[0]), "__get__"))


def _no_tensor_attr(cap: Capture, t: Any, name: str) -> Observed:
    """The exception of eager: a fake says what it stands for, and what is a fake's own is not there."""
    return Observed(AttributeError(f"{cap.type_of(t).__name__!r} object has no attribute {name!r}", name=name, obj=t))


def tensor_class_lookup(cap: Capture, t: Any, name: str) -> Any:
    """What a subclass of Tensor itself has under `name`: (raw attribute, class that holds it), or MISSING."""
    cls = cap.class_of.get(id(t))
    found = class_lookup(cap, cls, name) if cls is not None else MISSING
    return MISSING if found is MISSING or found[1] in torch.Tensor.__mro__ else found


def _subclass_attr(cap: Capture, t: Any, cls: type, name: str) -> Any:
    raw = tensor_class_lookup(cap, t, name)
    if raw is MISSING:
        if name in TENSOR_NAMES or (hook := tensor_class_lookup(cap, t, "__getattr__")) is MISSING:
            return MISSING
        return cap.call(hook[0], (t, name))
    if type(raw[0]) is _FUNCTION:
        return types.MethodType(raw[0], t)
    if type(raw[0]) is property:
        return cap.call(raw[0].fget, (t,))
    return _class_value(cap, t, cls, name, raw, class_lookup(cap, type(raw[0]), "__get__"))


_TENSOR_OWN = {name: raw for klass in reversed(torch.Tensor.__mro__) for name, raw in klass.__dict__.items()}
TENSOR_NAMES = frozenset(dir(torch.Tensor))


def _module_attr(cap: Capture, m: types.ModuleType, name: str) -> Any:
    key = (id(m.__dict__), name)
    if key in cap.globals_overlay:
        return cap.globals_overlay[key]
    if name == "__dict__" and not is_torch_owned(m.__name__):
        from .instance_dict import instance_dict

        if id(m.__dict__) in cap.globals_dicts:
            unsupported("instance-dict", "the dictionary of a module that the frame has written to", saw=m.__name__, hint="use getattr and setattr")
        return instance_dict(cap, m)
    described = module_descriptor(m, name)
    if described is not None:
        return cap.call(class_lookup(cap, type(described), "__get__")[0], (described, m, type(m)))
    value = m.__dict__.get(name, MISSING)
    if m is torch and name == "_dynamo":
        return peer_module("torch._dynamo")
    if value is MISSING:
        return _beyond_module(cap, m, name)
    source = ItemSource(ConstantSource(m.__dict__), name)
    if is_torch_owned(m.__name__):  # what else it holds is its own
        if callable(value):
            cap.guards.add(source, K.ID, value)
        source = ConstantSource(value)
    return cap.lift(value, source)


def _beyond_module(cap: Capture, m: types.ModuleType, name: str) -> Any:
    """What a module's dictionary lacks: its class has it, its `__getattr__` finds it (and may put it there), or nobody."""
    if is_torch_owned(m.__name__):
        value = native(getattr, m, name)
        return cap.lift(value, ConstantSource(value))
    contents, hook = ConstantSource(m.__dict__), m.__dict__.get("__getattr__")
    try:
        if type(hook) is _FUNCTION and not hasattr(type(m), name):
            return cap.call(cap.lift(hook, ItemSource(contents, "__getattr__")), (name,))
        value = native(getattr, m, name)
    finally:
        if name not in m.__dict__:
            cap.guards.add(contents, K.NO_KEY, name)
            if hook is None:
                cap.guards.add(contents, K.NO_KEY, "__getattr__")
    return cap.lift(value, ItemSource(contents, name) if name in m.__dict__ else ConstantSource(value))


def module_descriptor(m: types.ModuleType, name: str) -> Any:
    """A flag of PyTorch's backends, such as `torch.backends.cudnn.enabled`: a data descriptor of the module's class."""
    if type(m) is types.ModuleType:
        return None
    found = next((k.__dict__[name] for k in type(m).__mro__ if name in k.__dict__), None)
    return found if type(getattr(type(found), "__set__", None)) is _FUNCTION else None


def type_attr(cap: Capture, cls: type, name: str, hooked: bool = True) -> Any:
    """type.__getattribute__ (or, if `hooked`, the one that the metaclass defines): data descriptors of the metaclass, the class and its bases, the rest of the metaclass, its `__getattr__`."""
    over = cap.overlay.get(id(cls))
    if over is not None and name in over:
        return over[name]
    if name == "__dict__":
        known = id(cls) in cap.own or not _may_change(cls)
        return cls.__dict__ if known else types.MappingProxyType(cap.lift(dict(cls.__dict__), InstanceDictSource(ConstantSource(cls))))
    meta = type(cls)
    above = class_lookup(cap, meta, name) if meta is not type else MISSING
    if meta is not type:
        getter = class_lookup(cap, meta, "__getattribute__")
        if hooked and type(getter[0]) is _FUNCTION and not _is_stdlib(getter[1]):
            return cap.call(getter[0], (cls, name))
        if above is not MISSING and (above[1] in type.__mro__ or _is_stdlib(above[1])):
            above = MISSING
        if above is not MISSING and type(above[0]) is property and type(above[0].fget) is _FUNCTION:
            return cap.call(above[0].fget, (cls,))
    raw = class_lookup(cap, cls, name)
    if raw is MISSING:
        return _from_metaclass(cap, cls, meta, name, above)
    if name in cap.overlay.get(id(raw[1]), ()):
        return raw[0]
    getter = class_lookup(cap, type(raw[0]), "__get__")
    if getter is not MISSING and type(getter[0]) is _FUNCTION:
        return cap.call(getter[0], (_descriptor(cap, raw[0], cls, name), None, cls))
    value = _native_type_attr(cls, name)
    if id(cls) in cap.own:
        if id(raw[1]) in cap.own:
            return value
        cls = raw[1]
    if is_torch_owned(raw[1].__module__):
        return cap.lift_if_data(value, ConstantSource(value))
    if type(raw[0]) in (_FUNCTION, classmethod, staticmethod, property) or value is not raw[0]:
        return value
    return cap.lift(value, TypeAttrSource(ConstantSource(cls), name))


def _native_type_attr(cls: type, name: str) -> Any:
    """What C finds; a `__getattribute__` of the metaclass has been interpreted before, or asks for this."""
    getter = extension().lookup_in_mro(type(cls), "__getattribute__")
    return native(type.__getattribute__ if type(getter) is _FUNCTION and not _is_stdlib(type(cls)) else getattr, cls, name)


def _from_metaclass(cap: Capture, cls: type, meta: type, name: str, above: Any) -> Any:
    """`cls.name` of a class that lacks it. `above`: what the metaclass, written in Python, has."""
    if above is not MISSING:
        value, getter = above[0], class_lookup(cap, type(above[0]), "__get__")
        if type(value) is _FUNCTION:
            return types.MethodType(value, cls)
        if getter is MISSING:
            return cap.lift(value, TypeAttrSource(ConstantSource(meta), name))
        if type(getter[0]) is _FUNCTION:
            return cap.call(getter[0], (_descriptor(cap, value, meta, name), cls, meta))
    elif meta is not type and not hasattr(type, name):
        hook = class_lookup(cap, meta, "__getattr__")
        if hook is not MISSING and type(hook[0]) is _FUNCTION and not _is_stdlib(hook[1]):
            return cap.call(hook[0], (cls, name))
    value = _native_type_attr(cls, name)
    if id(cls) in cap.own:
        return value
    if name in _IN_MRO:
        guard_mro(cap, cls)
    if name in ("__name__", "__qualname__") and _may_change(cls):
        return cap.lift(value, MemberSource(ConstantSource(cls), name))
    return cap.lift_if_data(value, ConstantSource(value))


_IN_MRO = frozenset({"__mro__", "__bases__", "__base__", "mro"})


def _is_stdlib(cls: type) -> bool:
    return cls.__module__ in ("enum", "abc", "builtins", "typing")


_MEMBERS = frozenset({"__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__", "__annotations__"})


def _function_attr(cap: Capture, fn: Any, name: str) -> Any:
    if type(fn) is types.MethodType and name not in ("__self__", "__func__", "__class__", "__call__", "__get__"):
        return load_attr(cap, fn.__func__, name)
    over = cap.overlay.get(id(fn))
    if over is not None and name in over:
        return over[name]
    if type(fn) is not _FUNCTION or id(fn) in cap.own or is_torch_owned(fn.__module__):
        return native(getattr, fn, name)
    base = cap.base_source(fn)
    if name == "__closure__" and fn.__closure__:
        return cap.closure_of(fn)
    if name == "__dict__":
        from .instance_dict import InstanceDict

        cap.sources.setdefault(id(fn), base)
        return InstanceDict(cap, fn)
    if name in fn.__dict__:
        return cap.lift(fn.__dict__[name], instance_attr(base, name))
    if not hasattr(_FUNCTION, name):
        cap.guards.add(InstanceDictSource(base), K.NO_KEY, name)
    value = native(getattr, fn, name)
    if name == "__code__":
        return cap.lift(value, CodeSource(base))
    return cap.lift(value, MemberSource(base, name)) if name in _MEMBERS else value


def _super_attr(cap: Capture, sup: Any, name: str) -> Any:
    start, obj, cls = _super_parts(sup)
    mro = cls.__mro__
    guard_mro(cap, cls)
    if name == "__class__":
        return super
    for klass in mro[mro.index(start) + 1 :]:
        value = _own_attr(cap, klass, name)
        if value is MISSING:
            continue
        rt = type(value)
        if rt is _FUNCTION:
            return value if obj is cls else types.MethodType(value, obj)
        if rt is staticmethod:
            return value.__func__
        if rt is classmethod:
            return types.MethodType(value.__func__, cls)
        if rt is property and obj is not cls:
            return cap.call(value.fget, (obj,))
        getter = class_lookup(cap, rt, "__get__")
        if getter is MISSING:
            return cap.lift(value, TypeAttrSource(ConstantSource(klass), name))
        if type(getter[0]) is _FUNCTION:
            return cap.call(getter[0], (_descriptor(cap, value, klass, name), None if obj is cls else obj, cls))
        return native(value.__get__, None if obj is cls else obj, cls)
    raise Observed(AttributeError(f"'super' object has no attribute {name!r}"))


def _own_attr(cap: Capture, klass: type, name: str) -> Any:
    """What the class itself, not its bases, has under `name`, guarded."""
    if name in cap.overlay.get(id(klass), ()):
        return cap.overlay[id(klass)][name]
    value, contents = klass.__dict__.get(name, MISSING), InstanceDictSource(ConstantSource(klass))
    if id(klass) in cap.own or not _may_change(klass):
        return value
    if value is MISSING:
        cap.guards.add(contents, K.NO_KEY, name)
    elif not isinstance(value, _DATA):  # whoever uses the value guards it
        cap.guards.add(ItemSource(contents, name), K.ID, value)
    else:
        cap.guards.add(ItemSource(contents, name), K.TYPE, type(value))
    return value


class TensorSuper(NamedTuple):
    """`super(cls, t)` of a fake, whose own class is another."""

    start: type
    obj: Any
    cls: type


def _super_parts(sup: Any) -> tuple[type, Any, type]:
    if type(sup) is TensorSuper:
        return sup
    return super.__getattribute__(sup, "__thisclass__"), super.__getattribute__(sup, "__self__"), super.__getattribute__(sup, "__self_class__")


def has_attr(cap: Capture, obj: Any, name: str) -> bool:
    """`hasattr(obj, name)`."""
    try:
        load_attr(cap, obj, name)
    except Observed as e:
        if not isinstance(e.exc, AttributeError):
            raise
        return False
    return True


def _guard_missing(cap: Capture, obj: Any, name: str) -> None:
    """The object (its class, a module's tables) still lacks `name`."""
    inp = cap.inputs.get(id(obj))
    src = inp.source if inp is not None else cap.sources.get(id(obj))
    if src is None or isinstance(obj, types.ModuleType) or type(src) is ConstantSource or name in cap.overlay.get(id(obj), ()):
        return
    if class_lookup(cap, cap.type_of(obj), name) is MISSING:
        cap.guard(src, K.NO_ATTR, name)
    if not isinstance(obj, torch.Tensor):
        guard_held(cap, obj, src, name)
    if isinstance(obj, nn.Module):
        d = raw_dict(obj) or {}
        for table in MODULE_TABLES:
            if table in d:
                cap.guard(instance_attr(src, table), K.NO_KEY, name)


def guard_held(cap: Capture, obj: Any, src: Source, name: str) -> bool:
    """Whether the outside object itself holds `name`, in its dictionary or a slot."""
    target = cap.original_of.get(id(obj), obj)
    d = raw_dict(target)
    raw = class_lookup(cap, type(obj), name)
    if raw is not MISSING and type(raw[0]) is types.MemberDescriptorType or isinstance(obj, threading.local):
        held = _SlotIsSet.at(name)(target)
        cap.guard(CallSource(_SlotIsSet.at(name), src), K.BOOL, held)
        return held
    if d is None:
        return False
    cap.guard(InstanceDictSource(src), K.HAS_KEY if name in d else K.NO_KEY, name)
    return name in d


class _SlotIsSet:
    """Whether a slot, or this thread's part of a local, holds something, as a pure function for `CallSource`. One object per name: sources are interned by identity."""

    _made: dict[str, _SlotIsSet] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.__name__ = f"has_{name}"

    def __call__(self, obj: Any) -> bool:
        try:
            (threading.local.__getattribute__ if isinstance(obj, threading.local) else _OBJECT_GETATTRIBUTE)(obj, self.name)
        except AttributeError:
            return False
        return True

    @classmethod
    def at(cls, name: str) -> _SlotIsSet:
        return cls._made.setdefault(name, cls(name))
