"""Replacement code: Python text that calls the graph, replays side effects and rebuilds live values.

Between: the interpreter's state at the end of a capture -> the code of a cache entry.
Keeps:   every outside value arrives as an argument (supplied by the guard program), every held object as a constant
         argument; one expression per object, so identity and cycles come out as they were.
"""

from __future__ import annotations

import enum
import functools
import gc
import itertools
import math
import operator
import types
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, NoReturn

import torch

from .attributes import raw_dict
from .control import MISSING, STANDS_FOR, CannotRebuild, Unsupported, refusal
from .draws import drawn_value
from .generators import InterpretedGenerator
from .lift import unbound
from .loops import SymbolicRange
from .protocols import InterpretedIterator
from .state import spent_inference_mode
from .instance_dict import InstanceDict
from .source import ConstantSource, LocalSource, Source, cell_source
from .texts import OpenText, text_expression
from .wrappers import again, parts_of

__all__ = ["Codegen"]

_LITERALS = frozenset({type(None), bool, int, str, bytes})
_HELD = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, enum.Enum, torch.dtype, torch.device, torch.layout, torch.memory_format, types.WrapperDescriptorType, types.MethodDescriptorType, types.GenericAlias, range)
_ITERATORS = (
    type(iter(range(0))), type(iter("")), type(iter(set())), type(reversed({})), itertools.product, itertools.permutations, itertools.combinations, type(iter(deque())), itertools.pairwise,
)  # fmt: skip
_REDUCED = (type(iter([])), type(iter(())), type(reversed([])), enumerate, zip, reversed, itertools.chain, itertools.islice, itertools.zip_longest, itertools.count, itertools.repeat, itertools.cycle)
_KEY = type(functools.cmp_to_key(print)(0))  # calls the program's comparison
_DICT_ITERATORS = {type(iter({})): "", type(iter({}.items())): ".items()", type(iter({}.values())): ".values()"}


class Codegen:
    """Text of the replacement function, its constant arguments, its supplied sources, the outputs wanted of the graph."""

    def __init__(self, cap: Any, slot_names: tuple[str, ...]) -> None:
        self.cap = cap
        self.slots = slot_names
        self.lines: list[str] = []
        self.last: list[str] = []  # after the side effects: positions of iterators, which the length of a list bounds
        self.supplied: dict[Source, str] = {}
        self.constants: dict[int, tuple[str, Any]] = {}
        self.outputs: dict[int, int] = {}  # id(fake) -> output number
        self.output_values: list[Any] = []
        self.names: dict[int, str] = {}
        self.building: dict[int, tuple[str, list[bool]]] = {}
        self.hold: list[Any] = []
        self._n = 0

    # ---- names -------------------------------------------------------------------------------------------------------
    def fresh(self, stem: str = "t") -> str:
        self._n += 1
        return f"_{stem}{self._n}"

    def emit(self, line: str) -> None:
        self.lines.append(line)

    def constant(self, v: Any) -> str:
        """A held object."""
        found = self.constants.get(id(v))
        if found is None:
            found = self.constants[id(v)] = (self.fresh("k"), v)
        return found[0]

    def source(self, s: Source) -> str:
        """An outside value."""
        if type(s) is ConstantSource:
            return self.constant(s.value)
        if type(s) is LocalSource and s.local in self.slots:
            return f"_a_{self.slots.index(s.local)}"
        found = self.supplied.get(s)
        if found is None:
            found = self.supplied[s] = self.fresh("s")
        return found

    def place(self, s: Source) -> tuple[str, Any]:
        """An outside value that only the graph takes: a slot, a supplied value or a held object, and which one. After all of the text."""
        if type(s) is ConstantSource:
            self.constant(s.value)
            return "constant", id(s.value)
        if type(s) is LocalSource and s.local in self.slots:
            return "slot", self.slots.index(s.local)
        self.source(s)
        return "supplied", s

    def places(self, found: list[tuple[str, Any]]) -> tuple[int, ...]:
        """The same as numbers into the row of slots, supplied values and constants."""
        slots, supplied, constants = len(self.slots), {s: i for i, s in enumerate(self.supplied)}, {k: i for i, k in enumerate(self.constants)}
        at = {"slot": lambda k: k, "supplied": lambda k: slots + supplied[k], "constant": lambda k: slots + len(supplied) + constants[k]}
        return tuple(at[kind](k) for kind, k in found)

    # ---- values ------------------------------------------------------------------------------------------------------
    def value(self, v: Any) -> str:
        """Expression of any value that the interpreter holds."""
        t = type(v)
        if t in _LITERALS:
            return repr(v) if t is not int or -(2**62) < v < 2**62 else self.constant(v)
        if t is float:
            return repr(v) if math.isfinite(v) else self.constant(v)
        if v is ... or v is NotImplemented:
            return "..." if v is ... else "NotImplemented"
        if isinstance(v, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            drawn = drawn_value(self.cap, v) if self.cap.drawn else None
            return self.output(v) if drawn is None else self.source(drawn)
        found = self.names.get(id(v))
        if found is not None:
            return found
        cyclic = self.building.get(id(v))
        if cyclic is not None:
            if cyclic[0] == "":
                self._refuse(v, t, "a cycle through an immutable object")
            cyclic[1].append(True)
            return cyclic[0]
        if isinstance(v, torch.Tensor):
            return self._tensor(v)
        src = self.cap.sources.get(id(v))
        if src is not None:
            return self.source(src)
        expr = self._made(v, t)
        return expr

    def known(self, v: Any) -> str:
        """Expression of a value that the code makes already, else nothing."""
        return f"_o{self.outputs[id(v)]}" if id(v) in self.outputs else self.names.get(id(v), "")

    def output(self, v: Any) -> str:
        """A value that the graph computes."""
        i = self.outputs.get(id(v))
        if i is None:
            i = self.outputs[id(v)] = len(self.output_values)
            self.output_values.append(v)
        return f"_o{i}"

    def _tensor(self, v: Any) -> str:
        inp = self.cap.inputs.get(id(v))
        if inp is not None:
            return self.source(inp.source)
        if id(v) in self.cap.wrappers:
            return self._wrapper(v)
        if id(v) in self.cap.recorder.ended:
            self._refuse(v, type(v), "a tensor that outlives its functorch transform")
        if not self.cap.is_fake(v):
            return self.constant(v)
        if id(v) not in self.cap.recorder.nodes and id(v) not in self.cap.inner:
            self._refuse(v, type(v), "a tensor that the graph did not record")
        expr = self.output(v)
        if id(v) in self.cap.over_arrays and not v.requires_grad:
            array, expr = expr, self.fresh()
            self.emit(f"{expr} = {self.constant(torch.from_numpy)}({array}.numpy())")
        cls = self.cap.class_of.get(id(v))
        if cls is not None:
            plain, expr = expr, self.fresh()
            self.emit(f"{expr} = {self.constant(torch.Tensor.as_subclass)}({plain}, {self.value(cls)})")
        self.names[id(v)] = expr
        for k, x in self.cap.overlay.get(id(v), {}).items():
            self.emit(f"{self.constant(object.__setattr__)}({expr}, {k!r}, {self.value(x)})")
        return expr

    def _wrapper(self, v: Any) -> str:
        """A wrapper subclass that the frame made: around the rebuilt inner tensors."""
        with torch._C.DisableTorchFunction():
            if v.requires_grad:
                return self.output(v)
        if id(v) in self.cap.view_calls:
            return self._named(v, lambda: f"{self.constant(again)}({', '.join([self.value(x) for x in self.cap.view_calls[id(v)]])})", None)
        if id(v) in self.cap.recorder.nodes:  # what autograd knows of it, the graph gives it
            return self.output(v)
        try:
            names, context, tensors = parts_of(v)
        except Unsupported as why:
            made = self.cap.created.get(id(v))
            raise CannotRebuild(made[1] if made is not None else None, why) from why
        with torch._C.DisableTorchFunction():
            size, stride = tuple(v.shape), tuple(v.stride())
        text = ", ".join([self.value(x) for x in (dict(zip(names, tensors, strict=True)), context, size, stride)])
        return self._named(v, lambda: f"{self.constant(type(v).__tensor_unflatten__)}({text})", None)

    def _made(self, v: Any, t: type) -> str:
        """An object that the frame made."""
        if t is tuple:
            return self._named(v, lambda: "(" + "".join(f"{self.value(x)}, " for x in v) + ")", None)
        if t is list:
            return self._mutable(v, "[]", lambda: "[" + ", ".join([self.value(x) for x in v]) + "]", "{0}.extend({1})")
        if t is dict:
            return self._mutable(v, "{}", lambda: "{" + ", ".join([f"{self.value(k)}: {self.value(x)}" for k, x in v.items()]) + "}", "{0}.update({1})")
        if t is set:
            return self._mutable(v, "set()", lambda: "{" + ", ".join([self.value(x) for x in v]) + "}" if v else "set()", "{0}.update({1})")
        if t in (OrderedDict, Counter):
            k = self.constant(t)
            return self._mutable(v, f"{k}()", lambda: f"{k}([" + ", ".join([f"({self.value(a)}, {self.value(b)})" for a, b in v.items()]) + "])" if t is OrderedDict else f"{k}({{" + ", ".join([f"{self.value(a)}: {self.value(b)}" for a, b in v.items()]) + "})", "{0}.update({1})")
        if t is defaultdict:
            k = self.constant(t)
            return self._mutable(v, f"{k}({self.value(v.default_factory)})", lambda: f"{k}({self.value(v.default_factory)}, {{" + ", ".join([f"{self.value(a)}: {self.value(b)}" for a, b in v.items()]) + "})", "{0}.update({1})")
        if t is deque:
            k = self.constant(t)
            return self._mutable(v, f"{k}((), {v.maxlen})", lambda: f"{k}([" + ", ".join([self.value(x) for x in v]) + f"], {v.maxlen})", "{0}.extend({1})")
        if t is frozenset:
            return self._named(v, lambda: f"{self.constant(frozenset)}([" + ", ".join([self.value(x) for x in v]) + "])", None)
        if t is SymbolicRange:
            return self._named(v, lambda: f"{self.constant(iter)}({self.constant(range)}({', '.join([self.value(a) for a in v.arguments])}))", None)
        if t is torch.Generator:
            from .rules.torch_generators import rebuilt as with_state

            return self._named(v, lambda: with_state(self.cap, self, v), None)
        if t is OpenText:
            return self._named(v, lambda: text_expression(self, v), None)
        if t is slice:
            return f"{self.constant(slice)}({self.value(v.start)}, {self.value(v.stop)}, {self.value(v.step)})"
        if t is torch.Size:
            return self._named(v, lambda: f"{self.constant(torch.Size)}([" + ", ".join([self.value(x) for x in v]) + "])", None)
        if t is types.BuiltinFunctionType and not isinstance(v.__self__, (types.ModuleType, type, type(None))):
            return self.builtin_method(v)
        if isinstance(v, type) and id(v) in self.cap.own:
            self._refuse(v, t, "a class made in the frame")
        if t.__module__ == "numpy" and t.__name__ == "ndarray":  # another array at each call
            if id(v) in self.cap.opaque:
                self._refuse(v, t, "an array that shares memory with a tensor")
            return self._named(v, lambda: f"{self.constant(v)}.copy()", None)
        if t in STANDS_FOR and hasattr(t, "__array_ufunc__"):
            from .arrays import rebuilt

            return self._named(v, lambda: rebuilt(v, self.value(v.tensor)), None)
        if t is bytearray:
            return self._named(v, lambda: f"{self.constant(bytearray)}({bytes(v)!r})", None)
        if t is float or t is complex or isinstance(v, _HELD):
            return self.constant(v)
        if t is types.FunctionType:
            return self._function(v) if id(v) in self.cap.own else self.constant(v)
        if t is types.MethodType and (isinstance(v.__self__, (torch.Tensor, InstanceDict)) or hasattr(type(v.__self__), "__array_ufunc__")):
            return f"{self.value(v.__self__)}.{v.__name__}"  # the function is the fake's or the stand-in's, the real object has its own
        if t is types.MethodType:
            return self._named(v, lambda: f"{self.constant(types.MethodType)}({self.value(v.__func__)}, {self.value(v.__self__)})", None)
        if t is types.MethodWrapperType:
            return f"{self.constant(unbound(v))}.__get__({self.value(v.__self__)})"
        if t is functools.partial:
            return self._named(v, lambda: f"{self.constant(functools.partial)}({self.value(v.func)}, *{self.value(v.args)}, **{self.value(v.keywords)})", None)
        if t is types.CellType:
            return self.cell(v)
        if id(v) in self.cap.inference_modes:
            return self._named(v, lambda: f"{self.constant(spent_inference_mode)}({self.cap.inference_modes[id(v)][1]})", None)
        if t is InstanceDict:
            return f"{self.value(v.obj)}.__dict__"
        if t in _DICT_ITERATORS:
            return self._dict_iterator(v, t)
        if t is InterpretedIterator:  # C code consumes the program's own iterator in the run
            return self.value(v.inner)
        if t in _REDUCED:
            return self._reduced(v)
        if t in _ITERATORS:
            return self._named(v, lambda: f"{self.constant(iter)}([" + ", ".join([self.value(x) for x in v]) + "])", None)
        if isinstance(v, tuple):
            if raw_dict(v):
                self._refuse(v, t, "an object of a tuple subclass with attributes")
            if hasattr(t, "n_sequence_fields"):  # torch.return_types and other structure sequences
                return self._named(v, lambda: f"{self.constant(t)}((" + "".join(f"{self.value(x)}, " for x in v) + "))", None)
            return self._named(v, lambda: f"{self.constant(tuple.__new__)}({self.constant(t)}, (" + "".join(f"{self.value(x)}, " for x in tuple.__iter__(v)) + "))", None)
        return self._object(v, t)

    def _reduced(self, v: Any) -> str:
        """An iterator by its own account of where it stands: what it iterates over stays shared."""
        self.hold.append(v)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 3.12 deprecates the account of itertools
            fn, args, *state = v.__reduce__()
        expr = f"{self.constant(fn)}({', '.join([self.value(a) for a in args])})"
        name = self.names[id(v)] = self.fresh()
        self.emit(f"{name} = {expr}")
        if state:
            self.last.append(f"{name}.__setstate__({self.value(state[0])})")
        return name

    def _dict_iterator(self, v: Any, t: type) -> str:
        """A new iterator over the same dictionary, advanced as far."""
        d = next((x for x in gc.get_referents(v) if isinstance(x, dict)), None)
        if d is None:
            return f"{self.constant(iter)}(())"
        done = len(d) - operator.length_hint(v)
        try:
            v.__reduce__()
        except RuntimeError:
            self._refuse(v, t, "an iterator over a dictionary that changed")
        if id(d) in self.cap.original_of and list(d.items()) != list(self.cap.pristine[id(d)].items()):
            self._refuse(v, t, "an iterator over a dictionary that changed")
        name = self.names[id(v)] = self.fresh()
        self.hold.append(v)
        self.emit(f"{name} = {self.constant(iter)}({self.value(d)}{_DICT_ITERATORS[t]})")
        for _ in range(done):
            self.emit(f"{self.constant(next)}({name})")
        return name

    def builtin_method(self, v: Any) -> str:
        if isinstance(getattr(type(v.__self__), v.__name__, None), types.FunctionType) and not isinstance(v.__self__, torch.Tensor):  # overridden: this one came from `super()`
            return f"{self.constant(unbound(v))}.__get__({self.value(v.__self__)})"
        return f"({self.value(v.__self__)}).{v.__name__}"

    def _named(self, v: Any, make: Any, _: Any) -> str:
        """An immutable value: built at first mention."""
        self.hold.append(v)
        self.building[id(v)] = ("", [])
        expr = make()
        del self.building[id(v)]
        name = self.names[id(v)] = self.fresh()
        self.emit(f"{name} = {expr}")
        return name

    def _mutable(self, v: Any, empty: str, make: Any, fill: str) -> str:
        """A mutable container: built whole, or first empty where something inside refers to it."""
        self.hold.append(v)
        name = self.fresh()
        seen: list[bool] = []
        self.building[id(v)] = (name, seen)
        at = len(self.lines)
        expr = make()
        del self.building[id(v)]
        self.names[id(v)] = name
        if seen:
            self.lines.insert(at, f"{name} = {empty}")
            self.emit(fill.format(name, expr))
        else:
            self.emit(f"{name} = {expr}")
        return name

    def _object(self, v: Any, t: type) -> str:
        """An instance of a Python class: `__new__`, contents, attributes."""
        if isinstance(v, BaseException):
            return self._exception(v, t)
        if t is weakref.ref and (seen := v()) is not None:  # what capture refers to may be the copy of an outside container
            name = self.names[id(v)] = self.fresh()
            callback = () if v.__callback__ is None else (v.__callback__,)
            self.emit(f"{name} = {self.constant(t)}({', '.join(map(self.value, (seen, *callback)))})")
            return name
        if isinstance(v, InterpretedGenerator) or t.__module__.startswith("lamina_dynamo") or not isinstance(getattr(t, "__next__", None), (types.NoneType, types.FunctionType)):
            self._refuse(v, t)
        d = raw_dict(v)
        slots = [s for k in t.__mro__ for s in _slots_of(k)]
        if t is _KEY:
            self._refuse(v, t)
        if d is None and not slots and t is not object and not isinstance(v, (dict, list, set)):
            if t.__module__ in ("re", "_sre", "inspect", "typing", "types", "functools", "operator", "datetime", "numpy", "decimal", "uuid", "pathlib", "torch", "weakref"):
                return self.constant(v)
            self._refuse(v, t)
        base = next((b for b in (OrderedDict, defaultdict, dict, list, set, deque, types.SimpleNamespace) if isinstance(v, b)), None)
        if base is None and t.__new__ is not object.__new__ and not isinstance(t.__new__, types.FunctionType):
            self._refuse(v, t)
        self.hold.append(v)
        name = self.names[id(v)] = self.fresh()
        new = base.__new__ if base is not None else object.__new__
        self.emit(f"{name} = {self.constant(new)}({self.constant(t)})")
        if base is not None and base is not types.SimpleNamespace:
            self._contents(v, base, name)
        for k, x in (d or {}).items():
            self.emit(f"{name}.__dict__[{k!r}] = {self.value(x)}")
        for s in slots:
            x = _slot_value(v, s)
            if x is not MISSING:
                self.emit(f"{self.constant(s.__set__)}({name}, {self.value(x)})")
        return name

    def _contents(self, v: Any, base: type, name: str) -> None:
        if base is defaultdict:
            self.emit(f"{self.constant(defaultdict.__init__)}({name}, {self.value(v.default_factory)})")
        if base in (list, deque):
            for x in base.__iter__(v):
                self.emit(f"{self.constant(base.append)}({name}, {self.value(x)})")
        elif base is set:
            for x in set.__iter__(v):
                self.emit(f"{self.constant(set.add)}({name}, {self.value(x)})")
        else:
            put = OrderedDict.__setitem__ if base is OrderedDict else dict.__setitem__
            for k, x in (OrderedDict if base is OrderedDict else dict).items(v):
                self.emit(f"{self.constant(put)}({name}, {self.value(k)}, {self.value(x)})")

    def _exception(self, v: BaseException, t: type) -> str:
        self.hold.append(v)
        args = "".join(f", {self.value(a)}" for a in v.args)
        name = self.names[id(v)] = self.fresh()
        self.emit(f"{name} = {self.constant(t.__new__)}({self.constant(t)}{args})")
        if isinstance(t.__init__, types.WrapperDescriptorType):  # fields such as StopIteration.value are set there
            self.emit(f"{self.constant(t.__init__)}({name}{args})")
        self.emit(f"{name}.args = ({args[2:]}{',' if v.args else ''})")
        for k, x in vars(v).items():
            self.emit(f"{name}.__dict__[{k!r}] = {self.value(x)}")
        for link in ("__cause__", "__context__"):
            x = getattr(v, link)
            if x is not None:
                self.emit(f"{name}.{link} = {self.value(x)}")
        if v.__suppress_context__:
            self.emit(f"{name}.__suppress_context__ = True")
        self.emit(f"{self.constant(_give_traceback)}({name})")
        return name

    def _refuse(self, v: Any, t: type, what: str = "an object that cannot be rebuilt") -> NoReturn:
        made = self.cap.created.get(id(v))
        why = refusal("rebuild", what, saw=f"{t.__module__}.{t.__qualname__}")
        raise CannotRebuild(made[1] if made is not None else None, why)

    # ---- functions and cells ---------------------------------------------------------------------------------------------
    def _function(self, v: Any) -> str:
        self.hold.append(v)
        cells = [self.cell(c) for c in v.__closure__ or ()]
        name = self.names[id(v)] = self.fresh("f")
        closure = f"({''.join(f'{c}, ' for c in cells)})" if cells else "None"
        self.emit(f"{name} = {self.constant(types.FunctionType)}({self.constant(v.__code__)}, {self.constant(v.__globals__)}, {v.__name__!r}, {self.value(v.__defaults__)}, {closure})")
        if v.__kwdefaults__:
            self.emit(f"{name}.__kwdefaults__ = {self.value(v.__kwdefaults__)}")
        if v.__qualname__ != v.__code__.co_qualname:
            self.emit(f"{name}.__qualname__ = {v.__qualname__!r}")
        consts = v.__code__.co_consts
        for k, x, usual in (("__doc__", v.__doc__, consts[0] if consts and isinstance(consts[0], str) else None), ("__module__", v.__module__, v.__globals__.get("__name__")), ("__annotations__", v.__annotations__, {})):
            if x != usual:
                self.emit(f"{name}.{k} = {self.value(x)}")
        for k, x in v.__dict__.items():
            self.emit(f"{name}.__dict__[{k!r}] = {self.value(x)}")
        return name

    def cell(self, c: types.CellType) -> str:
        """A cell: the outside one it stands for, or a new one."""
        found = self.names.get(id(c))
        if found is not None:
            return found
        self.hold.append(c)
        known = self.cap.own_cells.get(id(c))
        if known is not None and known[1] is not None:
            name = self.names[id(c)] = self.source(cell_source(known[2]))
            return name
        name = self.names[id(c)] = self.fresh("c")
        self.emit(f"{name} = {self.constant(types.CellType)}()")
        try:
            contents = c.cell_contents
        except ValueError:
            return name
        self.emit(f"{name}.cell_contents = {self.value(contents)}")
        return name

    # ---- text --------------------------------------------------------------------------------------------------------
    def code(self, body: list[str], *, graph: bool) -> types.CodeType:
        """The replacement function's code object: slots, supplied values, constants and the graph's result as plain arguments."""
        args = [f"_a_{i}" for i in range(len(self.slots))] + list(self.supplied.values()) + [n for n, _ in self.constants.values()] + ["_outs"] * graph
        text = f"def replacement({', '.join(args)}):\n" + "".join(f"    {line}\n" for line in body)
        module = compile(text, "<lamina replacement>", "exec")
        return next(c for c in module.co_consts if isinstance(c, types.CodeType))


def _give_traceback(exc: BaseException) -> None:
    """A traceback, which C code expects of a handled exception."""
    context = exc.__context__
    try:
        raise exc
    except BaseException:
        exc.__context__ = context


def _slots_of(k: type) -> list[types.MemberDescriptorType]:
    """The slots that a class adds; a derived class may have something else under their names."""
    return [d for d in vars(k).values() if isinstance(d, types.MemberDescriptorType)] if "__slots__" in vars(k) else []


def _slot_value(v: Any, slot: types.MemberDescriptorType) -> Any:
    try:
        return slot.__get__(v)
    except AttributeError:
        return MISSING
