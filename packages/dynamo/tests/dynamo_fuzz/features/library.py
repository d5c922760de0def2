"""The standard library: itertools, functools, operator, math, random, copy, inspect, typing, warnings, logging, text; NumPy on tensors' arrays."""

import copy
import functools
import inspect
import itertools
import logging
import math
import operator
import random
import re
import string
import types
import typing
import warnings

import numpy as np
import torch
from lamina_dynamo import graph_break
from torch.utils import _pytree as pytree

from ..observe import breaking_print as print

LOG = []
CALLS = [0]
WATCHED = ("LOG", "CALLS")
logger = logging.getLogger("dynamo_fuzz")


@functools.lru_cache(maxsize=None)
def cached(n): LOG.append(n); return n * 2
@functools.cache
def cached_list(n): return [n]
@functools.singledispatch
def kind(v): return "object"
@kind.register
def _(v: int): return "int"
@kind.register(list)
def _(v): return ["list", *map(kind, v)]
@kind.register(torch.Tensor)
def _(v): return "tensor"
def signed(a, b=2, *args, c: int = 3, **kw) -> int: return a
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def __init__(self, v: T): self.v = v
    @functools.cached_property
    def heavy(self): LOG.append("heavy"); return self.v * 2
    @functools.singledispatchmethod
    def act(self, a): return "other"
    @act.register
    def _(self, a: int): return self.v + a
    part = functools.partialmethod(lambda self, a, b: (self.v, a, b), 5)


def itertools_infinite(x):
    return x, list(itertools.islice(itertools.count(3, 2), 4)), list(itertools.islice(itertools.cycle("ab"), 5)), list(itertools.repeat(x, 2)), [a for a, _ in zip(itertools.count(), "abc")]

def itertools_finite(x):
    return x, list(itertools.accumulate([1, 2, 3])), list(itertools.accumulate([1, 2, 3], lambda a, b: a * b, initial=10)), list(itertools.chain("ab", [1])), list(itertools.chain.from_iterable([[1], [2, 3]])), list(itertools.compress("abc", [1, 0, 1])), list(itertools.dropwhile(lambda v: v < 2, [1, 2, 1])), list(itertools.takewhile(lambda v: v < 2, [1, 2, 1])), list(itertools.filterfalse(lambda v: v % 2, range(5))), [(k, list(g)) for k, g in itertools.groupby([1, 1, 2], key=lambda v: v > 1)], list(itertools.starmap(lambda a, b: a + b, [(1, 2), (3, 4)])), list(itertools.zip_longest([1], [2, 3], fillvalue=0)), list(itertools.pairwise([1, 2, 3]))

def itertools_combinatoric(x):
    return x, list(itertools.product([1, 2], "ab")), list(itertools.product(range(2), repeat=2)), list(itertools.permutations([1, 2, 3], 2)), list(itertools.combinations("abc", 2)), list(itertools.combinations_with_replacement([1, 2], 2))

def itertools_live(x):
    c, y, r = itertools.count(5), itertools.cycle([1, x]), itertools.repeat(3); a, b = itertools.tee([1, 2, 3]); ch = itertools.chain([1, 2], [3]); ac = itertools.accumulate([1, 2, 3]); isl = itertools.islice(range(10), 2, 8, 2); g = itertools.groupby("aab"); p = itertools.product("ab", [1, 2]); z = itertools.zip_longest([1], [2, 3]); w = itertools.takewhile(lambda v: v < 9, [1, 2, 10])
    got = [next(c), next(y), next(r), next(a), next(ch), next(ac), next(isl), next(p), next(z), next(w)]
    print("break")
    return got, next(c), next(y), next(r), list(a), list(b), list(ch), list(ac), list(isl), list(p), list(z), list(w), next(g)[0]

def itertools_with_break(x):
    return list(map(lambda v: (print("m", v), v + x)[1], [1, 2])), list(itertools.accumulate([1, 2], lambda a, b: (print("acc"), a + b)[1])), [k for k, g in itertools.groupby([1, 2], key=lambda v: print("key") or v)]

def functools_partial(x):
    f = functools.partial(signed, 1, c=5); g = functools.partial(f, b=3); graph_break()
    return f(), g(), g.func is signed, g.args, g.keywords, Box(1).part(6), functools.partial(torch.add, x)(1)

def functools_reduce(x): return functools.reduce(operator.add, [x, x, 1]), functools.reduce(lambda a, b: a * b, [1, 2, 3], 10), functools.reduce(max, [3, 1]), functools.reduce(lambda a, b: (print("r"), a + b)[1], [1, 2, 3])

def functools_lru_cache(x):
    a = cached(3), cached(3), cached(4); graph_break()
    return a, cached(3), cached_list(1) is cached_list(1), x

def functools_lru_cache_in_frame(x):
    calls = []
    @functools.lru_cache
    def f(n): calls.append(n); return n if n < 2 else f(n - 1) + f(n - 2)
    return f(6), calls, x

def functools_singledispatch(x): return kind(1), kind([1, "a", x]), kind(x), kind("s"), kind(True), kind.dispatch(int) is not None, Box(3).act(2), Box(3).act("s")

def functools_cached_property(x):
    b = Box(x); a = b.heavy; graph_break(); c = b.heavy
    return a, a is c, "heavy" in vars(b)

def functools_cached_property_outside(x, b): return b.heavy + x, b.heavy is b.heavy

def functools_wraps(x):
    def deco(f):
        @functools.wraps(f)
        def w(*a, **k): return f(*a, **k)
        w.calls = 1; return w
    @deco
    def named(a): "the doc"; return a
    return named.__name__, named.__doc__, named.calls, named(x), functools.cmp_to_key(lambda a, b: b - a)(3) < functools.cmp_to_key(lambda a, b: b - a)(2), sorted([1, 3, 2], key=functools.cmp_to_key(lambda a, b: b - a))

def operators(x):
    return operator.add(1, 2), operator.itemgetter(1, 0)([5, 6]), operator.attrgetter("shape")(x), operator.methodcaller("sum")(x), operator.mul(x, 2), operator.contains([1], 1), operator.getitem({"a": 1}, "a"), operator.truth([]), operator.not_(0), operator.index(3), operator.iadd([1], [2]), operator.is_(x, x), operator.neg(3), operator.concat([1], [2]), operator.lt(1, 2), operator.floordiv(7, 2), operator.xor(5, 1), operator.indexOf([1, 2], 2), operator.countOf([1, 1], 1)

def math_functions(x):
    n = x.shape[0]
    return x * math.sqrt(n), math.ceil(2.1), math.floor(-2.1), math.gcd(12, 18), math.prod([2, 3]), math.log(8, 2), math.isnan(math.nan), math.inf > 5, math.comb(5, 2), math.fsum([0.1] * 3), math.isclose(0.1 + 0.2, 0.3), math.hypot(3, 4), math.modf(2.5), math.frexp(8.0), math.copysign(1, -0.0), round(2.567, 2), round(3.5), abs(-3), pow(2, 3, 5), divmod(7, -2), int(-2.7), hex(255), bin(5), oct(8), chr(97), ord("a"), float("1e3"), complex(1, 2) * 2, (7).bit_length(), (2.5).as_integer_ratio(), float("nan") != float("nan"), 7 // -2, 7 % -2, -7 // 2, 2**-1, 1e308 * 10, 3 & 5, ~3, 1 << 70

def random_numbers(x):
    a = random.random(); random.seed(3); b = random.randint(1, 9); l = [1, 2, 3]; random.shuffle(l); c = random.choice(l); r = random.Random(5); d = r.random(), random.uniform(0, 1), random.sample(range(10), 3)
    return x + a + b, l, c, d

def random_branch(x):
    if random.random() < 2: x = x + 1
    return x * (1 if random.random() > 0.5 else 2), torch.rand(2), torch.randint(0, 9, (3,)), torch.nn.functional.dropout(x, 0.5)

def copying(x):
    d = {"a": [1, x], "b": (1, [2])}; s = copy.copy(d); graph_break(); e = copy.deepcopy([1, {"q": [2]}]); e[1]["q"].append(3)
    return s["a"] is d["a"], e, copy.copy([1]) == [1], copy.copy({1}), d

def signatures(x):
    s = inspect.signature(signed); p = s.parameters["c"]; b = s.bind(1, 2, c=5)
    return list(s.parameters), p.default, p.kind.name, b.arguments, str(s), s.return_annotation, inspect.isfunction(signed), inspect.ismethod(signed), inspect.isclass(Box), "b" in inspect.signature(lambda a, b: 1).parameters, x, inspect.getfullargspec(signed).args

def logging_calls(x):
    logger.debug("hidden %s", x.shape[0]); logger.info("also"); y = x + 1; a = logger.isEnabledFor(logging.DEBUG)
    return y, a, logger.name

def warnings_calls(x):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always"); warnings.warn("careful", UserWarning); y = x + 1
    return y, len(w), str(w[0].message), w[0].category.__name__

def typing_things(x):
    y = typing.cast(int, x); o: typing.Optional[int] = None; l: "list[int]" = [1]
    return y, o, l, typing.TYPE_CHECKING, Box[int](3).v, typing.get_type_hints(signed), list[int] is not None, int | None, isinstance(1, int | str), typing.get_origin(list[int]), typing.get_args(dict[str, int])

def types_things(x):
    n = types.SimpleNamespace(a=1, b=x); n.c = n.a + 1; graph_break(); n.a = 5
    m = types.MappingProxyType({"a": 1}); f = types.MethodType(lambda self, k: (self, k), 3)
    return n, m["a"], list(m), f(4), isinstance(signed, types.FunctionType), types.NoneType, x

def strings(x):
    s = "Hello, World"; n = x.shape[0]
    return s.lower(), s.upper(), s.split(", "), "-".join(["a", "b"]), s.replace("l", "L", 1), s.startswith(("He", "x")), s.endswith("d"), s.find("o"), s.rfind("o"), s.count("l"), s.strip("Hd"), s.center(20, "*"), s.ljust(15), s.zfill(15), s.title(), s.swapcase(), s.partition(","), s.rpartition("o"), s.splitlines(), s.isalpha(), "12".isdigit(), s[::-1], s[1:4], "l" in s, s * 2, s.encode(), s.index("W"), "a\tb".expandtabs(4), "ß".casefold(), "abc".translate(str.maketrans("ab", "xy")), s.removeprefix("He"), s.removesuffix("ld"), "x".join(map(str, range(n))), s.format(), sorted(s)[:3], s.rsplit(" ", 1), list(s)[:2], "a" < "b", s.istitle(), max(s), "é".encode("utf8"), b"q".decode()

def formatting(x):
    n, f, w = x.shape[0], math.pi, 8
    return f"{n}", f"{f:.3f}", f"{n:>5}|{n:<5}|{n:^5}", f"{n:05d}", f"{f:{w}.2f}", f"{'a'!r:>6}", f"{n=}", "{}", f"{1e9:,.2f}", f"{255:#x} {5:b}", f"{[1, n]} {{'a': n}}", "{} {k} {0[0]}".format([1], k=3) if False else "{0[0]} {k}".format([1], k=3), "%s %5.2f %(a)s" % {"a": 1} if False else "%(a)s" % {"a": 1}, "%s %5.2f %r" % (n, f, "q"), "%d%%" % 5, str(n), repr("q"), ascii("é"), format(f, "e"), f"{None} {True} {x.dtype} {x.device} {x.shape}", f"{n!s}" f"{f!r}", string.Template("$a b").substitute(a=n), str([1, (2, "x")]), str({"a": {1}})

def format_tensor(x):
    a = f"{x.sum()}"; b = str(x); c = "{}".format(x[0]); d = "%s" % x.mean(); print(x)
    return a, b, c, d, repr(x + 1)

def regular_expressions(x):
    m = re.match(r"(\w+)-(?P<n>\d+)", "ab-12"); p = re.compile("[aeiou]"); graph_break()
    return m.group(1), m["n"], m.groupdict(), p.sub("*", "hello"), p.findall("education"), re.split(",", "a,b"), bool(re.search("z", "abc")), [q.start() for q in p.finditer("hello")], x, re.sub("l", lambda g: g.group(0).upper(), "hello")

def pytrees(x):
    t = {"a": [x, 1], "b": (2, {"c": x})}; leaves, spec = pytree.tree_flatten(t); graph_break(); u = pytree.tree_unflatten([v * 2 for v in leaves], spec)
    return u, pytree.tree_map(lambda v: v + 1, t), len(leaves), pytree.tree_leaves([1, (2, 3)])

def builtin_functions(x):
    return bool([]), int("5"), float(3), str(5), list("ab"), tuple([1]), dict(a=1), set([1, 1]), frozenset([2]), isinstance(1, int), len("abc"), sum([1, 2], 10), min(3, 1), max([1, 4]), abs(-1), all([1, 0]), any([0, 1]), enumerate, list(range(0, 10, 3)), sorted([2, 1]), list(reversed([1, 2])), zip, hash("a") == hash("a"), id(x) == id(x), callable(len), type(5), getattr(5, "real"), divmod(9, 4), pow(2, 5), round(1.5), slice(1, 2), object() is None, iter([]) is None, next(iter([7])), ascii(1), int.from_bytes(b"\x01", "big"), (5).to_bytes(1, "big"), bool("x"), print() is None, complex("1+2j"), bytes(2), issubclass(bool, int), x

def eval_and_exec(x): return eval("1 + 2"), eval("a + 1", {"a": 5}), x

def local_names(x):
    a = 1; l = locals(); b = sorted(l)
    return b, l["a"], x, "LOG" in globals()

def imports_in_function(x):
    import math as m
    from collections import deque as dq
    import torch.nn.functional as F
    return m.pi, dq([1]), F.relu(x)

def numpy_on_arrays(x):
    a = x.detach().numpy(); b = np.abs(a) + a.max(); c = torch.from_numpy(np.ascontiguousarray(b)); d = np.concatenate([a, a]); e = a.reshape(-1)[:2].copy()
    return c, d.shape, d.dtype, e, torch.as_tensor(e) + 1, np.asarray([1, 2]).sum(), np.float32(2.5) * 2, np.array(x.detach()), (a > 0).any()

def numpy_shares_memory(x):
    y = x.clone(); a = y.numpy(); a += 1; a[0] = 7; z = torch.from_numpy(a); z.mul_(2); graph_break(); a *= 3
    return y, z, a

def numpy_argument(x, a):
    b = a + 1; t = torch.from_numpy(a) * x.sum(); a[0] = 5; graph_break(); s = np.stack([a, b])
    return t, s, a.shape, a.dtype.name, len(a), a.T, a[1:], float(a[0]), a.tolist()

def numpy_constants(x): return x * np.pi, x + np.float64(2), np.prod([2, 3]), int(np.prod(x.shape)), np.arange(3), np.int64(3) + 1, x[np.int64(0)], np.sqrt(2.0), np.inf

def tensor_conversions(x): return x.tolist(), x.sum().item(), float(x.sum()), int(x.abs().sum()), bool(x.sum() > 0), x.numel(), len(x), list(x), [t for t in x], x[0].sum().item() + 1, x.shape[0] * 2, tuple(x.shape), list(x.size()), x.max().item()

def tensor_data_dependent(x): return x[x > 0], torch.nonzero(x), x.unique(), torch.masked_select(x, x < 1), torch.arange(int(x.abs().max())), x.argmax().item(), torch.bincount(x.abs().long().reshape(-1))

def tensor_mutation(x):
    y = x.clone(); v = y.view(-1); v[0] = 9; y[..., -1] = 0; y.relu_(); graph_break(); y.copy_(x); w = y.t() if y.dim() == 2 else y; w.add_(1); torch.add(x, 1, out=y); y.fill_(3); y.zero_(); y += x; z = y; z *= 2; y[y > 3] = -1
    return y, v, w, z is y

def tensor_attributes(x, t):
    t.tag = "mine"; t.extra = [1]; a = t.tag; graph_break(); t.extra.append(2); y = t + 1; y.note = a
    return y.note, hasattr(y, "tag"), t.shape, t.dtype, t.device.type, t.requires_grad, t.ndim, t.is_leaf, t.grad, t.layout, t.stride(), t.is_contiguous(), x

def tensor_grad(x):
    w = x.clone().requires_grad_(); y = (w * w).sum(); y.backward(); g = w.grad; a = torch.autograd.grad((w * 3).sum(), w)[0]
    return g, a, y, w.grad is g

def tensor_hook(x):
    w = x.clone().requires_grad_(); w.register_hook(lambda g: g * 10); (w * 2).sum().backward()
    return w.grad

def tensor_comparisons(x): return x == x, (x == 1).sum(), x is x, torch.equal(x, x), x in [x], torch.allclose(x, x), x.eq(1).any(), (x < 2) & (x > 0), ~(x > 0), x != 3

def tensor_from_python(x): return torch.tensor([1, 2]), torch.tensor([[1.0, x.shape[0]]]), torch.as_tensor(3), torch.full((2,), 3.0), torch.tensor(x.shape), torch.stack([torch.tensor(i) for i in range(3)]), torch.zeros(x.shape), x.new_zeros(2), torch.ones_like(x), torch.empty(0), torch.eye(2), torch.linspace(0, 1, 3)

def tensor_index_kinds(x):
    i = torch.tensor([0, 1])
    return x[0], x[-1], x[..., 0], x[None], x[0:1], x[i], x[[0, 1]], x[(0,)], x[x.shape[0] - 1], x[torch.tensor(True)], x[::2], x[i > 0]

def devices_and_dtypes(x):
    d = x.device; graph_break()
    return x.to(torch.float64), x.to("cpu"), x.type(torch.int32), x.double().dtype == torch.float64, torch.finfo(x.dtype).eps, torch.iinfo(torch.int8).max, str(d), torch.device("cpu") == d, x.dtype.is_floating_point, torch.promote_types(torch.int32, torch.float32), torch.get_default_dtype(), x.half().float(), x.long(), torch.result_type(x, 1)


ARGS = {"functools_cached_property_outside": lambda x: (x, Box(x)), "numpy_argument": lambda x: (x, np.arange(4.0)), "tensor_attributes": lambda x: (x, x + 1)}
