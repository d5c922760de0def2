"""Ordinary Python around tensors, as people write it: dataclasses, enums, generators, descriptors, containers, the standard library.

Each program runs three times against eager (results and effects); `BREAKS` says which graph breaks it costs, all others are one graph.
"""

import abc
import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import inspect
import itertools
import logging
import math
import operator
import os
import re
import reprlib
import string
import types
import typing
import warnings

import pytest
import torch
from lamina_dynamo import graph_break
from lamina_dynamo.convert import Converted, listening
from lamina_dynamo.runtime import Options, compile_callable

LOGGER = logging.getLogger("lamina.test.ordinary")
LOG: list = []
STATE = {"calls": 0, "history": []}


# ---- dataclasses, enums, named tuples -------------------------------------------------------------------------------------
@dataclasses.dataclass
class Config:
    width: int = 3
    scale: float = 0.5
    names: list = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(init=False, default=0)

    def __post_init__(self):
        self.hidden = self.width * 2


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    x: float
    y: float = 0.0

    def norm(self):
        return math.hypot(self.x, self.y)


@dataclasses.dataclass(slots=True, kw_only=True)
class Slotted:
    a: torch.Tensor
    b: int = 1


class Activation(enum.Enum):
    RELU = "relu"
    TANH = "tanh"

    def __call__(self, x):
        return getattr(torch, self.value)(x)

    @classmethod
    def default(cls):
        return cls.TANH


class Flags(enum.IntFlag):
    A = 1
    B = 2
    C = 4


class Step(typing.NamedTuple):
    value: torch.Tensor
    index: int = 0

    def next(self):
        return self._replace(value=self.value + 1, index=self.index + 1)


def uses_dataclasses(x):
    c = Config(4, names=["a"])
    d = dataclasses.replace(c, scale=2.0)
    c.names.append("b")
    return x * c.scale + d.scale, c, d == c, dataclasses.asdict(d), [f.name for f in dataclasses.fields(c)], repr(Point(3.0, 4.0)), Point(1.0) < Point(2.0), Point(3.0, 4.0).norm(), hash(Point(1.0)) == hash(Point(1.0))


def uses_slots(x):
    s = Slotted(a=x + 1)
    s.b += 2
    return s.a * s.b, dataclasses.astuple(dataclasses.replace(s, b=5))[1], {Point(1.0): "p"}[Point(1.0)]


def uses_enums(x):
    table = {Activation.RELU: 1, Activation.TANH: 2}
    f = Flags.A | Flags.C
    return Activation("relu")(x), Activation.default()(x), table[Activation["TANH"]], [a.name for a in Activation], Activation.RELU is Activation("relu"), Flags.B in f, Flags.C in f, f.value, f"{Activation.RELU.value}-{Flags.A.name}"


def uses_named_tuples(x):
    s = Step(x)
    for _ in range(3):
        s = s.next()
    value, index = s
    return s, value * index, s._fields, s._asdict()["index"], Step._make([x, 7]).index


# ---- generators, match ----------------------------------------------------------------------------------------------------
def windows(items, n):
    window = collections.deque(maxlen=n)
    for item in items:
        window.append(item)
        if len(window) == n:
            yield tuple(window)


def accumulator():
    total = None
    while True:
        got = yield total
        if got is None:
            return "done"
        total = got if total is None else total + got


def delegating(x):
    result = yield from (x * i for i in range(2))
    yield result
    try:
        yield x
    finally:
        LOG.append("closed")


def uses_generators(x):
    acc = accumulator()
    next(acc)
    a, b = acc.send(x), acc.send(x)
    try:
        acc.send(None)
    except StopIteration as stop:
        end = stop.value
    return [sum(w) for w in windows(x.unbind(), 2)], a, b, end, list(delegating(x)), dict((k, v) for k, v in zip("ab", (x + i for i in range(2)))), max((float(i), i) for i in range(3))


def kind(v):
    match v:
        case int(n) if n > 5:
            return f"large {n}"
        case True | "yes":
            return "yes"
        case [first, *rest]:
            return first, len(rest)
        case {"op": str(op), **others}:
            return op, sorted(others)
        case Point(x=px, y=0.0):
            return px
        case Activation.RELU:
            return "relu"
        case torch.Tensor():
            return v.sum()
        case None:
            return "none"
        case _:
            return "other"


def uses_match(x):
    return [kind(v) for v in (7, True, "yes", [x, 1, 2], {"op": "add", "b": 1, "a": 2}, Point(2.0), Activation.RELU, x, None, 2.5, (3,))]


# ---- descriptors, classes -------------------------------------------------------------------------------------------------
class Validated:
    def __set_name__(self, owner, name):
        self.name = "_" + name

    def __get__(self, obj, owner=None):
        return self if obj is None else getattr(obj, self.name)

    def __set__(self, obj, value):
        if not 0 <= value <= 10:
            raise ValueError(f"{self.name}: {value}")
        setattr(obj, self.name, value)


class Registry(type):
    classes: dict = {}

    def __new__(mcs, name, bases, namespace, **kwargs):
        cls = super().__new__(mcs, name, bases, namespace)
        mcs.classes[name] = cls
        return cls

    def __len__(cls):
        return len(cls.classes)

    def __getitem__(cls, name):
        return cls.classes[name]


class Base(metaclass=Registry):
    rate = Validated()

    def __init__(self, rate):
        self.rate = rate

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = cls.__name__.lower()

    @functools.cached_property
    def doubled(self):
        LOG.append("doubled")
        return self.rate * 2

    @property
    def half(self):
        return self.rate / 2

    @half.setter
    def half(self, value):
        self.rate = value * 2

    @staticmethod
    def bias():
        return 3

    @classmethod
    def make(cls, rate):
        return cls(rate)


class Derived(Base):
    def __getattr__(self, name):
        if name.startswith("dyn_"):
            return len(name)
        raise AttributeError(name)

    def __call__(self, x):
        return x * self.rate + self.bias()


def uses_descriptors(x):
    d = Derived.make(4)
    d.half = 3
    try:
        d.rate = 11
    except ValueError as e:
        text = str(e)
    return d(x), d.half, d.doubled + d.doubled, d.dyn_abc, hasattr(d, "missing"), getattr(d, "missing", 5), text, Derived.tag, vars(d)["_rate"]


def uses_metaclass(x):
    return len(Base), Base["Derived"] is Derived, Base["Derived"](2)(x), type(Derived).__name__, isinstance(Derived, Registry)


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

    def __lt__(self, other):
        return self.area() < other.area()


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2

    def __eq__(self, other):
        return isinstance(other, Square) and self.side == other.side

    def __hash__(self):
        return hash(self.side)

    def __add__(self, other):
        return Square(self.side + (other.side if isinstance(other, Square) else other))

    __radd__ = __add__

    def __bool__(self):
        return self.side > 0

    def __contains__(self, item):
        return item < self.side

    def __repr__(self):
        return f"Square({self.side})"

    def __format__(self, spec):
        return f"<{self.side:{spec or 'd'}}>"


def uses_abstract_classes(x):
    squares = [Square(3), Square(1), Square(2)]
    try:
        Shape()
    except TypeError:
        failed = True
    return [s.side for s in sorted(squares)], sum(squares).side, bool(Square(0)), 2 in Square(3), max(squares), f"{Square(2)} {Square(3):03d} {squares!r}", Square(1) == Square(1), failed, issubclass(Square, Shape), x * Square(2).area()


# ---- functools ------------------------------------------------------------------------------------------------------------
@functools.singledispatch
def describe(v):
    return "object"


@describe.register
def _(v: int):
    return "int", v


@describe.register(torch.Tensor)
def _(v):
    return "tensor", v.dim()


@describe.register(list)
def _(v):
    return [describe(i) for i in v]


@functools.lru_cache(maxsize=4)
def binomial(n, k):
    return 1 if k in (0, n) else binomial(n - 1, k - 1) + binomial(n - 1, k)


def repeat(times):
    def decorate(fn):
        @functools.wraps(fn)
        def run(*args, **kwargs):
            for _ in range(times):
                out = fn(*args, **kwargs)
            return out

        return run

    return decorate


@repeat(2)
def counted(x, *, by=1):
    """Counts."""
    STATE["calls"] += 1
    return x * by


class Method:
    @functools.singledispatchmethod
    def of(self, v):
        return "any"

    @of.register
    def _(self, v: str):
        return v.upper()

    partial = functools.partialmethod(lambda self, a, b: a * b, 3)


def uses_functools(x):
    add = functools.partial(operator.add, x)
    compose = functools.reduce(lambda f, g: lambda v: g(f(v)), [torch.sin, torch.cos, add])
    return compose(x), describe(3), describe(x), describe([x, 1]), describe("s"), binomial(5, 2), counted(x, by=3), counted.__doc__, counted.__wrapped__.__name__, Method().of("a"), Method().of(1), Method().partial(4), sorted([3, 1, 2], key=functools.cmp_to_key(lambda a, b: b - a))


def uses_operator(x):
    get, two = operator.itemgetter(1), operator.itemgetter(0, 2)
    return get([x, x + 1]), two((1, 2, 3)), operator.attrgetter("shape")(x), operator.methodcaller("sum", 0)(x), operator.concat([1], [2]), operator.indexOf([4, 5], 5), list(map(operator.mul, [1, 2], [3, 4])), operator.length_hint([1, 2])


# ---- containers -----------------------------------------------------------------------------------------------------------
def uses_collections(x):
    d = collections.defaultdict(list)
    for i, t in enumerate(x.unbind()):
        d[i % 2].append(t)
    c = collections.Counter("abracadabra")
    c.update("aab")
    c.subtract({"b": 1})
    o = collections.OrderedDict(a=1, b=2, c=3)
    o.move_to_end("a")
    last = o.popitem()
    q = collections.deque([1, 2, 3], maxlen=3)
    q.append(4)
    q.appendleft(0)
    q.rotate(1)
    q.extend([7])
    chain = collections.ChainMap({"a": 1}, {"b": 2, "a": 3})
    return dict(d), c.most_common(2), c["z"], sum(c.values()), (c + collections.Counter("a"))["a"], list(o.items()), last, list(q), q.count(7), q.index(7), chain["a"], dict(chain) == {"a": 1, "b": 2}, sorted(c.elements())[:3]


def uses_dict_views(x):
    d = {"a": x, "b": x + 1, "c": x * 2}
    e = {"b": 1, "d": 2}
    keys = d.keys() & e.keys()
    merged = {**e, "z": 0} | {"b": 5}
    popped = d.pop("a")
    d.setdefault("q", x - 1)
    e.update(f=3, **{"g": 4})
    del e["d"]
    return sorted(keys), sorted(d.keys() - {"b"}), popped, list(d), [k for k, v in d.items()], merged, list(reversed(e)), ("b", 1) in e.items(), dict.fromkeys("xy", 0), e.get("nope", 9), len(d.values()), {k: v for k, v in sorted(e.items(), key=lambda kv: -kv[1])}


def uses_lists_and_sets(x):
    a = [3, 1, 2]
    a[1:2] = [9, 8]
    a.insert(0, 5)
    a.remove(9)
    a.sort(reverse=True)
    b = a * 2
    del b[::2]
    s = {1, 2, 3}
    s |= {4}
    s.discard(1)
    first, *middle, end = range(5)
    nested = [[0] * 2 for _ in range(2)]
    nested[0][1] = x
    return a, b, a.index(8), s ^ {2, 9}, s <= {2, 3, 4, 5}, frozenset([1]) | {2}, middle, end, nested, sorted(s, key=lambda v: -v), [*a, *s], any(v > 4 for v in a), list(zip(a, s)), list(enumerate("ab", 1)), a.copy() == a, "".join(map(str, a))


def uses_itertools(x):
    pairs = list(itertools.product([1, 2], "ab"))
    groups = {k: list(g) for k, g in itertools.groupby([1, 1, 2, 3, 3], key=lambda v: v % 2)}
    return (
        pairs, groups, list(itertools.accumulate([1, 2, 3], lambda a, b: a * b)), list(itertools.chain.from_iterable([[1], [2, 3]])), list(itertools.islice(itertools.count(5, 2), 3)),
        list(itertools.combinations("abc", 2)), list(itertools.permutations([1, 2])), list(itertools.takewhile(lambda v: v < 3, [1, 2, 5, 1])), list(itertools.zip_longest([1], [2, 3], fillvalue=0)),
        list(itertools.starmap(torch.mul, [(x, 2), (x, 3)])), list(itertools.compress("abc", [1, 0, 1])), list(itertools.pairwise([1, 2, 3])), next(itertools.cycle([x])), list(itertools.repeat(1, 2)), [list(t) for t in itertools.tee([1, 2])],
    )  # fmt: skip


# ---- inspection, text, warnings -------------------------------------------------------------------------------------------
def keyed(a, b=2, *args, c, d=4, **kwargs):
    return a


def uses_inspect(x):
    sig = inspect.signature(keyed)
    bound = sig.bind(x, c=3, e=5)
    bound.apply_defaults()
    return list(sig.parameters), bound.arguments["b"], sig.parameters["d"].default, sig.parameters["c"].kind is inspect.Parameter.KEYWORD_ONLY, "c" in bound.arguments, inspect.isfunction(keyed), inspect.isclass(Config), callable(x.sin), keyed(*bound.args, **bound.kwargs), keyed.__name__, keyed.__code__.co_argcount, keyed.__kwdefaults__


def uses_text(x):
    m = re.match(r"(?P<name>\w+)\.(\d+)", "layer.12.weight")
    text = "{0:>5}|{name:<4}|{1:.2f}|{d[k]}|{o.width}".format("a", 3.14159, name="n", d={"k": 1}, o=Config())
    return m.group("name"), int(m[2]), re.sub(r"\d+", lambda g: str(int(g.group()) + 1), "a1b22"), text, "%s-%03d-%r" % ("a", 7, "b"), f"{x.shape[0]=} {x.dim():>3} {tuple(x.shape)}", "a,b,,c".split(","), " x ".strip().upper(), "abc"[::-1], "k=v".partition("="), string.Template("$a").substitute(a=1), re.findall("[a-c]", "abcd"), "é".encode().decode(), "x".center(5, "*"), str(x.dtype), repr([1, "a", None]), "abc".translate(str.maketrans("a", "z"))


def uses_warnings(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn("quiet", stacklevel=2)
        y = x + 1
    LOGGER.debug("not shown %s", 1)
    if LOGGER.isEnabledFor(logging.DEBUG):
        y = y + 100
    return y


def uses_contexts(x):
    @contextlib.contextmanager
    def scaled(by):
        LOG.append("in")
        try:
            yield by * 2
        finally:
            LOG.append("out")

    with contextlib.ExitStack() as stack:
        a = stack.enter_context(scaled(2))
        stack.callback(LOG.append, "callback")
        with contextlib.suppress(KeyError):
            {}["missing"]
        b = x * a
    with contextlib.nullcontext(5) as five, scaled(1) as two:
        b = b + five + two
    return b, list(LOG)


def uses_exceptions(x):
    class Own(ValueError):
        def __init__(self, code):
            super().__init__(f"code {code}")
            self.code = code

    out = []
    for i in range(4):
        try:
            if i == 1:
                raise Own(i)
            if i == 2:
                [][5]
            if i == 3:
                try:
                    {}["k"]
                except KeyError as e:
                    raise RuntimeError("outer") from e
        except Own as e:
            out.append((e.code, str(e), e.args))
        except (IndexError, RuntimeError) as e:
            out.append((type(e).__name__, type(e.__cause__).__name__))
        else:
            out.append("fine")
        finally:
            out.append(i)
    return out, x + 1


def uses_closures(x):
    count = 0
    functions = []

    def bump(by=1):
        nonlocal count
        count += by
        return count

    for i in range(3):
        functions.append(lambda v, i=i: v * i + bump())
    STATE["history"].append(len(functions))
    walrus = [y for i in range(5) if (y := i * i) % 2 == 0]
    return [f(x) for f in functions], count, walrus, (lambda *a, **k: (a, k))(1, b=2)


class Namespace(types.SimpleNamespace):
    def total(self):
        return self.a + self.b


def uses_namespaces(x):
    n = Namespace(a=x, b=1)
    n.c = n.total() * 2
    m = types.MappingProxyType({"k": x})
    d = copy.deepcopy({"a": [1, {"b": 2}], "t": (1, 2)})
    d["a"][1]["b"] = 5
    e = copy.copy(Config(2))
    e.names = ["changed"]
    return n.c, vars(n)["b"], m["k"], d, e, len(m)


class Tree:
    def __init__(self, value, *children):
        self.value, self.children = value, children

    def __iter__(self):
        yield self.value
        for c in self.children:
            yield from c

    def __len__(self):
        return 1 + sum(map(len, self.children))

    def __getitem__(self, path):
        node = self
        for i in path if isinstance(path, tuple) else (path,):
            node = node.children[i]
        return node.value

    def __matmul__(self, f):
        return Tree(f(self.value), *(c @ f for c in self.children))

    def __reversed__(self):
        return reversed(list(self))


def uses_trees(x):
    t = Tree(x, Tree(x + 1, Tree(x + 2)), Tree(x * 2))
    return list(t @ torch.sin), len(t), t[0, 0], t[1], sum(t), list(reversed(t))[0], [v.shape for v in t]


def uses_numbers(x):
    return math.prod([2, 3]), math.isclose(0.1 + 0.2, 0.3), divmod(17, 5), round(2.675, 2), int("ff", 16), bin(5), (7).bit_length(), 3.0.is_integer(), complex(1, 2) * 1j, sum([0.1] * 3), 10**20, -7 // 2, -7 % 3, 1 if x.dim() else 2, bool([]) or "x", 1 < 2 < 3, min(3, 1, key=lambda v: -v), sum(map(int, "123")), pow(3, -1, 7), hash((1, 2)) == hash((1, 2)), x * math.pi, x // 1


class Layer(torch.nn.Module):
    registry: dict = {}

    def __init_subclass__(cls, name=None, **kwargs):
        super().__init_subclass__(**kwargs)
        Layer.registry[name or cls.__name__] = cls

    def __init__(self, n):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(n))
        self.register_buffer("seen", torch.zeros(()))
        self.config = Config(n)
        self.cache: dict = {}

    def forward(self, x):
        self.seen += 1
        self.cache[tuple(x.shape)] = self.cache.get(tuple(x.shape), 0) + 1
        return x * self.weight * self.config.scale


class Special(Layer, name="special"):
    def forward(self, x):
        return super().forward(x) + len(self.registry)


NET = torch.nn.ModuleDict({"a": Layer(3), "b": Special(3)})


def uses_modules(x):
    out = {name: layer(x) for name, layer in NET.items()}
    return out, [n for n, _ in NET.named_parameters()], sum(p.numel() for p in NET.parameters()), NET["a"].cache, NET["b"].seen.clone(), NET.training, type(NET["b"]).__mro__[1] is Layer


# ---- more of the language -------------------------------------------------------------------------------------------------
T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, item: T):
        self.item = item

    def map(self, f: typing.Callable[[T], T]) -> "Box[T]":
        return type(self)(f(self.item))


@typing.runtime_checkable
class HasArea(typing.Protocol):
    def area(self) -> float: ...


class Hooks:
    def __init__(self):
        object.__setattr__(self, "log", [])
        self.a = 1

    def __setattr__(self, name, value):
        self.log.append(("set", name))
        super().__setattr__(name, value)

    def __delattr__(self, name):
        self.log.append(("del", name))
        super().__delattr__(name)

    def __getattribute__(self, name):
        if name == "virtual":
            return 42
        return super().__getattribute__(name)


class Missing(dict):
    def __missing__(self, key):
        self[key] = key * 2
        return self[key]


class Memo:
    def __init__(self, fn):
        self.fn, self.hits, self.table = fn, 0, {}
        functools.update_wrapper(self, fn)

    def __call__(self, n):
        if n in self.table:
            self.hits += 1
        else:
            self.table[n] = self.fn(n)
        return self.table[n]


def plus(cls):
    cls.extra = lambda self, x: x + self.amount
    return cls


@plus
class Decorated:
    __slots__ = ("amount",)
    kinds = ("a", "b")

    def __init__(self, amount=2):
        self.amount = amount

    def __class_getitem__(cls, item):
        return f"{cls.__name__}[{item}]"

    def __iter__(self):
        return iter(self.kinds)

    def __enter__(self):
        self.amount += 1
        return self

    def __exit__(self, *exc):
        self.amount -= 1
        return exc[0] is ZeroDivisionError

    def __index__(self):
        return self.amount

    def __call__(self, *args, **kwargs):
        return args, kwargs


def uses_generic_classes(x):
    b = Box[torch.Tensor](x).map(torch.sin)
    return b.item, isinstance(b, Box), isinstance(Square(2), HasArea), typing.cast(int, "s"), typing.get_args(typing.Dict[str, int]), typing.Optional[int] == typing.Union[int, None], list[int].__origin__ is list, Decorated[3]


def uses_attribute_hooks(x):
    h = Hooks()
    h.b = x
    del h.a
    return h.log, h.virtual, h.b * 2, hasattr(h, "a"), Missing(a=1)["a"], Missing()["ab"], getattr(h, "c", None)


def uses_callables(x):
    fib = Memo(lambda n: n if n < 2 else fib(n - 1) + fib(n - 2))
    d = Decorated()
    with d as e, contextlib.suppress(ValueError):
        inside = e.amount
        int("x")
    with d:
        1 / 0
    return fib(10), fib.hits, d.extra(x), list(d), inside, d.amount, [0, 1, 2, 3][d], d(1, *[2], k=3, **{"j": 4}), range(5)[d]


def uses_control_flow(x):
    out = []
    for i in range(10):
        if i % 2:
            continue
        if i > 6:
            break
        for j in range(3):
            if j == i:
                break
        else:
            out.append(("else", i))
    else:
        out.append("never")
    n = 0
    while (n := n + 1) < 5:
        try:
            if n == 3:
                continue
            out.append(n)
        finally:
            out.append(-n)
    else:
        out.append("end")

    def early():
        try:
            return 1
        finally:
            out.append("finally")

    def overridden():
        for i in range(3):
            try:
                return i
            finally:
                break
        return "after"

    assert x.dim() == 1, "a vector"
    return out, early(), overridden(), x[1:], [*range(3)][::-1], (lambda: (yield))().__next__()


def mutable_default(v, seen=[]):  # noqa: B006
    seen.append(v)
    return len(seen)


def uses_arguments(x):
    def f(a, /, b, *rest, c=1, **more):
        return a, b, rest, c, sorted(more)

    def g(*, key):
        return key

    try:
        f(1)
    except TypeError as e:
        text = str(e)
    try:
        g()
    except TypeError as e:
        text += str(e)
    return f(1, 2, 3, c=4, d=5), f(*(1, 2), **{"z": 1}), text, f.__defaults__, g(key=x), mutable_default.__defaults__ is not None


def uses_comprehensions(x):
    grid = [[i * j for j in range(3)] for i in range(2)]
    flat = [v for row in grid for v in row if v]
    lazy = (v for v in flat if v > 1)
    return flat, {v: k for k, v in enumerate("ab")}, {v % 2 for v in flat}, next(lazy), list(lazy), [(a, b) for a in "ab" for b in (1, 2) if b > 1], [x * i for i in range(2)], dict(zip(*[iter("abcd")] * 2)), sum(1 for _ in flat), all(isinstance(v, int) for v in flat), [y for t in x.unbind() if (y := t.shape) == ()]


def uses_unpacking(x):
    a, (b, *c), d = 1, (2, 3, 4), {"k": x}
    first, *_, last = "abcd"
    (p, q), r = divmod(7, 2), 0
    p, q = q, p
    data = list(range(6))
    data[::2] = [9, 9, 9]
    data[1:3] = []
    data += (7,)
    del data[-1], data[0]
    i = [0, 0]
    i[0], i[i[0]] = 1, 5
    return a, b, c, d, first, last, p, q, r, data, i, [*data, *"xy"], {**d, "z": 1}


def uses_bytes_and_encodings(x):
    import base64
    import hashlib
    import json
    import struct

    text = json.dumps({"b": [1, 2.5, None], "a": "é"}, sort_keys=True)
    return json.loads(text), text, struct.unpack("<hf", struct.pack("<hf", 3, 0.5)), hashlib.sha256(b"x").hexdigest()[:8], base64.b64encode(b"hi").decode(), bytes([1, 2]).hex(), bytearray(b"ab") + b"c", int.from_bytes(b"\x01\x00", "little"), x + len(text)


def uses_heaps(x):
    import bisect
    import heapq

    h = [5, 1, 4]
    heapq.heapify(h)
    heapq.heappush(h, 0)
    order = [heapq.heappop(h) for _ in range(3)]
    pos = bisect.bisect_left([1, 3, 5], 3)
    keep = [1, 3]
    bisect.insort(keep, 2)
    return order, pos, keep, heapq.nlargest(2, [3, 1, 2]), heapq.nsmallest(1, [(2, "b"), (1, "a")]), list(heapq.merge([1, 4], [2])), x


def uses_classes_made_inside(x):
    class Local:
        shared = [1]

        def __init__(self, v):
            self.v = v

        def twice(self):
            return self.v * 2

    class Child(Local):
        def twice(self):
            return super().twice() + len(self.shared)

    made = type("Made", (Local,), {"twice": lambda self: self.v * 3})
    return Child(x).twice(), made(x).twice(), Child.__mro__[1] is Local, Local.__name__, isinstance(Child(1), Local)


def uses_named_tuples_made_inside(x):
    pair = collections.namedtuple("pair", ["a", "b"], defaults=[2])
    p = pair(x)
    return p.a, p.b, pair._fields, p._replace(b=3).b


def uses_dataclasses_made_inside(x):
    @dataclasses.dataclass
    class Pair:
        a: int
        b: list = dataclasses.field(default_factory=list)

    p = Pair(1)
    p.b.append(x)
    return p.a, p.b, p == Pair(1, [x]) or True, [f.name for f in dataclasses.fields(Pair)], repr(Pair(2))


class Linked:
    def __init__(self, name, other=None):
        self.name, self.other = name, other

    @reprlib.recursive_repr("<cycle>")
    def __repr__(self):
        return f"Linked({self.name}, {self.other!r})"


def uses_recursive_repr(x):
    first = Linked("a")
    second = Linked("b", first)
    before = repr(second)
    first.other, first.name = second, "c"
    return x * len(before), before, repr(second)


def is_even(n):
    return True if n == 0 else is_odd(n - 1)


def is_odd(n):
    return False if n == 0 else is_even(n - 1)


def uses_recursion(x):
    def walk(tree, path=()):
        if isinstance(tree, dict):
            for k, v in tree.items():
                yield from walk(v, (*path, k))
        else:
            yield path, tree

    def power(base, n):
        return 1 if n == 0 else base * power(base, n - 1)

    return is_even(10), list(walk({"a": {"b": x, "c": 1}, "d": 2})), power(2, 8), power(x, 3)


def uses_torch_containers(x):
    p = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(3)) for _ in range(2)]) if False else NET["a"].weight
    sizes = x.shape + (2,)
    a, b = torch.max(x, 0)
    named = torch.max(x, 0)
    q, r = torch.linalg.qr(x.reshape(3, 1))
    return sizes, a, b, named.values, named.indices, q.shape, p * x, torch.Size([1, 2]).numel(), x.new_tensor([1, 2]), x.tolist.__name__, torch.einsum("i,i->", x, x), x.expand(2, -1).reshape(2, 1, 3).permute(2, 0, 1).flatten(1)


def uses_pytrees(x):
    from torch.utils import _pytree as pytree

    tree = {"a": [x, (x + 1, None)], "b": Step(x * 2)}
    leaves, spec = pytree.tree_flatten(tree)
    return pytree.tree_unflatten([v if v is None else v + 1 for v in leaves], spec)["a"], len(leaves), pytree.tree_map_only(torch.Tensor, torch.neg, tree)["b"].value


PROGRAMS = [v for k, v in list(globals().items()) if k.startswith("uses_")]
BREAKS: dict = {}


def same(got, want):
    assert type(got).__name__ == type(want).__name__, (type(got), type(want))
    if isinstance(want, torch.Tensor):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        same(list(got.values()), list(want.values()))
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want), (got, want)
        for g, w in zip(got, want):
            same(g, w)
    elif dataclasses.is_dataclass(want) and not isinstance(want, type):
        for f in dataclasses.fields(want):
            same(getattr(got, f.name), getattr(want, f.name))
    elif hasattr(want, "__dict__") and not isinstance(want, (type, enum.Enum, types.FunctionType)):
        same(vars(got), vars(want))
    else:
        assert got == want, (got, want)


def fresh():
    LOG.clear()
    STATE.update(calls=0, history=[])
    binomial.cache_clear()
    for layer in NET.values():
        layer.seen.zero_()
        layer.cache.clear()


def effects():
    return list(LOG), dict(STATE), [dict(layer.cache) for layer in NET.values()], [layer.seen.item() for layer in NET.values()]


def runs(fn):
    fresh()
    out = []
    for x in (torch.arange(3.0), torch.arange(3.0) + 1, torch.arange(3.0)):
        out.append(copy.deepcopy(effects()))
        with torch.no_grad():
            out.append(fn(x))
    return [*out, effects()]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_program_follows_eager_in_one_graph(program):
    want = runs(program)
    fast, events = compile_callable(program, Options(lambda gm, inputs: gm.forward)), []
    with listening(events.append):
        got = runs(fast)
    same(got, want)
    breaks = [str(e.break_reason) if isinstance(e, Converted) else str(e) for e in events if not isinstance(e, Converted) or e.break_reason is not None]
    assert [re.search(r"code:  (\S+)", b)[1] for b in breaks] == BREAKS.get(program.__name__, []), breaks


def compiled_of(fn, **options):
    events = []
    fast = compile_callable(fn, Options(lambda gm, inputs: gm.forward, **options))

    def call(*args):
        with listening(events.append):
            return fast(*args)

    return call, events


def test_symbolic_sizes_as_keys_and_flags():
    def f(x):
        kinds = collections.defaultdict(list)
        kinds[x.shape, x.dtype].append(x)
        kinds[x.shape[0]].append(x)
        y = x.sum(0, keepdim=x.shape[0] > 4) + len(kinds)
        return y, (x * 1).requires_grad_(x.shape[0] % 2 == 0).requires_grad, [tuple(k[0]) if type(k) is tuple else k for k in kinds]

    fast, _ = compiled_of(f, fullgraph=True)
    for n in (3, 4, 5, 6, 3):
        same(fast(torch.ones(n)), f(torch.ones(n)))


def test_weak_references_to_containers_from_outside():
    """Of hooks that one frame registers and the next removes: the handle refers to the module's own dictionary."""
    net = torch.nn.Linear(2, 2)

    def f(x):
        handles = [net.register_forward_hook(lambda m, i, o: o + k) for k in range(2)]
        graph_break()
        seen = [h.hooks_dict_ref() is net._forward_hooks for h in handles]
        y = net(x)
        for h in handles:
            h.remove()
        return y, seen, len(net._forward_hooks)

    fast, _ = compiled_of(f)
    for n in (1, 2):
        same(fast(torch.ones(n, 2)), f(torch.ones(n, 2)))


def test_arguments_of_a_transform_that_change_between_calls():
    def f(x, per_item):
        return torch.vmap(lambda p, v: p * v, (0, 0 if per_item else None))(torch.arange(3.0), x)

    fast, _ = compiled_of(f, fullgraph=True)
    for x, per_item in ((torch.ones(4), False), (torch.ones(5), False), (torch.ones(3, 4), True)):
        same(fast(x, per_item), f(x, per_item))


def test_the_environment_and_views_of_dictionaries_are_read_at_each_call(monkeypatch):
    table = {"a": 1.0}
    view = types.MappingProxyType(table)

    def f(x):
        scale = float(os.environ.get("LAMINA_TEST_SCALE", "1")) + float(os.getenv("LAMINA_TEST_SCALE", "2"))
        return x * scale * view["a"] + len(view), list(view), "LAMINA_TEST_SCALE" in os.environ, view

    fast, _ = compiled_of(f, fullgraph=True)
    x = torch.arange(3.0)
    for scale, change in ((None, {}), ("3", {}), ("4", {"a": 2.0}), (None, {"b": 1.0})):
        if scale is None:
            monkeypatch.delenv("LAMINA_TEST_SCALE", raising=False)
        else:
            monkeypatch.setenv("LAMINA_TEST_SCALE", scale)
        table.update(change)
        got, want = fast(x), f(x)
        same(got[:3], want[:3])
        assert got[3] is view


def test_the_environment_is_guarded_by_what_is_read_of_it(monkeypatch):
    monkeypatch.setenv("LAMINA_TEST_SCALE", "3")
    monkeypatch.delenv("LAMINA_TEST_OTHER", raising=False)

    def f(x):
        return x * float(os.environ["LAMINA_TEST_SCALE"]) + ("LAMINA_TEST_MISSING" in os.environ)

    graphs = []

    def backend(gm, inputs):
        graphs.append(gm)
        os.environ["LAMINA_TEST_OTHER"] = str(len(graphs))  # as libraries that are loaded while the first graph is compiled
        return gm.forward

    fast, x = compile_callable(f, Options(backend, fullgraph=True)), torch.arange(3.0)
    for other in ("a", "b"):
        same(fast(x), f(x))
        monkeypatch.setenv("LAMINA_TEST_OTHER", other)
    assert len(graphs) == 1


def test_writes_to_the_environment_happen_at_each_call(monkeypatch):
    def f(x):
        os.environ["LAMINA_TEST_STEP"] = str(int(os.environ["LAMINA_TEST_STEP"]) + 1)
        return x + 1

    monkeypatch.setenv("LAMINA_TEST_STEP", "0")
    fast, _ = compiled_of(f)
    for step in (1, 2, 3):
        fast(torch.ones(2))
        assert os.environ["LAMINA_TEST_STEP"] == str(step)


class Countdown:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return self

    def __next__(self):
        self.n -= 1
        if self.n < 0:
            raise StopIteration
        return self.n


def test_breaks_in_loops_over_iterators_of_the_program():
    """The program's own iterator is rebuilt, and C's over it (`zip`, `enumerate`): the parts around the break are compiled."""
    layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(3))

    def f(x):
        for i, (layer, k) in enumerate(zip(layers, Countdown(5))):
            x = layer(x) * k
            graph_break()
            x = x + i
        return x

    fast, events = compiled_of(f)
    with torch.no_grad():
        same(fast(torch.ones(2, 3)), f(torch.ones(2, 3)))
    assert any(isinstance(e, Converted) for e in events)
