"""What is implemented in C, during capture: functions, methods, special methods; which run natively, and which are refused.

Between: `calls` -> native functions.
Keeps:   a C function runs natively only if its module is listed as pure or if it acts on values that are ours; what it
         would call back or iterate over is handed to it as something that the interpreter runs.
"""

from __future__ import annotations

import functools
import math
import re
import types
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import torch

from .attributes import generic_attr, load_attr, type_attr
from .construct import PURE_C_MODULES, instantiate
from .control import MISSING, native, observe, unsupported
from .computed_numbers import of_numbers
from .stores import generic_delete, generic_store, store_attr
from .texts import OpenText, format_text, joined

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["REFUSED_MODULES", "call_c_method", "call_class_builtin", "call_descriptor", "call_module_function", "call_slot", "is_communication"]

REFUSED_MODULES = {
    "random": ("random", "Python's random numbers", "draw them outside of the compiled function"),
    "time": ("time", "the clock", "read it outside of the compiled function"),
    "datetime": ("time", "the clock", "read it outside of the compiled function"),
    "threading": ("threads", "threads and locks", "move it outside"), "multiprocessing": ("threads", "processes", "move it outside"), "subprocess": ("threads", "processes", "move it outside"), "socket": ("io", "sockets", "move it outside"),
    "pdb": ("debugger", "the debugger", "remove the breakpoint"),
}  # fmt: skip
_CONSUMERS = frozenset({"join", "extend", "update", "union", "intersection", "difference", "symmetric_difference", "issubset", "issuperset", "isdisjoint", "fromkeys", "extendleft", "intersection_update", "difference_update", "__init__"})
_MUTATORS = frozenset({"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "update", "setdefault", "popitem", "add", "discard", "move_to_end", "appendleft", "popleft", "rotate", "__setitem__", "__delitem__", "__iadd__", "__ior__"})
_COMPARING = frozenset({"index", "count", "remove", "get", "pop", "setdefault", "add", "discard", "fromkeys", "__getitem__", "__setitem__", "__delitem__", "__contains__"})  # hash or compare their arguments
_OF_THE_PROCESS = frozenset({"getrecursionlimit", "setrecursionlimit", "gettrace", "settrace", "getprofile", "setprofile", "getswitchinterval", "setswitchinterval", "getrefcount", "getallocatedblocks", "call_tracing"})
_PYTHON_CALLABLES = frozenset({types.FunctionType, types.MethodType})
_CONTAINER_TYPES = (list, dict, set, tuple, frozenset, deque, str, bytes, int, float, complex, range, slice, bytearray)


def call_c_method(cap: Capture, fn: Any, name: str, owner: Any, args: Any, kwargs: Any) -> Any:
    """A method written in C, of `owner`; `fn` is bound."""
    if isinstance(owner, _CONTAINER_TYPES):
        if cap.is_large_dict(owner):
            return cap.large_dict_method(owner, name, args)
        if name in _CONSUMERS:
            args = cap.plain_iterables(map(cap.pairs_of, args) if isinstance(owner, dict) else args)
        if name == "sort" and kwargs and kwargs.get("key") is not None:
            kwargs = {**kwargs, "key": cap.trampoline(kwargs["key"])}
        if isinstance(owner, str) and name == "format":
            return native(format_text, cap, owner, args, kwargs or {})
        if name == "join" and isinstance(owner, str) and len(args) == 1:
            items = native(list, args[0])
            return joined(items, owner) if any(type(x) is OpenText for x in items) else native(fn, items)
        if name == "__missing__" and isinstance(owner, defaultdict):
            value = cap.call(owner.default_factory, ())
            dict.__setitem__(owner, args[0], value)
            return value
        if name == "__contains__" and isinstance(owner, (list, tuple)):
            from .opcodes.operators import contains

            return contains(cap, owner, args[0])
        if name == "numel" and isinstance(owner, torch.Size):
            return math.prod(owner)  # C++ would make symbolic sizes constant
        if name in _COMPARING:
            cap.refuse_user_keys(*args)
            if isinstance(owner, (list, tuple, deque)):
                cap.refuse_user_keys(*owner)
        return native(fn, *args, **(kwargs or {}))
    if name.startswith("__"):
        return call_slot(cap, name, fn, owner, args, kwargs)
    t = type(owner)
    if name.startswith("register_") and isinstance(owner, torch.autograd.graph.Node):
        unsupported("tensor-hook", "a hook on a node of the autograd graph", saw=t.__name__, hint="register it outside of the compiled function")
    if isinstance(owner, BaseException) and id(owner) in cap.sources:
        cap.refuse_mutation(owner)
    if t is re.Pattern:
        args, kwargs = _with_trampolines(cap, args), dict(zip(kwargs or (), _with_trampolines(cap, (kwargs or {}).values())))
    if t.__module__ in ("re", "_sre", "types", "builtins", "_hashlib", "_blake2", "_struct", "itertools", "functools", "collections", "_collections", "_weakref", "weakref", "_contextvars", "datetime", "zoneinfo", "inspect"):
        return native(fn, *args, **(kwargs or {}))
    if t.__module__.startswith("torch"):
        return _torch_object_method(cap, fn, name, owner, args, kwargs)
    if t.__module__.startswith("numpy"):
        if cap.any_unknown(args, kwargs):
            unsupported("numpy", "a NumPy method on values of the compiled function", saw=name, hint="use torch")
        return native(fn, *args, **(kwargs or {}))
    unsupported("c-call", "a call of a method implemented in C", saw=f"{t.__module__}.{t.__qualname__}.{name}")


def _with_trampolines(cap: Capture, args: Any) -> list[Any]:
    """Functions of the program as ones that C code may call."""
    return [cap.trampoline(v) if type(v) in _PYTHON_CALLABLES else v for v in args]


def _torch_object_method(cap: Capture, fn: Any, name: str, owner: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(owner, torch.Generator):
        from .rules.torch_generators import method

        return method(cap, owner, name, args, kwargs or {})
    if is_communication(type(owner).__module__, name):
        unsupported("distributed", "a method of an object of torch.distributed", saw=f"{type(owner).__qualname__}.{name}")
    return native(fn, *args, **(kwargs or {}))


def call_module_function(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    module = (fn.__module__ or "") if (fn.__module__ or "").startswith("torch") else getattr(fn.__self__, "__name__", None) or fn.__module__ or ""
    if is_communication(module, fn.__name__):
        unsupported("distributed", "a function of torch.distributed", saw=fn.__name__)
    if module.startswith("torch") and fn.__name__.lstrip("_").startswith("set_"):
        unsupported("global-state", "changing PyTorch's state in a way that is not modelled", saw=fn.__name__)
    if module == "math" and (drawn := of_numbers(cap, fn, args, kwargs or {})) is not MISSING:
        return drawn
    if module.startswith("torch") or module in ("_operator", "math"):
        return native(fn, *args, **(kwargs or {}))
    if module == "sys" and fn.__name__ in _OF_THE_PROCESS:
        unsupported("c-call", "a function that reads or sets the state of the process", saw=f"sys.{fn.__name__}")
    if module == "_bisect":  # asks for items, as only a row or the program answers
        return native(fn, *args, **(kwargs or {}))
    if module in PURE_C_MODULES or not module and fn.__qualname__ in ("str.maketrans", "bytes.maketrans"):
        return native(fn, *cap.plain_iterables(args), **dict(zip(kwargs or (), _with_trampolines(cap, (kwargs or {}).values()))))
    if module in ("time", "_random", "random"):
        unsupported(*REFUSED_MODULES["time"][:2], saw=f"{module}.{fn.__name__}", hint=REFUSED_MODULES["time"][2])
    if module.startswith("numpy") and not cap.any_unknown(args, kwargs):
        return native(fn, *args, **(kwargs or {}))
    unsupported("c-call", "a call of a C function", saw=f"{module}.{fn.__name__}")


def call_class_builtin(cap: Capture, fn: Any, owner: type, args: Any, kwargs: Any) -> Any:
    """A C class method or static method, such as `dict.fromkeys`, `object.__new__`, `torch.add`."""
    name = fn.__name__
    if name == "__new__":
        return cap.new_object(fn, args, kwargs)
    if name == "__subclasses__":
        unsupported("c-call", "the list of a class's subclasses", saw=owner.__qualname__)
    if name in ("mro", "__instancecheck__", "__subclasscheck__", "__dir__", "__init_subclass__", "__subclasshook__", "maketrans", "fromhex", "from_bytes", "fromkeys"):
        return native(fn, *cap.plain_iterables(args), **(kwargs or {}))
    module = owner.__module__ or ""
    if module.startswith("torch") or owner in (int, str, bytes, dict, float, bytearray):
        return native(fn, *args, **(kwargs or {}))
    if module == "datetime":
        unsupported(*REFUSED_MODULES["time"][:2], saw=name, hint=REFUSED_MODULES["time"][2])
    if module in PURE_C_MODULES or issubclass(owner, (dict, list, tuple, set)):
        return native(fn, *cap.plain_iterables(args), **(kwargs or {}))
    unsupported("c-call", "a call of a C class method", saw=f"{owner.__qualname__}.{name}")


def call_descriptor(cap: Capture, fn: Any, args: Any, kwargs: Any) -> Any:
    """An unbound C method: `list.append(x, 1)`, `dict.__getitem__(d, k)`, `object.__setattr__(o, n, v)`."""
    if not args:
        return native(fn)
    if isinstance(args[0], torch.Tensor) and fn.__name__ != "__setattr__":
        return native(fn, *args, **(kwargs or {}))
    if type(fn) is types.ClassMethodDescriptorType:
        return native(fn, *args, **(kwargs or {}))
    owner, rest = args[0], args[1:]
    name = fn.__name__
    if not isinstance(owner, fn.__objclass__):
        observe(TypeError(f"descriptor {name!r} for {fn.__objclass__.__name__!r} objects doesn't apply to a {type(owner).__name__!r} object"))
    if type(fn) is types.WrapperDescriptorType:
        return call_slot(cap, name, functools.partial(fn, owner), owner, rest, kwargs)
    return call_c_method(cap, functools.partial(fn, owner), name, owner, rest, kwargs)


def call_slot(cap: Capture, name: str, fn: Any, owner: Any, args: Any, kwargs: Any) -> Any:
    """A special method implemented in C, of `owner`; `fn` is bound."""
    if isinstance(owner, torch.Tensor) and name != "__setattr__":
        return native(fn, *args, **(kwargs or {}))
    base = getattr(fn, "func", fn)
    objclass = getattr(base, "__objclass__", None)
    if name == "__init__" and (objclass is object or (objclass is None and type(owner).__init__ is object.__init__)):
        return None
    if name in ("__init__", "__setstate__") and id(owner) in cap.sources and id(owner) not in cap.original_of:
        cap.refuse_mutation(owner)
    if name == "__setattr__":
        return generic_store(cap, owner, *args) if not isinstance(owner, type) else store_attr(cap, owner, *args)
    if name == "__delattr__":
        return generic_delete(cap, owner, *args)
    if name == "__getattribute__":
        if isinstance(owner, type):
            return type_attr(cap, owner, *args, hooked=False)
        if isinstance(owner, types.ModuleType):
            return load_attr(cap, owner, *args)
        found = generic_attr(cap, owner, type(owner), *args)
        if found is MISSING:
            observe(AttributeError(f"{type(owner).__name__!r} object has no attribute {args[0]!r}"))
        return found
    if name == "__call__":
        return cap.call(owner, args, kwargs) if not isinstance(owner, type) else instantiate(cap, owner, args, kwargs)
    if isinstance(owner, torch.device) and name in ("__enter__", "__exit__"):
        from .rules.contexts import device_method

        return device_method(cap, name, owner)
    if name == "__get__" and type(owner) is types.FunctionType:
        return types.MethodType(owner, args[0]) if args[0] is not None else owner
    if isinstance(owner, _CONTAINER_TYPES):
        if cap.is_large_dict(owner):
            return cap.large_dict_method(owner, name, args)
        if name in ("__init__", "__iadd__", "__ior__", "__or__", "__add__"):
            args = cap.plain_iterables(args)
        if name == "__contains__" and isinstance(owner, (list, tuple)):
            from .opcodes.operators import contains

            return contains(cap, owner, args[0])
        return native(fn, *args, **(kwargs or {}))
    if name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__init_subclass__", "__dir__", "__sizeof__", "__subclasshook__", "__next__", "__iter__", "__reduce__", "__repr__", "__str__", "__format__", "__instancecheck__", "__subclasscheck__", "__get__", "__init__", "__len__", "__index__"):
        return native(fn, *args, **(kwargs or {}))
    if type(owner).__module__ in ("builtins", "types", "functools", "collections", "itertools", "enum", "typing"):
        return native(fn, *args, **(kwargs or {}))
    if isinstance(owner, (torch._C.DisableTorchFunctionSubclass, torch._C.DisableTorchFunction)):
        unsupported("dispatch-state", "switching overrides by an object made outside of the captured code", saw=name)
    unsupported("c-call", "a call of a special method implemented in C", saw=f"{type(owner).__qualname__}.{name}")


def is_communication(module: str, name: str) -> bool:
    """Whether a function of torch.distributed, or a method of its objects, does more than answer a question."""
    known = module in _COMMUNICATION or module.startswith("torch._C._distributed")
    return known and not name.lstrip("_").startswith(("get", "is_"))


_COMMUNICATION = frozenset({"torch.distributed", "torch.distributed.distributed_c10d", "torch.distributed.c10d_logger"})
