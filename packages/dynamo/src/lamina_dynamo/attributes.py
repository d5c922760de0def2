"""The attribute protocol on values during capture: reads are lifted and guarded, writes to outside objects are kept aside.

Between: LOAD_ATTR, STORE_ATTR, getattr, setattr, super -> objects.
Keeps:   no user code runs natively: properties, `__getattr__`, `__getattribute__`, descriptors written in Python are
         interpreted; what lives in C is called. Originals are not written to: `cap.overlay` holds what was stored.
Source:  CPython Objects/object.c `_PyObject_GenericGetAttrWithDict`, Objects/typeobject.c `super_getattro`.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .control import Observed, native, stands_for, unsupported
from .guards import GuardKind
from .lift import HEAP_TYPE, is_torch_owned
from .control import DELETED, MISSING
from .peer import peer_module
from .source import AttrSource, CallSource, ConstantSource, InstanceDictSource, ItemSource, Source, TypeAttrSource, instance_attr, module_member

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["TensorSuper", "class_lookup", "delete_attr", "has_attr", "instance_dict", "load_attr", "store_attr", "tensor_class_lookup"]

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
_TABLES = ("_parameters", "_buffers", "_modules")


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


def _guard_class_attr(cap: Capture, t: type, raw: Any, name: str) -> None:
    """The class still holds this very attribute, or still none. One guard per class and name, however many instances."""
    if is_torch_owned(t.__module__) or not t.__flags__ & HEAP_TYPE or t.__module__.startswith("lamina_dynamo."):
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
        return _tensor_attr(cap, obj, name)
    if isinstance(obj, types.ModuleType):
        return _module_attr(cap, obj, name)
    if isinstance(obj, type):
        return _type_attr(cap, obj, name)
    if t is super or t is TensorSuper:
        return _super_attr(cap, obj, name)
    if t is _FUNCTION or t is types.MethodType:
        return _function_attr(cap, obj, name)
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
        return native(getattr, obj, name)
    else:
        found = instance_lookup(cap, obj, name, True)
        if found is not MISSING:
            return found
    return _fallback(cap, obj, t, name)


def _fallback(cap: Capture, obj: Any, t: type, name: str) -> Any:
    hook = class_lookup(cap, t, "__getattr__")
    if hook is not MISSING:
        if hook[0] is _MODULE_GETATTR:
            return _nn_member(cap, obj, t, name)
        if type(hook[0]) is _FUNCTION:
            if (src := cap.sources.get(id(obj))) is not None and raw_dict(obj) is not None and name not in cap.overlay.get(id(obj), ()):
                cap.guard_instance_missing(src, name)  # once it is there, the hook is not asked
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
        return instance_dict(cap, obj)
    if name == "__class__":
        return t
    if type(getter) is _FUNCTION:
        return cap.call(getter, (value, obj, t))
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
            return cap.call(getter[0], (value, obj, t))
        if rt in (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType):
            return native(value.__get__, obj, t)
        return native(value.__get__, obj, t)
    if id(raw[1]) in cap.own or name in cap.overlay.get(id(raw[1]), ()):
        return value
    if is_torch_owned(raw[1].__module__):
        return cap.lift(value, ConstantSource(value))
    return cap.lift(value, TypeAttrSource(ConstantSource(t), name))


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
    for table_name in _TABLES:
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
def _tensor_attr(cap: Capture, t: Any, name: str) -> Any:
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
    if name not in _TENSOR_NAMES and (inp is not None or name not in getattr(t, "__dict__", ())):
        raise _no_tensor_attr(cap, t, name)
    return native(getattr, t, name)


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
        if name in _TENSOR_NAMES or (hook := tensor_class_lookup(cap, t, "__getattr__")) is MISSING:
            return MISSING
        return cap.call(hook[0], (t, name))
    if type(raw[0]) is _FUNCTION:
        return types.MethodType(raw[0], t)
    if type(raw[0]) is property:
        return cap.call(raw[0].fget, (t,))
    return _class_value(cap, t, cls, name, raw, class_lookup(cap, type(raw[0]), "__get__"))


_TENSOR_NAMES = frozenset(dir(torch.Tensor))


def _module_attr(cap: Capture, m: types.ModuleType, name: str) -> Any:
    key = (id(m.__dict__), name)
    if key in cap.globals_overlay:
        return cap.globals_overlay[key]
    described = _module_descriptor(m, name)
    if described is not None:
        return cap.call(class_lookup(cap, type(described), "__get__")[0], (described, m, type(m)))
    value = m.__dict__.get(name, MISSING)
    if m is torch and name == "_dynamo":
        return peer_module("torch._dynamo")
    if value is MISSING:
        value = native(getattr, m, name)
        return cap.lift(value, ConstantSource(value))
    if is_torch_owned(m.__name__):
        return cap.lift(value, ConstantSource(value))
    return cap.lift(value, ItemSource(ConstantSource(m.__dict__), name))


def _module_descriptor(m: types.ModuleType, name: str) -> Any:
    """A flag of PyTorch's backends, such as `torch.backends.cudnn.enabled`: a data descriptor of the module's class."""
    if type(m) is types.ModuleType:
        return None
    found = next((k.__dict__[name] for k in type(m).__mro__ if name in k.__dict__), None)
    return found if type(getattr(type(found), "__set__", None)) is _FUNCTION else None


def _type_attr(cap: Capture, cls: type, name: str) -> Any:
    over = cap.overlay.get(id(cls))
    if over is not None and name in over:
        return over[name]
    if name == "__dict__":
        return native(getattr, cls, name)
    meta = type(cls)
    if meta is not type:
        raw = class_lookup(cap, meta, name)
        if raw is not MISSING and type(raw[0]) is property and type(raw[0].fget) is _FUNCTION and not _is_stdlib(raw[1]):
            return cap.call(raw[0].fget, (cls,))
        hook = class_lookup(cap, meta, "__getattr__")
        if raw is MISSING and class_lookup(cap, cls, name) is MISSING and hook is not MISSING and type(hook[0]) is _FUNCTION and not _is_stdlib(hook[1]):
            return cap.call(hook[0], (cls, name))
    raw = class_lookup(cap, cls, name)
    if raw is not MISSING and name in cap.overlay.get(id(raw[1]), ()):
        return raw[0]
    if raw is not MISSING and type(class_lookup(cap, type(raw[0]), "__get__")) is tuple and type(class_lookup(cap, type(raw[0]), "__get__")[0]) is _FUNCTION:
        return cap.call(class_lookup(cap, type(raw[0]), "__get__")[0], (raw[0], None, cls))
    value = native(getattr, cls, name)
    if raw is MISSING or is_torch_owned(raw[1].__module__) or id(cls) in cap.own:
        return value if id(cls) in cap.own else cap.lift_if_data(value, ConstantSource(value))
    if type(raw[0]) in (_FUNCTION, classmethod, staticmethod, property) or value is not raw[0]:
        return value
    return cap.lift(value, TypeAttrSource(ConstantSource(cls), name))


def _is_stdlib(cls: type) -> bool:
    return cls.__module__ in ("enum", "abc", "builtins", "typing")


def _function_attr(cap: Capture, fn: Any, name: str) -> Any:
    over = cap.overlay.get(id(fn))
    if over is not None and name in over:
        return over[name]
    value = native(getattr, fn, name)
    if id(fn) in cap.own or name in ("__self__", "__func__"):
        return value
    if name == "__closure__" and value:
        return cap.closure_of(fn)
    if name in ("__name__", "__qualname__", "__module__", "__doc__", "__code__", "__globals__", "__wrapped__", "__dict__", "__get__", "__call__", "__annotations__", "__defaults__", "__kwdefaults__", "__closure__"):
        return value
    return cap.lift(value, AttrSource(cap.base_source(fn), name))


def _super_attr(cap: Capture, sup: Any, name: str) -> Any:
    start, obj, cls = _super_parts(sup)
    mro = cls.__mro__
    if not is_torch_owned(start.__module__) and id(cls) not in cap.own:
        cap.guards.add(AttrSource(ConstantSource(cls), "__mro__"), K.EQUALS, mro)
    if name == "__class__":
        return super
    for klass in mro[mro.index(start) + 1 :]:
        if name not in klass.__dict__:
            continue
        value = klass.__dict__[name]
        rt = type(value)
        if not is_torch_owned(klass.__module__) and klass is not object and rt is _FUNCTION:
            cap.guards.add(TypeAttrSource(ConstantSource(klass), name), K.ID, value)
        if rt is _FUNCTION:
            return value if obj is cls else types.MethodType(value, obj)
        if rt is staticmethod:
            return value.__func__
        if rt is classmethod:
            return types.MethodType(value.__func__, cls)
        if rt is property:
            return cap.call(value.fget, (obj,))
        getter = class_lookup(cap, rt, "__get__")
        if getter is MISSING:
            return cap.lift(value, TypeAttrSource(ConstantSource(klass), name))
        if type(getter[0]) is _FUNCTION:
            return cap.call(getter[0], (value, None if obj is cls else obj, cls))
        return native(value.__get__, None if obj is cls else obj, cls)
    raise Observed(AttributeError(f"'super' object has no attribute {name!r}"))


class TensorSuper(NamedTuple):
    """`super(cls, t)` of a fake, whose own class is another."""

    start: type
    obj: Any
    cls: type


def _super_parts(sup: Any) -> tuple[type, Any, type]:
    if type(sup) is TensorSuper:
        return sup
    return super.__getattribute__(sup, "__thisclass__"), super.__getattribute__(sup, "__self__"), super.__getattribute__(sup, "__self_class__")


# ---- stores ------------------------------------------------------------------------------------------------------------
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
        elif isinstance(obj, types.ModuleType) and (described := _module_descriptor(obj, name)) is not None:
            cap.call(type(described).__set__, (described, obj, value))
        elif isinstance(obj, types.ModuleType):
            cap.store_global(obj.__dict__, name, value)
        else:
            _store_class_attr(cap, obj, name, value)
        return
    setter = class_lookup(cap, t, "__setattr__")[0]
    if type(setter) is _FUNCTION:
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
        cap.guards.add(TypeAttrSource(ConstantSource(cls), name), K.EQUALS, old)
    _overlay_store(cap, cls, name, value)
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
        if setter is not MISSING and type(setter[0]) is _FUNCTION:
            cap.call(setter[0], (raw[0], obj, value))
            return
    if id(obj) in cap.sources:
        if raw is MISSING and raw_dict(obj) is None:
            raise Observed(AttributeError(f"{t.__name__!r} object has no attribute {name!r}"))
        if name == "__dict__" or name == "__class__":
            unsupported("attribute-write", f"assigning {name} of an outside object")
        _overlay_store(cap, obj, name, value)
    else:
        native(object.__setattr__, obj, name, value)


def _store_tensor_attr(cap: Capture, t: Any, name: str, value: Any) -> None:
    if id(t) in cap.wrapper_of:  # its __torch_dispatch__ runs natively, and reads it there
        if cap.wrapper_of[id(t)] is not None:
            unsupported("tensor-attribute-write", "assigning an attribute of a tensor subclass with __torch_dispatch__", saw=name)
        native(object.__setattr__, t, name, value)
        return
    raw = tensor_class_lookup(cap, t, name)
    if raw is not MISSING and type(raw[0]) is property:
        if raw[0].fset is None:
            raise Observed(AttributeError(f"property {name!r} of {cap.type_of(t).__qualname__!r} object has no setter"))
        cap.call(raw[0].fset, (t, value))
    elif raw is MISSING and name in _TENSOR_NAMES:
        native(setattr, t, name, value)
    else:
        _overlay_store(cap, t, name, value)


def _overlay_store(cap: Capture, obj: Any, name: str, value: Any) -> None:
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
    if any(name in (d.get(table) or ()) for table in _TABLES):
        return False
    if class_lookup(cap, type(obj), name) is not MISSING and type(class_lookup(cap, type(obj), name)[0]) is property:
        generic_store(cap, obj, name, value)
        return True
    _overlay_store(cap, obj, name, value)
    return True


def delete_attr(cap: Capture, obj: Any, name: str) -> None:
    """`del obj.name`."""
    deleter = class_lookup(cap, type(obj), "__delattr__")[0]
    if type(deleter) is _FUNCTION:
        cap.call(deleter, (obj, name))
        return
    generic_delete(cap, obj, name)


def _delete_tensor_attr(cap: Capture, t: Any, name: str) -> None:
    if id(t) in cap.wrapper_of or name in _TENSOR_NAMES:
        native(delattr, t, name)
        return
    _tensor_attr(cap, t, name)
    if id(t) in cap.inputs:
        _overlay_store(cap, t, name, DELETED)
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
        if deleter is not MISSING and type(deleter[0]) is _FUNCTION:
            cap.call(deleter[0], (raw[0], obj))
            return
    if id(obj) not in cap.sources:
        native(object.__delattr__, obj, name)
        return
    held = _guard_held(cap, obj, cap.sources[id(obj)], name)
    if cap.overlay.get(id(obj), {}).get(name, MISSING if held else DELETED) is DELETED:
        if not held:
            native(object.__delattr__, obj, name)  # raises eager's exception
        raise Observed(AttributeError(f"{t.__name__!r} object has no attribute {name!r}"))
    if held:
        _overlay_store(cap, obj, name, DELETED)
    else:  # made and deleted within the frame
        del cap.overlay[id(obj)][name]


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
        _guard_held(cap, obj, src, name)
    if isinstance(obj, nn.Module):
        d = raw_dict(obj) or {}
        for table in _TABLES:
            if table in d:
                cap.guard(instance_attr(src, table), K.NO_KEY, name)


def _guard_held(cap: Capture, obj: Any, src: Source, name: str) -> bool:
    """Whether the outside object itself holds `name`, in its dictionary or a slot."""
    target = cap.original_of.get(id(obj), obj)
    d = raw_dict(target)
    raw = class_lookup(cap, type(obj), name)
    if raw is not MISSING and type(raw[0]) is types.MemberDescriptorType:
        held = _SlotIsSet.at(name)(target)
        cap.guard(CallSource(_SlotIsSet.at(name), src), K.BOOL, held)
        return held
    if d is None:
        return False
    cap.guard(InstanceDictSource(src), K.HAS_KEY if name in d else K.NO_KEY, name)
    return name in d


class _SlotIsSet:
    """Whether a slot holds something, as a pure function for `CallSource`. One object per name: sources are interned by identity."""

    _made: dict[str, _SlotIsSet] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.__name__ = f"has_{name}"

    def __call__(self, obj: Any) -> bool:
        try:
            _OBJECT_GETATTRIBUTE(obj, self.name)
        except AttributeError:
            return False
        return True

    @classmethod
    def at(cls, name: str) -> _SlotIsSet:
        return cls._made.setdefault(name, cls(name))


# ---- __dict__ ----------------------------------------------------------------------------------------------------------
@stands_for(dict)
class InstanceDict:
    """`obj.__dict__` of an outside object: a live view through the attribute protocol's storage."""

    __slots__ = ("cap", "obj")

    def __init__(self, cap: Capture, obj: Any) -> None:
        self.cap, self.obj = cap, obj

    def _get(self, key: Any) -> Any:
        return instance_lookup(self.cap, self.obj, key, True)

    def _raw(self) -> dict[str, Any]:
        d = raw_dict(self.cap.original_of.get(id(self.obj), self.obj))
        if d is None:
            return {}
        if id(d) in self.cap.shadow_of:
            unsupported("instance-dict", "the dictionary of an object by two ways", hint="use getattr and setattr")
        return d

    def __getitem__(self, key: Any) -> Any:
        found = self._get(key)
        if found is MISSING:
            raise KeyError(key)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        _overlay_store(self.cap, self.obj, key, value)

    def __delitem__(self, key: Any) -> None:
        if self._get(key) is MISSING:
            raise KeyError(key)
        _overlay_store(self.cap, self.obj, key, DELETED)

    def __contains__(self, key: Any) -> bool:
        over = self.cap.overlay.get(id(self.obj))
        if over is not None and key in over:
            return over[key] is not DELETED
        d = self._raw()
        src = self.cap.sources.get(id(self.obj))
        if key in d:
            if src is not None:
                self.cap.guard(InstanceDictSource(src), K.HAS_KEY, key)
            return True
        if src is not None:
            self.cap.guard_instance_missing(src, key)
        return False

    def _keys(self) -> list[Any]:
        d = self._raw()
        src = self.cap.sources.get(id(self.obj))
        if src is not None:
            self.cap.guard(InstanceDictSource(src), K.DICT_KEYS, tuple(d))
        over = self.cap.overlay.get(id(self.obj), {})
        return [k for k in d if over.get(k) is not DELETED] + [k for k, v in over.items() if k not in d and v is not DELETED]

    def __iter__(self) -> Any:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def get(self, key: Any, default: Any = None) -> Any:
        found = self._get(key)
        return default if found is MISSING else found

    def keys(self) -> Any:
        return dict.fromkeys(self._keys()).keys()

    def values(self) -> Any:
        return self.copy().values()

    def items(self) -> Any:
        return self.copy().items()

    def copy(self) -> dict[Any, Any]:
        return {k: self[k] for k in self._keys()}

    def update(self, *args: Any, **kwargs: Any) -> None:
        for k, v in dict(*args, **kwargs).items():
            self[k] = v

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self:
            found = self[key]
            del self[key]
            return found
        if default:
            return default[0]
        raise KeyError(key)


def instance_dict(cap: Capture, obj: Any) -> Any:
    """`obj.__dict__`."""
    if id(obj) in cap.sources:
        return InstanceDict(cap, obj)
    return native(getattr, obj, "__dict__")
