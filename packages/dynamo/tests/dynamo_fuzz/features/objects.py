"""Objects: attributes, special methods, properties, descriptors, metaclasses, super, dataclasses, enums, slots, modules."""

import abc
import copy
import dataclasses
import enum
import functools
import typing
import weakref

import torch
from lamina_dynamo import graph_break
from torch import nn

from ..observe import breaking_print as print

LOG = []
WATCHED = ("LOG",)


class Base:
    k = 1
    def __init__(self, v=3): self.v = v
    def name(self): return "Base"
    @property
    def double(self): return self.v * 2
    @double.setter
    def double(self, d): LOG.append(("set", d)); self.v = d / 2
    @double.deleter
    def double(self): LOG.append("del"); self.v = None
    @classmethod
    def make(cls, v): return cls(v)
    @staticmethod
    def stat(a): return a + 1

class Left(Base):
    def name(self): return "Left" + super().name()
class Right(Base):
    def name(self): return "Right" + super().name()
class Diamond(Left, Right):
    def __init__(self, v, w): super().__init__(v); self.w = w
    def name(self): return "Diamond" + super().name()
    @property
    def double(self): return super().double + 100

class Typed:
    def __set_name__(self, owner, name): self.name = "_" + name
    def __get__(self, obj, owner=None): return self if obj is None else getattr(obj, self.name, "unset")
    def __set__(self, obj, value):
        if not isinstance(value, int): raise TypeError(f"{self.name} wants int")
        LOG.append((self.name, value)); setattr(obj, self.name, value)
    def __delete__(self, obj): delattr(obj, self.name)
class NonData:
    def __init__(self, v): self.v = v
    def __get__(self, obj, owner): return (self.v, obj is None)
class Described:
    a, b, n = Typed(), Typed(), NonData(5)

class Dynamic:
    def __init__(self): self.__dict__["store"] = {}
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        LOG.append(("get", name))
        if name not in self.store: raise AttributeError(f"no {name}")
        return self.store[name]
    def __setattr__(self, name, value): LOG.append(("set", name)); self.store[name] = value
    def __delattr__(self, name): del self.store[name]
class Intercept:
    def __init__(self): self.real = 1
    def __getattribute__(self, name): return 42 if name == "magic" else object.__getattribute__(self, name)

class Vec:
    def __init__(self, *v): self.v = list(v)
    def __repr__(self): return f"Vec({', '.join(map(str, self.v))})"
    def __len__(self): return len(self.v)
    def __getitem__(self, i): return Vec(*self.v[i]) if isinstance(i, slice) else self.v[i]
    def __setitem__(self, i, x): self.v[i] = x
    def __delitem__(self, i): del self.v[i]
    def __iter__(self): return iter(self.v)
    def __contains__(self, x): LOG.append("contains"); return x in self.v
    def __reversed__(self): return iter(self.v[::-1])
    def __eq__(self, o): return isinstance(o, Vec) and self.v == o.v
    def __hash__(self): return hash(tuple(self.v))
    def __lt__(self, o): return self.v < o.v
    def __bool__(self): return bool(self.v)
    def __call__(self, f): return Vec(*map(f, self.v))
    def __add__(self, o): return Vec(*self.v, *o.v) if isinstance(o, Vec) else NotImplemented
    def __radd__(self, o): return ("radd", o)
    def __iadd__(self, o): self.v.extend(o); return self
    def __mul__(self, k): return Vec(*[a * k for a in self.v])
    __rmul__ = __mul__
    def __neg__(self): return Vec(*[-a for a in self.v])
    def __abs__(self): return sum(abs(a) for a in self.v)
    def __int__(self): return len(self.v)
    def __float__(self): return 1.5
    def __index__(self): return 1
    def __invert__(self): return "inv"
    def __matmul__(self, o): return sum(a * b for a, b in zip(self.v, o.v))
    def __divmod__(self, o): return ("dm", o)
    def __round__(self, n=None): return ("round", n)
    def __format__(self, spec): return f"<{spec}>"
    def __enter__(self): return self
    def __exit__(self, *a): LOG.append("exit")
class Sequence:
    def __init__(self, n): self.n = n
    def __getitem__(self, i):
        if i >= self.n: raise IndexError(i)
        return i * i
    def __len__(self): return self.n
class Countdown:
    def __init__(self, n): self.n = n
    def __iter__(self): return self
    def __next__(self):
        if self.n <= 0: raise StopIteration
        self.n -= 1; return self.n

class Registry(type):
    made = []
    def __new__(m, name, bases, ns, **kw): cls = super().__new__(m, name, bases, ns); cls.kw = kw; return cls
    def __call__(cls, *a): LOG.append(("call", cls.__name__)); return super().__call__(*a)
    def __getitem__(cls, i): return (cls.__name__, i)
    def __len__(cls): return 7
    def __instancecheck__(cls, o): return o == 5 or super().__instancecheck__(o)
    @property
    def title(cls): return cls.__name__.lower()
class Registered(metaclass=Registry, flag=3):
    def __init__(self, v): self.v = v
class Hooked:
    subs = []
    def __init_subclass__(cls, tag=None, **kw): super().__init_subclass__(**kw); cls.tag = tag
    def __class_getitem__(cls, i): return ("item", i)
class Single:
    only = None
    def __new__(cls, *a):
        obj = super().__new__(cls); obj.args = a; return obj
class Slots:
    __slots__ = ("a", "b")
    def __init__(self, a): self.a = a
class SlotsChild(Slots):
    __slots__ = ("c", "__dict__")

@dataclasses.dataclass
class Data:
    a: object
    b: int = 3
    c: list = dataclasses.field(default_factory=list)
    d: int = dataclasses.field(default=1, repr=False, compare=False)
    e: dataclasses.InitVar[int] = 5
    k: typing.ClassVar[int] = 9
    f: int = dataclasses.field(init=False)
    def __post_init__(self, e): self.f = e + self.b
@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    a: int
    b: str = "q"
@dataclasses.dataclass(slots=True)
class Slotted:
    a: object
    b: int = 2
@dataclasses.dataclass(kw_only=True)
class Child(Data):
    g: int = 4

class Color(enum.Enum):
    RED = 1
    BLUE = "b"
    ALIAS = 1
    def describe(self): return f"{self.name}={self.value}"
    @property
    def upper(self): return self.name.upper()
class Num(enum.IntEnum):
    ONE = 1
    TWO = 2
class Perm(enum.Flag):
    R = enum.auto()
    W = enum.auto()
class Text(str, enum.Enum):
    A = "alpha"

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
    def twice(self): return self.area() * 2
class Square(Shape):
    def __init__(self, s): self.s = s
    def area(self): return self.s * self.s

class Pair(typing.NamedTuple):
    a: object
    b: int = 2
    def total(self): return self.a + self.b

class Wrapped:
    def __init__(self, t): self.t = t
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        LOG.append(func.__name__)
        un = lambda a: a.t if isinstance(a, Wrapped) else a
        return Wrapped(func(*map(un, args), **(kwargs or {})))

class TupleChild(tuple):
    def __new__(cls, *a): return super().__new__(cls, a)
    def first(self): return self[0]
class ListChild(list):
    def __init__(self, *a): super().__init__(a); self.extra = 1
    def append(self, v): super().append((v, "own"))
class DictChild(dict):
    def __missing__(self, k): self[k] = k * 2; return self[k]
    def __getattr__(self, k):
        try: return self[k]
        except KeyError: raise AttributeError(k)
class IntChild(int):
    def plus(self): return self + 1
class StrChild(str):
    def shout(self): return self.upper() + "!"


def attributes(x, o):
    o.n = o.v + 1; o.v = x; graph_break(); o.n += 5; setattr(o, "dyn", [1]); o.dyn.append(2); delattr(o, "n")
    return getattr(o, "dyn"), hasattr(o, "n"), getattr(o, "n", "dflt"), vars(o).keys() >= {"v"}, o.k, type(o).__name__, o.__class__ is Base

def properties(x, o):
    a = o.double; o.double = 10; graph_break(); b = o.double; del o.double
    try: Base.double.fget
    except AttributeError: pass
    return a, b, o.v, x

def property_errors(x):
    class P:
        @property
        def ro(self): return 1
        @property
        def fails(self): raise AttributeError("inner")
    out, p = [], P()
    for f in (lambda: setattr(p, "ro", 2), lambda: delattr(p, "ro"), lambda: p.fails, lambda: p.nope, lambda: object().q):
        try: f()
        except AttributeError as e: out.append(str(e))
    return out, getattr(p, "fails", "default"), x

def super_and_mro(x):
    d = Diamond(2, 3); graph_break()
    return d.name(), d.double, [c.__name__ for c in Diamond.__mro__], super(Diamond, d).name(), super(Right, d).name(), Diamond.make, Base.make(x).v, Left.make(1).name(), d.stat(1), Base.stat(2)

def make_through_class(x): return Left.make(x).v + 1, type(Left.make(1)).__name__, Base.name(Left(1)), Left.__bases__[0].__name__

def descriptors(x):
    d = Described(); a = d.a; d.a = 5; graph_break(); d.b = d.a + 1
    try: d.a = "s"
    except TypeError as e: LOG.append(str(e))
    n = d.n; d.n = "shadow"; del d.a
    return a, d.b, d.a, n, d.n, Described.n, isinstance(Described.a, Typed), x

def getattr_setattr(x):
    d = Dynamic(); d.a = x; graph_break(); d.b = d.a + 1; del d.a
    try: d.a
    except AttributeError as e: LOG.append(str(e))
    return d.store, hasattr(d, "zz"), getattr(d, "b"), Intercept().magic, Intercept().real

def getattr_on_outside(x, d):
    d.n = 1; a = d.n; graph_break(); d.m = [a]; d.m.append(x)
    return d.m, hasattr(d, "zz")

def container_protocol(x):
    v = Vec(1, 2, 3); v[0] = 9; del v[1]; graph_break()
    return v, len(v), v[0], v[0:1], list(v), 9 in v, 5 not in v, list(reversed(v)), v == Vec(9, 3), v != Vec(1), Vec(1) < Vec(2), bool(Vec()), v(lambda a: a + 1), [*v], dict.fromkeys(v), sorted(v), max(v), {Vec(1): 1}[Vec(1)], x

def arithmetic_protocol(x):
    v, w = Vec(1, -2), Vec(3, 4); u = v; u += [7]; graph_break()
    out = []
    try: v + 5
    except TypeError as e: out.append(str(e))
    return v + w, 5 + v, v * 2, 2 * v, -v, abs(v), int(v), float(v), [10, 20, 30][v], ~v, v @ w, divmod(v, 3), round(v), round(v, 2), f"{v:abc}", f"{v!r}", format(v, "x"), u is v, out, str(v), x

def iteration_protocol(x):
    a = list(Sequence(4)); b = [i for i in Countdown(3)]; c = 9 in Sequence(4); d = sum(Countdown(4)); e = list(zip(Countdown(2), Sequence(2)))
    for i in Countdown(2): print("it", i)
    it = iter(Sequence(3)); next(it); graph_break()
    return a, b, c, d, e, list(it), x, list(iter(iter([1, 2, 0, 3]).__next__, 0))

def metaclasses(x):
    r = Registered(5); graph_break()
    return r.v, Registered.kw, Registered[3], len(Registered), Registered.title, isinstance(5, Registered), isinstance(6, Registered), type(Registered).__name__, x

def subclass_hooks(x):
    class A(Hooked, tag="t"): pass
    return A.tag, Hooked[3], Hooked.__class_getitem__(4), Single(1, x).args, x

def metaclass_in_frame(x):
    class M(type):
        def __new__(m, n, b, d): d["added"] = 5; return super().__new__(m, n, b, d)
    class A(metaclass=M): pass
    T = type("T", (Base,), {"z": 3}); graph_break()
    return A.added, T(4).v, T.z, T.__name__, x

def slots(x):
    s = Slots(x); c = SlotsChild(1); c.b = 2; c.c = 3; c.free = 4; graph_break(); s.b = [1]
    try: s.zz = 1
    except AttributeError as e: LOG.append(type(e).__name__)
    try: Slots(1).b
    except AttributeError as e: LOG.append(str(e))
    return s.a, s.b, c.c, c.free, vars(c)

def slots_outside(x, s):
    s.a = s.a + 1; s.b = [s.a]; graph_break(); s.b.append(x); del s.a
    return hasattr(s, "a"), s.b

def dataclass_plain(x):
    d = Data(x, c=[1], e=7); d.c.append(2); graph_break(); e = dataclasses.replace(Data(1), a=5, e=1); c = Child(1, g=8)
    return d, Data(1) == Data(1), Data(1) != Data(2), e, c, repr(Data(1)), [f.name for f in dataclasses.fields(Data)], Data.k, dataclasses.asdict(Frozen(1)), dataclasses.astuple(Frozen(2)), dataclasses.is_dataclass(d)

def dataclass_frozen(x):
    f = Frozen(1); g = dataclasses.replace(f, b="z"); graph_break()
    try: f.a = 3
    except dataclasses.FrozenInstanceError as e: LOG.append(str(e))
    return f, g, hash(f) == hash(Frozen(1)), f < g, {f: 1}[Frozen(1)], sorted([g, f]), x

def dataclass_slots(x):
    s = Slotted(x); s.b += 1; graph_break(); s.a = s.a * 2
    try: s.q = 1
    except AttributeError: LOG.append("no")
    return s, Slotted(1) == Slotted(1), Slotted.__slots__

def dataclass_outside(x, d):
    d.a = d.a + 1; d.c.append(x); graph_break(); d.f = dataclasses.replace(d, b=9, e=1)
    return d.b

def dataclass_in_frame(x):
    @dataclasses.dataclass
    class D:
        a: int
        b: list = dataclasses.field(default_factory=list)
    d = D(1); d.b.append(x); graph_break()
    return d.a, d.b, repr(D(2)), D(1) == D(1)

def enums(x, c):
    graph_break()
    return c is Color.BLUE, c.describe(), c.upper, Color(1), Color["BLUE"], [m.name for m in Color], Color.ALIAS is Color.RED, len(Color), Color.RED in Color, Num.ONE + 1, Num(2), Num.ONE < Num.TWO, Perm.R | Perm.W, (Perm.R | Perm.W) & Perm.R, bool(Perm.R & Perm.W), Text.A == "alpha", Text.A.upper(), {Color.RED: 1}[Color.RED], str(Color.RED), repr(Num.TWO), f"{Color.RED}", isinstance(c, Color), x

def enum_errors(x):
    out = []
    for f in (lambda: Color(9), lambda: Color["zz"], lambda: Color.zz):
        try: f()
        except (ValueError, KeyError, AttributeError) as e: out.append((type(e).__name__, str(e)))
    return out, x

def abstract_classes(x):
    try: Shape()
    except TypeError as e: LOG.append(type(e).__name__)
    return Square(3).twice(), isinstance(Square(1), Shape), Square(x).area()

def typed_namedtuple(x):
    p = Pair(x); graph_break(); q = p._replace(b=3)
    return p.total(), q, Pair._field_defaults, q.b, p == Pair(x) if False else None

def builtin_children(x):
    t = TupleChild(1, x); l = ListChild(1, 2); l.append(3); d = DictChild(a=1); m = d["q"]; n = d.a; i = IntChild(4); s = StrChild("hey"); graph_break(); l.append(x)
    return t.first(), t, l, l.extra, d, m, n, hasattr(d, "zz"), i.plus(), i + 1, s.shout(), s + "x", isinstance(i, int), len(l)

def builtin_children_outside(x, l, d):
    l.append(x); l.extra = 5; m = d["new"]; d.update(z=1); graph_break(); l.append(2); d["k"] = l
    return m, len(l)

def hash_and_equality(x):
    class E:
        def __init__(self, v): self.v = v
        def __eq__(self, o): LOG.append("eq"); return self.v == o.v
        def __hash__(self): return 1
    s = {E(1), E(1), E(2)}; d = {E(1): "a"}; graph_break(); d[E(1)] = "b"
    return len(s), list(d.values()), E(1) in d, E(1) in [E(1)], [E(1)].index(E(1)), [E(2), E(1)].count(E(1)), E(1) == E(1), E(1) != E(2), x

def ordering(x):
    @functools.total_ordering
    class O:
        def __init__(self, v): self.v = v
        def __eq__(self, o): return self.v == o.v
        def __lt__(self, o): return self.v < o.v
    return O(1) <= O(1), O(2) > O(1), O(1) >= O(2), sorted([O(2), O(1)], key=lambda o: o.v)[0].v, sorted([O(3), O(1)])[0].v, max(O(1), O(5)).v, x

def callables(x):
    class F:
        def __init__(self): self.n = 0
        def __call__(self, a): self.n += 1; return a + self.n
    f = F(); a = f(1); graph_break(); m = f.__call__
    return a, f(x), m(1), callable(f), callable(3), list(map(f, [1, 2])), f.n

def bound_methods(x):
    b = Base(2); m = b.name; n = Base.name; graph_break()
    return m(), n(b), m.__self__ is b, m.__func__ is n, b.name == b.name, b.name is b.name, getattr(b, "name")(), [].append.__name__, x

def torch_function(x):
    w = Wrapped(x); a = torch.add(w, 1); graph_break(); b = torch.relu(a)
    return b.t, torch.is_tensor(w)

def copies(x, o):
    o.lst = [1]; a = copy.copy(o); b = copy.deepcopy(o); graph_break(); o.lst.append(2); o.v = 9
    class C:
        def __init__(self): self.n = 0
        def __copy__(self): c = C(); c.n = "copied"; return c
        def __deepcopy__(self, memo): c = C(); c.n = "deep"; return c
    return a.lst, b.lst, a.v, copy.copy(C()).n, copy.deepcopy([C()])[0].n, copy.copy(x) is x, copy.deepcopy({"a": (1, [x])})

def weak_references(x, o):
    r = weakref.ref(o)
    return r() is o, x

def class_attributes(x):
    class A:
        n = 0
        items = []
    a, b = A(), A(); a.n += 1; a.items.append(1); A.n = 5; graph_break(); A.m = 3; del a.n
    return a.n, b.n, A.items, a.m, x

def introspection(x, o):
    return isinstance(o, (int, Base)), issubclass(Left, (str, Base)), type(o) is Base, type(x) is torch.Tensor, isinstance(x, torch.Tensor), callable(o), hasattr(o, "name"), sorted(vars(o)), id(o) == id(o), o.__dict__["v"], type(None), type(type(o)), o.__module__ == Base.__module__, Base.__qualname__, dir(o)[-1], hash(3), getattr(type(o), "k")

def delegation(x):
    class P:
        def __init__(self, t): self._t = t
        def __getattr__(self, n): return getattr(self._t, n)
    p = P(Base(x)); graph_break()
    return p.v, p.name(), p.double, P([1, 2]).index(2), P(x).shape

def instance_dict(x, o):
    o.__dict__["z"] = 3; d = dict(o.__dict__); graph_break(); o.__dict__.update(y=4); o.__dict__.pop("z")
    return d, o.y, hasattr(o, "z"), "y" in o.__dict__, len(o.__dict__), x

def objects_with_cycles(x):
    a, b = Base(1), Base(2); a.other, b.other = b, a; a.t = x; graph_break(); b.t = a.t + 1
    return a, b.other.other is b

def module_training_and_buffers(x, m):
    m.count += 1; m.scale.mul_(2); m.note = "seen"; m.plain.append(1); y = m(x); graph_break(); m.eval(); z = m(x)
    return y, z, m.training, m.count

def module_containers(x):
    l = nn.ModuleList([nn.ReLU(), nn.Tanh()]); d = nn.ModuleDict({"a": nn.Sigmoid()}); s = nn.Sequential(*l); graph_break()
    return s(x), [type(m).__name__ for m in l], d["a"](x), len(s), s[0](x), list(d), "a" in d

def module_walk(x, m):
    return [n for n, _ in m.named_modules()], [n for n, _ in m.named_parameters()], [n for n, _ in m.named_buffers()], sum(p.numel() for p in m.parameters()), sorted(m.state_dict()), [type(c).__name__ for c in m.children()], x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.act, self.drop = nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.0)
        self.register_buffer("scale", torch.ones(3)); self.count, self.plain = 0, []
        with torch.no_grad(): self.lin.weight.copy_(torch.eye(3)); self.lin.bias.zero_()
    def forward(self, x): return self.act(self.drop(self.lin(x))) * self.scale + (self.count if self.training else 0)


_OBJECT = lambda x: (x, Base(2))
ARGS = {
    **dict.fromkeys(("attributes", "properties", "copies", "weak_references", "introspection", "instance_dict"), _OBJECT),
    "getattr_on_outside": lambda x: (x, Dynamic()), "slots_outside": lambda x: (x, Slots(x)), "dataclass_outside": lambda x: (x, Data(x)), "enums": lambda x: (x, Color.BLUE),
    "builtin_children_outside": lambda x: (x, ListChild(1), DictChild(a=1)), "module_training_and_buffers": lambda x: (x, Net()), "module_walk": lambda x: (x, Net()),
}
