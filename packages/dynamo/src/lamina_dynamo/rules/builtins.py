"""Rules for Python's built-in functions and classes."""

from __future__ import annotations

import builtins
import functools
import math
import operator
import sys
import types
from typing import Any

import torch
from lamina_dynshape.real_functions import MATH_FUNCTIONS, is_defined

from ..attributes import TensorSuper, class_lookup, guard_mro, has_attr, has_method, load_attr
from ..instance_dict import instance_dict
from ..stores import delete_attr, store_attr
from ..calls import rule
from ..construct import call_type
from ..native_calls import call_module_function
from ..control import MISSING, STANDS_FOR, Observed, native, observe, unsupported
from ..computed_numbers import of_numbers
from ..draws import derived
from ..frames import NULL
from ..guards import GuardKind
from ..lift import is_torch_owned
from ..opcodes.operators import as_index, compare, python_method, subscript, truth
from ..side_effects import add_effect, sets_attribute
from ..source import CallSource, ConstantSource
from ..texts import OpenText, is_open, joined, shown


STANDS_FOR.update({torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool})


_CHECKED_NATIVELY = ("abc", "typing", "_py_abc", "torch.nn.parameter", "enum")  # modules whose metaclasses decide natively


@rule(isinstance)
def is_instance(cap: Any, args: Any, kwargs: Any) -> bool:
    obj, cls = args
    return _instance_of(cap, obj, cls)


def _instance_of(cap: Any, obj: Any, cls: Any) -> bool:
    if isinstance(cls, tuple):
        return any(_instance_of(cap, obj, c) for c in cls)
    if type(cls) is types.UnionType:
        return any(_instance_of(cap, obj, c) for c in cls.__args__)
    played = STANDS_FOR.get(type(obj))
    if played is not None:
        return native(issubclass, played, cls)
    if isinstance(obj, torch.Tensor) and isinstance(cls, type):
        t = cap.type_of(obj)
        if id(obj) in cap.class_of and id(obj) in cap.inputs:
            return native(isinstance, cap.inputs[id(obj)].real, cls)
        return cls in t.__mro__ or (cls is torch.nn.Parameter and t is torch.nn.Parameter) or (type(cls) is not type and cls not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) and native(isinstance, obj, cls))
    meta = type(cls)
    if meta is not type:
        check = class_lookup(cap, meta, "__instancecheck__")
        if check is not MISSING and type(check[0]) is types.FunctionType and check[1].__module__ not in _CHECKED_NATIVELY:
            return truth(cap, cap.call(check[0], (cls, obj)))
    guard_mro(cap, type(obj))
    return native(isinstance, obj, cls)


@rule(issubclass)
def is_subclass(cap: Any, args: Any, kwargs: Any) -> bool:
    derived_class, cls = args
    if isinstance(derived_class, type):
        guard_mro(cap, derived_class)
    check = class_lookup(cap, type(cls), "__subclasscheck__") if type(type(cls)) is type and type(cls) not in (type, tuple) else MISSING
    if check is not MISSING and type(check[0]) is types.FunctionType and check[1].__module__ not in _CHECKED_NATIVELY:
        return truth(cap, cap.call(check[0], (cls, derived_class)))
    return native(issubclass, derived_class, cls)


@rule(type)
def type_(cap: Any, args: Any, kwargs: Any) -> Any:
    if len(args) == 1:
        return cap.type_of(args[0])
    return _make_class(cap, type, args, kwargs)


def _make_class(cap: Any, meta: type, args: Any, kwargs: Any) -> type:
    """`meta(name, bases, namespace)`. What of it is written in Python would run on the outside: refused, but for what the library has."""
    _name, bases, namespace = args
    hooks = [class_lookup(cap, meta, "__new__"), class_lookup(cap, meta, "__init__"), class_lookup(cap, meta, "__call__")]
    hooks += [class_lookup(cap, b, "__init_subclass__") for b in bases]
    hooks += [class_lookup(cap, type(v), "__set_name__") for v in namespace.values()]
    for found in hooks:
        if found is not MISSING and isinstance(getattr(found[0], "__func__", found[0]), types.FunctionType) and found[1].__module__ not in _QUIET_HOOKS:
            unsupported("class-hook", "making a class whose making runs the program's code", saw=found[1].__qualname__, hint="define the class outside")
    if "__module__" not in namespace:  # CPython takes it from the frame that calls, which is ours here
        args = _name, bases, {**namespace, "__module__": cap.frame.globals.get("__name__", "builtins")}
    cls = native(meta, *args, **kwargs)
    cap.own[id(cls)] = cls
    cap.created[id(cls)] = (cls, cap.step)
    return cls


_QUIET_HOOKS = frozenset({"abc", "enum", "typing", "functools", "dataclasses", "torch.autograd.function", "torch.nn.modules.module", "torch._C"})


@rule(super)
def super_(cap: Any, args: Any, kwargs: Any) -> Any:
    if args:
        return _super(cap, *args)
    f = cap.frame
    code = f.code
    names = code.co_varnames + tuple(v for v in code.co_cellvars if v not in code.co_varnames) + code.co_freevars
    if "__class__" not in names:
        observe(RuntimeError("super(): __class__ cell not found"))
    cls = f.fast[names.index("__class__")].cell_contents
    first = f.fast[0]
    if type(first) is types.CellType:
        first = first.cell_contents
    if first is NULL:
        observe(RuntimeError("super(): arg[0] deleted"))
    return _super(cap, cls, first)


def _super(cap: Any, cls: Any, *first: Any) -> Any:
    if first and isinstance(first[0], torch.Tensor) and issubclass(cap.type_of(first[0]), cls):
        return TensorSuper(cls, first[0], cap.type_of(first[0]))
    return native(super, cls, *first)


@rule(getattr)
def getattr_(cap: Any, args: Any, kwargs: Any) -> Any:
    if len(args) == 2:
        return load_attr(cap, args[0], args[1])
    try:
        return load_attr(cap, args[0], args[1])
    except Observed as e:
        if not isinstance(e.exc, AttributeError):
            raise
        return args[2]


@rule(hasattr)
def hasattr_(cap: Any, args: Any, kwargs: Any) -> bool:
    return has_attr(cap, *args)


@rule(setattr)
def setattr_(cap: Any, args: Any, kwargs: Any) -> None:
    store_attr(cap, *args)


@rule(delattr)
def delattr_(cap: Any, args: Any, kwargs: Any) -> None:
    delete_attr(cap, *args)


@rule(vars)
def vars_(cap: Any, args: Any, kwargs: Any) -> Any:
    if not args:
        unsupported("frame-locals", "vars() without an argument")
    if isinstance(args[0], type):
        return load_attr(cap, args[0], "__dict__")
    try:
        return instance_dict(cap, args[0])
    except Observed as e:
        if isinstance(e.exc, AttributeError):
            observe(TypeError("vars() argument must have __dict__ attribute"))
        raise


@rule(len)
def len_(cap: Any, args: Any, kwargs: Any) -> Any:
    (v,) = args
    method = python_method(cap, v, "__len__")
    if method is not None and (not method.__module__.startswith("lamina_dynamo") or hasattr(type(v), "__array_ufunc__")):
        return cap.call(method, (v,))
    if cap.is_large_dict(v):
        return cap.large_dict_method(v, "__len__", ())
    if isinstance(v, torch.Tensor) and not cap.recorder.is_overridden(v) and v.dim() > 0:
        return v.shape[0]
    cap.refuse_opaque(v)
    return native(len, v)


@rule(iter)
def iter_(cap: Any, args: Any, kwargs: Any) -> Any:
    if len(args) == 2:
        return native(iter, cap.trampoline(args[0]), args[1])
    return cap.iter(args[0])


@rule(next)
def next_(cap: Any, args: Any, kwargs: Any) -> Any:
    try:
        return cap.next(args[0])
    except Observed as e:
        if len(args) < 2 or not isinstance(e.exc, StopIteration):
            raise
        return args[1]


@rule(bool)
def bool_(cap: Any, args: Any, kwargs: Any) -> bool:
    return truth(cap, args[0]) if args else False


@rule(int)
def int_(cap: Any, args: Any, kwargs: Any) -> Any:
    if len(args) == 1 and not kwargs:
        v = args[0]
        if type(v) is torch.SymFloat and (drawn := of_numbers(cap, int, args, {})) is not MISSING:
            return drawn
        if type(v) is torch.SymInt or type(v) is torch.SymFloat:
            return native(torch.sym_int, v)
        if isinstance(v, torch.Tensor) and cap.recorder.is_overridden(v):
            return native(torch.Tensor.__int__, v)
        if isinstance(v, torch.Tensor):
            return v.to(torch.int64).item() if v.dtype.is_floating_point else v.item()
        method = python_method(cap, v, "__int__")
        if method is not None:
            return _converted(cap, v, method, int, torch.SymInt)
    return native(int, *args, **kwargs)


@rule(float)
def float_(cap: Any, args: Any, kwargs: Any) -> Any:
    if len(args) == 1:
        v = args[0]
        if isinstance(v, torch.Tensor) and cap.recorder.is_overridden(v):
            return native(torch.Tensor.__float__, v)
        if isinstance(v, torch.Tensor):
            return v.item()
        if type(v) in (torch.SymInt, torch.SymFloat):
            drawn = derived(cap, float, args, {})
            return native(torch.sym_float, v) if drawn is MISSING else drawn
        method = python_method(cap, v, "__float__")
        if method is not None:
            return _converted(cap, v, method, float, torch.SymFloat)
    return native(float, *args, **kwargs)


def _converted(cap: Any, v: Any, method: Any, kind: type, symbolic: type) -> Any:
    """What `__int__` or `__float__` of the program gives, of the kind that it must be."""
    out = cap.call(method, (v,))
    if not isinstance(out, (kind, symbolic)):
        got = {torch.SymInt: "int", torch.SymFloat: "float"}.get(type(out), cap.type_of(out).__name__)
        observe(TypeError(f"{type(v).__name__}.__float__ returned non-float (type {got})" if kind is float else f"__int__ returned non-int (type {got})"))
    return out


@rule(str)
def str_(cap: Any, args: Any, kwargs: Any) -> str:
    if len(args) == 1 and not kwargs:
        text = cap.printable(args[0])
        return text if type(text) is OpenText else native(str, text)
    return native(str, *args, **kwargs)


@rule(repr)
def repr_(cap: Any, args: Any, kwargs: Any) -> str:
    if is_open(cap, args[0]):
        return shown(cap, args[0], repr)
    method = python_method(cap, args[0], "__repr__")
    if method is not None and method.__module__ != "enum":
        return cap.call(method, (args[0],))
    text = cap.printable(args[0])
    return text if text is not args[0] and type(text) in (str, OpenText) else native(repr, text)


@rule(ascii)
def ascii_(cap: Any, args: Any, kwargs: Any) -> str:
    return repr_(cap, args, kwargs).encode("ascii", "backslashreplace").decode()


@rule(format)
def format_(cap: Any, args: Any, kwargs: Any) -> str:
    return cap.format(args[0], args[1] if len(args) > 1 else "")


@rule(hash)
def hash_(cap: Any, args: Any, kwargs: Any) -> int:
    method = python_method(cap, args[0], "__hash__")
    return cap.call(method, (args[0],)) if method is not None and method.__module__ != "enum" else native(hash, args[0])


@rule(sorted)
def sorted_(cap: Any, args: Any, kwargs: Any) -> list[Any]:
    items = list(cap.sequence(args[0]))
    key = kwargs.get("key")
    reverse = truth(cap, kwargs.get("reverse", False))
    keys = items if key is None else [cap.call(key, (x,)) for x in items]
    if any(python_method(cap, k, "__lt__") for k in keys):
        wrap = functools.cmp_to_key(lambda a, b: -1 if truth(cap, compare(cap, operator.lt, a, b)) else 0 if not truth(cap, compare(cap, operator.lt, b, a)) else 1)
        order = native(sorted, range(len(items)), key=lambda i: wrap(keys[i]), reverse=reverse)
    else:
        order = native(sorted, range(len(items)), key=keys.__getitem__, reverse=reverse)
    return [items[i] for i in order]


def _extreme(op: Any, name: str, original: Any) -> Any:
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        items = list(cap.sequence(args[0])) if len(args) == 1 else list(args)
        if not items:
            if "default" in kwargs:
                return kwargs["default"]
            observe(ValueError(f"{name}() arg is an empty sequence" if original is not max else "max() arg is an empty sequence"))
        key = kwargs.get("key")
        if key is None and all(type(x) in (int, float, torch.SymInt, torch.SymFloat) for x in items) and any(type(x) in (torch.SymInt, torch.SymFloat) for x in items):
            return functools.reduce(torch.sym_max if original is max else torch.sym_min, items)
        keys = items if key is None else [cap.call(key, (x,)) for x in items]
        best = 0
        for i in range(1, len(items)):
            if truth(cap, compare(cap, op, keys[i], keys[best])):
                best = i
        return items[best]

    rule(original)(run)
    return run


max_ = _extreme(operator.gt, "max", max)
min_ = _extreme(operator.lt, "min", min)


@rule(sum)
def sum_(cap: Any, args: Any, kwargs: Any) -> Any:
    from ..opcodes.operators import binary

    total = args[1] if len(args) > 1 else kwargs.get("start", 0)
    for x in cap.sequence(args[0]):
        total = binary(cap, operator.add, total, x)
    return total


@rule(any)
def any_(cap: Any, args: Any, kwargs: Any) -> bool:
    it = cap.iterate(args[0])
    return native(lambda: any(truth(cap, x) for x in it))


@rule(all)
def all_(cap: Any, args: Any, kwargs: Any) -> bool:
    it = cap.iterate(args[0])
    return native(lambda: all(truth(cap, x) for x in it))


@rule(reversed)
def reversed_(cap: Any, args: Any, kwargs: Any) -> Any:
    v = args[0]
    method = python_method(cap, v, "__reversed__")
    if method is not None:
        return cap.call(method, (v,))
    get, size = python_method(cap, v, "__getitem__"), python_method(cap, v, "__len__")
    if get is not None and size is not None:
        return iter([cap.call(get, (v, i)) for i in range(cap.call(size, (v,)) - 1, -1, -1)])
    if isinstance(v, torch.Tensor):
        return native(reversed, v)
    cap.refuse_foreign(v)
    cap.refuse_opaque(v)
    return native(reversed, v)


@rule(functools.cmp_to_key)
def cmp_to_key(cap: Any, args: Any, kwargs: Any) -> Any:
    return native(functools.cmp_to_key, cap.trampoline(args[0]))


@rule(abs)
def abs_(cap: Any, args: Any, kwargs: Any) -> Any:
    method = python_method(cap, args[0], "__abs__")
    return cap.call(method, (args[0],)) if method is not None else native(abs, args[0])


@rule(functools.reduce)
def reduce_(cap: Any, args: Any, kwargs: Any) -> Any:
    items = list(cap.sequence(args[1]))
    if len(args) > 2:
        items.insert(0, args[2])
    if not items:
        observe(TypeError("reduce() of empty iterable with no initial value"))
    total = items[0]
    for x in items[1:]:
        total = cap.call(args[0], (total, x))
    return total


@rule(print)
def print_(cap: Any, args: Any, kwargs: Any) -> None:
    """Printed after the graph: the text is that of now."""
    sep, end, file, flush = (kwargs.get(k, d) for k, d in (("sep", None), ("end", None), ("file", None), ("flush", False)))
    if not all(x is None or type(x) is str for x in (sep, end)) or kwargs.keys() - {"sep", "end", "file", "flush"}:
        unsupported("io", "a form of print()")
    if (file is not None and (file not in (sys.stdout, sys.stderr) or id(file) not in cap.sources)) or sets_attribute(cap, sys, "stdout", "stderr"):
        unsupported("io", "printing to a file", saw=type(file).__qualname__)
    text = joined([cap.call(str, (a,)) for a in args], " " if sep is None else sep)
    add_effect(cap, "io", print, (text,), {"end": end, "file": file, "flush": truth(cap, flush)})


@rule(input, open, exec, eval, compile, breakpoint, __import__)
def refused(cap: Any, args: Any, kwargs: Any) -> Any:
    unsupported("io", "a call with effects outside of Python objects", saw="input, open, exec or eval", hint="move it out of the compiled function, or accept the graph break")


@rule(locals)
def locals_(cap: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    f = cap.frame
    if f.namespace is not None:
        unsupported("frame-locals", "locals() of a class body")
    names = f.code.co_varnames + tuple(v for v in f.code.co_cellvars if v not in f.code.co_varnames) + f.code.co_freevars
    found = {}
    for name, v in zip(names, f.fast):
        if type(v) is types.CellType:
            v = v.cell_contents if v != types.CellType() else NULL
        if v is not NULL and not name.startswith("."):  # ours, in resume functions
            found[name] = v
    return found


@rule(globals, dir)
def names_(cap: Any, args: Any, kwargs: Any) -> Any:
    if not args:
        unsupported("frame-locals", "globals(), locals() or dir() of the frame")
    v = args[0]
    if id(v) in cap.overlay or isinstance(v, types.ModuleType) and id(v.__dict__) in cap.globals_dicts:
        unsupported("frame-locals", "dir() of an object whose attributes were written", hint="ask for the attribute by hasattr")
    names = native(dir, v)
    held = isinstance(v, (type, types.ModuleType)) and not is_torch_owned(v.__name__ if isinstance(v, types.ModuleType) else v.__module__)
    source = ConstantSource(v) if held else cap.sources.get(id(v))
    if source is not None:
        cap.guards.add(CallSource(_names, source), GuardKind.EQUALS, tuple(names))
    return names


def _names(v: Any) -> tuple[str, ...]:
    return tuple(dir(v))


@rule(callable)
def callable_(cap: Any, args: Any, kwargs: Any) -> bool:
    (v,) = args
    return native(callable, v, **kwargs) if isinstance(v, (torch.Tensor, types.FunctionType, type)) else has_method(cap, v, "__call__")


@rule(id)
def id_(cap: Any, args: Any, kwargs: Any) -> int:
    v = args[0]
    inp = cap.inputs.get(id(v))
    path = cap.path_of(v)
    if path is not None:
        cap.guard(path, GuardKind.ID, inp.real if inp is not None else cap.original_of.get(id(v), v))
    return id(inp.real) if inp is not None else id(cap.original_of.get(id(v), v))


@rule(builtins.__build_class__)
def build_class(cap: Any, args: Any, kwargs: Any) -> Any:
    """The class statement: the body is interpreted in a namespace, the class is made natively."""
    from ..binding import bind
    from ..frames import Frame, run

    body, name, *bases = args
    meta = kwargs.pop("metaclass", type(bases[0]) if bases else type)
    namespace: dict[str, Any] = {}
    f = Frame(cap, body.__code__, bind(cap, body, (), None), body.__globals__, body, cap.frame)
    f.namespace = namespace
    cell = run(f)
    cls = _make_class(cap, meta, (name, tuple(bases), namespace), kwargs)
    if type(cell) is types.CellType:
        cell.cell_contents = cls
    return cls


@rule(operator.getitem)
def getitem_(cap: Any, args: Any, kwargs: Any) -> Any:
    return subscript(cap, *args)


def _operators() -> None:
    from ..opcodes.operators import _BINARY, binary, contains

    def comparing(op: Any) -> Any:
        return lambda cap, args, kwargs: compare(cap, op, *args)

    def computing(op: Any) -> Any:
        return lambda cap, args, kwargs: binary(cap, op, *args)

    for op in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        rule(op)(comparing(op))
    for op in _BINARY:
        rule(op)(computing(op))
    rule(operator.contains)(lambda cap, args, kwargs: contains(cap, *args))
    rule(operator.not_)(lambda cap, args, kwargs: not truth(cap, args[0]))
    rule(operator.truth)(lambda cap, args, kwargs: truth(cap, args[0]))


_operators()


@rule(object.__init__)
def object_init(cap: Any, args: Any, kwargs: Any) -> None:
    return None


@rule(object.__new__)
def object_new(cap: Any, args: Any, kwargs: Any) -> Any:
    return native(object.__new__, args[0])


@rule(operator.attrgetter("x").__class__)
def attrgetter_(cap: Any, args: Any, kwargs: Any) -> Any:
    return native(operator.attrgetter, *args)


def make_printable(cap: Any, v: Any) -> Any:
    """Arguments of `%` formatting."""
    if type(v) is tuple:
        return tuple(cap.printable(x) for x in v)
    return cap.printable(v) if not isinstance(v, dict) else {k: cap.printable(x) for k, x in v.items()}


def _of_real_numbers(fn: Any, graph_function: Any) -> None:
    @rule(fn)
    def of_real_numbers(cap: Any, args: Any, kwargs: Any) -> Any:
        """Of symbolic numbers it stays symbolic; C would read the values."""
        symbolic = [x for x in args if type(x) in (torch.SymInt, torch.SymFloat)]
        if symbolic and all(x.node.has_hint() for x in symbolic) and all(type(x) in (int, float, torch.SymInt, torch.SymFloat) for x in args) and native(is_defined, fn, *args):
            return native(graph_function, *args)
        drawn = of_numbers(cap, fn, args, kwargs)
        return native(fn, *args, **kwargs) if drawn is MISSING else drawn


for _fn, _graph_function in MATH_FUNCTIONS.items():
    _of_real_numbers(_fn, _graph_function)


@rule(round)
def round_(cap: Any, args: Any, kwargs: Any) -> Any:
    if type(args[0]) is torch.SymFloat and (drawn := of_numbers(cap, round, args, kwargs)) is not MISSING:
        return drawn
    method = python_method(cap, args[0], "__round__")
    return native(round, *args, **kwargs) if method is None else cap.call(method, (args[0], *args[1:], *kwargs.values()))


# ---- functions of whole numbers ------------------------------------------------------------------------------------------
def _of_integers(fn: Any) -> None:
    @rule(fn)
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        """C asks the arguments for `__index__`; the program's is interpreted."""
        args = [as_index(cap, a) for a in args]
        return call_type(cap, fn, args, kwargs) if isinstance(fn, type) else call_module_function(cap, fn, args, kwargs)


for _fn in (range, hex, bin, oct, chr, operator.index, math.gcd, math.lcm, math.factorial, math.comb, math.perm, math.isqrt):
    _of_integers(_fn)
