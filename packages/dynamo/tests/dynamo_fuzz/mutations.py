"""Guard mutation fuzzer: between two calls one thing that the program could see changes; compiled code must follow eager.

How:     a random program reads and writes some places of a small world (modules, objects, globals, closures, classes, containers,
         tensors, flags); a random slot of that world, found by walking it, gets another value or comes to share the object of
         another slot; the calls before and after are compared.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lamina_dynamo.runtime import Options, compile_callable, reset
from torch import nn

from .observe import observe
from .programs import forget, module_of

__all__ = ["Case", "run_case", "run_many"]

WORLD = '''\
import collections, dataclasses, enum, functools, inspect, math, operator, types, torch
from torch import nn
from torch.nn import functional as F
SCALE, NAME, TABLE, ITEMS, EMPTY = 2, "a", {"k": 3, "list": [1, 2], "t": torch.ones(2)}, [1, 2.5, "s"], None
TAGS, PAIR, QUEUE = {1, 2}, (1, [2]), collections.deque([1, 2])
COUNTS = collections.defaultdict(int, q=4)
class Color(enum.Enum):
    RED, BLUE = 1, 2
@dataclasses.dataclass
class Point:
    a: int = 1
    b: object = 2
@dataclasses.dataclass(frozen=True)
class Key:
    n: int = 1
class Asked:
    def __init__(self): self.v = 1
    def __index__(self): return self.v
    def __lt__(self, o): return self.v < o.v
    def __iter__(self): return iter([self.v, SCALE])
    def __repr__(self): return f"Asked({self.v})"
first, second, key, BY_KEY = Asked(), Asked(), Key(), {Key(1): "one", Key(2): "two"}
class Base:
    rate, weights = 0.5, [1, 2]
    def __init__(self): self.mode, self.sizes, self.nested, self.point, self.color, self.flag = "a", (1, 2), {"deep": [5]}, Point(), Color.RED, True
    @property
    def doubled(self): return self.rate * 2
    def method(self, k=3): return k + 1
    @classmethod
    def create(cls): return cls.rate
    @staticmethod
    def plain(v): return v + 2
class Config(Base):
    def method(self, k=3): return super().method(k) * 2
    def __getattr__(self, name):
        if name == "dynamic": return 7
        raise AttributeError(name)
class Slotted:
    __slots__ = ("p", "q")
    def __init__(self): self.p = 1
class Named(collections.namedtuple("Named", "u v")):
    def total(self): return self.u + self.v
def helper(x, bonus=1, *, extra=2): return x * SCALE + bonus + extra
def make():
    cell, hidden = 4, [1]
    def closed(v): return v + cell + len(hidden)
    return closed
closed = make()
partial = functools.partial(helper, bonus=5)
space = types.SimpleNamespace(w=1, z=[1])
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.act, self.drop, self.norm = nn.Linear(2, 2), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Tanh()]); self.named = nn.ModuleDict({"m": nn.Sigmoid()}); self.seq = nn.Sequential(nn.ReLU(), nn.Tanh())
        self.register_buffer("shift", torch.ones(2)); self.scale = nn.Parameter(torch.ones(2)); self.plain, self.config, self.limit = [torch.ones(2)], Config(), 3
    def part(self, x): return x * self.limit
    def forward(self, x): return self.act(self.lin(x)) + self.shift
net, config, slotted, named = Net(), Config(), Slotted(), Named(1, 2)
other, MORE, SPARE, net.config.point = Config(), [3, "t"], {"k": 4, "u": [2]}, config.point
def counter(start):
    def bump():
        nonlocal start
        start += 1
        return start
    return bump, lambda: start
bump, count = counter(1)
bump_other, count_other = counter(5)
class Meta(type): pass
class Mixin: side = 1
class Kind(Mixin, metaclass=Meta):
    def total(self): return super().side + 1
class Odd(Kind):
    def total(self): return super().total() * 10
    def __len__(self): return 2
class Got:
    def __get__(self, obj, owner): return 50
kind, odd, ORDERED, flow, flow_other = Kind(), Odd(), collections.OrderedDict(a=1, b=2), iter([1, 2, 3, 4, 5, 6]), iter([7, 8, 9])
'''

READS = (
    "SCALE", "len(NAME)", "TABLE['k']", "TABLE['t']", "len(TABLE)", "sum(TABLE['list'])", "ITEMS[0]", "ITEMS[-1] == 's'", "len(ITEMS)", "EMPTY is None", "1 in TAGS", "len(TAGS)", "PAIR[0]", "PAIR[1][0]", "QUEUE[0]", "len(QUEUE)", "COUNTS['q']", "COUNTS.get('nope', 2)",
    "sorted(map(str, TABLE))[0] == 'k'", "Color.RED is config.color", "config.color.value", "config.point.a", "config.point == Point(1, 2)", "config.rate", "Base.rate", "config.weights[0]", "len(config.mode)", "config.mode == 'a'", "sum(config.sizes)", "config.nested['deep'][0]", "config.doubled", "config.method()",
    "config.method(1)", "Config.create()", "config.plain(1)", "config.dynamic", "hasattr(config, 'nope')", "getattr(config, 'late', 5)", "config.flag and 2", "isinstance(config, Base)", "type(config) is Config", "slotted.p", "hasattr(slotted, 'q')", "named.u", "named.total()", "helper(1)", "helper(1, extra=3)", "closed(1)",
    "partial(2)", "space.w", "len(space.z)", "net(x)", "net.act(x)", "net.lin(x)", "net.lin.weight", "net.drop(x)", "net.norm(x)", "net.blocks[0](x)", "len(net.blocks)", "net.named['m'](x)", "net.seq(x)", "net.shift", "net.scale", "net.plain[0]", "net.part(x)", "net.limit", "net.training", "net.config.doubled", "net.lin.bias is None",
    "sum(p.numel() for p in net.parameters())", "[m.training for m in net.modules()].count(True)", "x.requires_grad", "x.shape[0]", "x.dtype == torch.float32", "torch.is_grad_enabled()", "x.stride()[0]", "arg", "len(opts)", "opts['o']", "sum(opts.get('l', ()))", "x.is_contiguous()", "(x * 2).dtype == torch.get_default_dtype()", "config.__class__.__name__ == 'Config'",
    "other.rate", "other.point.a", "other.nested['deep'][-1]", "len(other.weights)", "MORE[0]", "len(MORE)", "SPARE['k']", "len(SPARE)", "count()", "count_other()", "net.config.point.a", "other.point is config.point", "MORE is ITEMS",
    "config.late", "net.late", "net.lin.late", "x.tag", "hasattr(x, 'tag')", "getattr(net.scale, 'tag', 3)", "slotted.q", "TABLE['zz']", "TABLE.get('zz')", "'zz' in TABLE", "opts['zz']", "LATE", "Color(1).late", "closed.late", "helper.late", "config.point.late", "named.late", "Base.late", "space.late", "partial.late",
    "ITEMS[4]", "ITEMS.index('s')", "MORE[2:]", "QUEUE[-1]", "COUNTS['zz']", "dict(COUNTS)", "list(TAGS)", "sorted(TAGS)", "PAIR + (1,)", "{**TABLE}['k']", "[*ITEMS][0]", "(lambda a, *b: len(b))(*ITEMS)", "config == other", "config.point != other.point", "hash(Color.RED) == hash(config.color)", "id(config) == id(other)", "config in [other]",
    "any(config.point is p for p in (other.point, net.config.point))", "isinstance(config.point, Point)", "issubclass(type(config), Base)", "callable(config.method)", "config.method.__func__ is Config.method", "[k for k in vars(config)][0]", "net.state_dict().keys() == other", "list(dict(net.named_buffers()))", "net.get_submodule('lin').in_features",
    "[type(m).__name__ for m in net.blocks].count('Tanh')", "any(v == 2 for v in ITEMS)", "max(COUNTS.values())", "next(iter(TABLE)) == 'k'", "'late' in vars(config)", "config.nested.get('deep') == [5]", "len(net._forward_hooks)", "callable(EMPTY)", "list(opts) == ['o', 'l']", "(arg, SCALE) == (2, 2)",
    "kind.total()", "odd.total()", "isinstance(odd, Mixin)", "issubclass(Odd, Kind)", "Odd.__mro__[1].__name__", "Kind.late", "hasattr(Kind, 'late')", "Kind.side", "odd.side", "len(odd)", "bool(odd)", "list(ORDERED)", "next(iter(ORDERED))", "next(flow)", "next(flow_other, 0)", "[next(flow, 0), next(flow_other, 0)]",
    "helper.__defaults__", "helper.__name__", "helper.__kwdefaults__['extra']", "len(vars(helper))", "'side' in vars(Mixin)", "type(odd).__name__", "F.relu(x)", "odd == kind", "odd in [kind]", "repr(config.point)", "[config.point] == [other.point]", "(config.point, 1) != (other.point, 1)", "operator.attrgetter('point.a')(config)", "operator.itemgetter(0)(ITEMS)", "inspect.signature(helper)", "len(inspect.signature(config.method).parameters)", "dir(config)[-1]", "callable(odd)",
    "ITEMS[first]", "list(range(first))", "math.gcd(first, 6)", "hex(first)", "sorted([second, first])[0].v", "(first, 1) < (second, 2)", "max(first, second).v", "list(first)", "dict(zip('ab', first))", "sum(first)", "repr([first])", "'%s' % first", "f'{first!r:>9}'", "BY_KEY[key]", "key in BY_KEY", "len({key, Key(2)})",
    "'LATE' in globals()", "'{0.rate}'.format(config)", "dataclasses.fields(Point)[0].name", "dataclasses.asdict(config.point)['a']", "min(ITEMS[:2], key=lambda v: v * config.rate)", "list(map(config.method, [1, 2]))", "list(filter(None, [config.flag, 1]))", "functools.reduce(lambda a, b: a + b * SCALE, [1, 2])",
    "2 in MORE", "str(arg) == '2'", "f'{SCALE}:{arg}' == '2:2'",
)  # fmt: skip


WRITES = (
    "ITEMS.append(SCALE)", "MORE.append(arg)", "TABLE['k'] = 8", "SPARE['k'] += 1", "SPARE.pop('u', None)", "config.rate = 2.5", "other.rate = 0.25", "config.point.a += 1", "other.point.a = 7", "net.config.point.a -= 1", "config.nested['deep'].append(6)", "other.nested['deep'][0] = 9", "del config.flag",
    "net.limit += 1", "net.plain.append(x)", "net.shift.add_(1)", "net.blocks[0].extra = 3", "COUNTS['q'] += 1", "QUEUE.append(4)", "TAGS.add(len(TAGS))", "bump()", "bump_other()", "opts['l'].append(3)", "slotted.p += 1", "Config.weights = [5]", "config.weights.append(arg)", "other.weights.append(0)", "x.tag = arg",
)  # fmt: skip


class Slot(NamedTuple):
    """A place that holds a value."""

    where: str
    value: Any
    store: Callable[[Any], None]


def slots_of(root: Any, name: str, limit: int = 400) -> Iterator[Slot]:
    """Every place reachable from an object of the program."""
    seen: set[int] = set()
    queue: list[tuple[str, Any]] = [(name, root)]
    while queue and limit > 0:
        where, v = queue.pop(0)
        if id(v) in seen or isinstance(v, (str, int, float, bytes, type(None))):
            continue
        seen.add(id(v))
        for slot in _places(where, v):
            limit -= 1
            yield slot
            queue.append((slot.where, slot.value))


def _places(where: str, v: Any) -> Iterator[Slot]:
    if isinstance(v, dict):
        for k in list(v):
            if not (isinstance(k, str) and k.startswith("__")):
                yield Slot(f"{where}[{k!r}]", v[k], lambda x, k=k: v.__setitem__(k, x))
    elif isinstance(v, list):
        for i, x in enumerate(v):
            yield Slot(f"{where}[{i}]", x, lambda x, i=i: v.__setitem__(i, x))
    elif isinstance(v, types.FunctionType):
        if v.__defaults__:
            yield Slot(f"{where}.__defaults__", v.__defaults__, lambda x: setattr(v, "__defaults__", x if isinstance(x, tuple) else (x,)))
        for i, c in enumerate(v.__closure__ or ()):
            yield Slot(f"{where} cell {i}", c.cell_contents, lambda x, c=c: setattr(c, "cell_contents", x))
        if v.__kwdefaults__:
            yield from _places(f"{where}.__kwdefaults__", v.__kwdefaults__)
    elif isinstance(v, type):
        if v.__module__.startswith("generated"):
            for k, x in list(vars(v).items()):
                if not k.startswith("_") and not isinstance(x, (types.MemberDescriptorType,)) and "Color" not in where:
                    yield Slot(f"{where}.{k}", x, lambda x, k=k: setattr(v, k, x))
    elif isinstance(v, torch.Tensor) or isinstance(v, types.ModuleType):
        return
    elif hasattr(v, "__dict__") and not isinstance(v, (types.BuiltinFunctionType, property, staticmethod, classmethod)):
        for k, x in list(vars(v).items()):
            if k not in ("_is_full_backward_hook", "_non_persistent_buffers_set"):
                yield Slot(f"{where}.{k}", x, lambda x, k=k: v.__dict__.__setitem__(k, x))
    for s in getattr(type(v), "__slots__", ()) if "generated" in type(v).__module__ and not isinstance(v, tuple) else ():
        if hasattr(v, s):
            yield Slot(f"{where}.{s}", getattr(v, s), lambda x, s=s: setattr(v, s, x))


def other_value(rng: random.Random, v: Any) -> Any:
    """Something else: another value of the type, or another type."""
    if isinstance(v, bool):
        return not v
    if isinstance(v, int):
        return rng.choice([v + 1, v + 5, -v - 1, float(v), bool(v)])
    if isinstance(v, float):
        return rng.choice([v + 1.0, -v, int(v)])
    if isinstance(v, str):
        return rng.choice([v + "b", v.upper(), "zz"])
    if isinstance(v, nn.Parameter):
        return rng.choice([nn.Parameter(v.detach() * 3), nn.Parameter(v.detach().clone(), requires_grad=not v.requires_grad)])
    if isinstance(v, torch.Tensor):
        return rng.choice([v * 3, v.double(), v.clone().requires_grad_() if v.is_floating_point() else v + 1, v.expand(2, *v.shape).clone()])
    if isinstance(v, tuple) and type(v) is tuple:
        return rng.choice([(*v, 4), v[1:], tuple(other_value(rng, x) for x in v)])
    if type(v) is list:
        return rng.choice([[*v, 9], v[1:], v[::-1], list(v)])
    if type(v) is dict:
        return rng.choice([dict(list(v.items())[::-1]), {**v, "new": 1}, dict(list(v.items())[1:]), dict(v)])
    if isinstance(v, set):
        return rng.choice([v | {9}, set(list(v)[1:])])
    if isinstance(v, nn.Module):
        return rng.choice([nn.Sigmoid(), nn.Identity(), nn.Tanh(), nn.ReLU()])
    if isinstance(v, types.FunctionType):
        return rng.choice([lambda *a, **k: 11, lambda *a, **k: 12])
    if isinstance(v, property):
        return rng.choice([property(lambda self: 50), 60])
    if isinstance(v, (classmethod, staticmethod)):
        return staticmethod(lambda *a: 70)
    return rng.choice([5, None, "other"])


def _special(rng: random.Random, world: Any, call: dict[str, Any]) -> tuple[str, Callable[[], Any]]:
    """A change that is no store to a slot."""
    net, config, x = world.net, world.config, call["x"]
    return rng.choice([
        ("eval", net.eval), ("train", net.train), ("submodule eval", lambda: net.drop.eval()), ("double", net.double), ("forward hook", lambda: net.act.register_forward_hook(lambda m, a, o: o + 1)), ("pre hook", lambda: net.lin.register_forward_pre_hook(lambda m, a: (a[0] * 2,))),
        ("hook on the model", lambda: net.register_forward_hook(lambda m, a, o: o * 2)), ("weight in place", lambda: net.lin.weight.data.mul_(2)), ("buffer in place", lambda: net.shift.add_(1)), ("requires_grad off", lambda: net.lin.weight.requires_grad_(False)), ("bias dropped", lambda: setattr(net.lin, "bias", None)),
        ("block appended", lambda: net.blocks.append(nn.ReLU())), ("block removed", lambda: net.blocks.__delitem__(0)), ("module on instance", lambda: setattr(net, "act", nn.Softplus())), ("method on instance", lambda: setattr(net, "part", lambda x: x - 1)), ("forward on instance", lambda: setattr(net.act, "forward", lambda x: x * 5)),
        ("class of instance", lambda: setattr(config, "__class__", world.Base)), ("class of module", lambda: setattr(net.act, "__class__", nn.Tanh)), ("attribute added", lambda: setattr(config, "late", 8)), ("attribute over class", lambda: setattr(config, "rate", 9.0)), ("attribute removed", lambda: delattr(config, "mode")),
        ("method on config", lambda: setattr(config, "method", lambda k=0: 21)), ("slot set", lambda: setattr(world.slotted, "q", 1)), ("slot deleted", lambda: delattr(world.slotted, "p")), ("code", lambda: setattr(world.helper, "__code__", (lambda x, bonus=1, *, extra=2: x * 7).__code__)), ("global deleted", lambda: world.__dict__.pop("EMPTY")),
        ("builtin shadowed", lambda: setattr(world, "len", lambda v: 77)), ("set grows", lambda: world.TAGS.add(9)), ("set shrinks", lambda: world.TAGS.discard(1)), ("deque", lambda: world.QUEUE.appendleft(8)), ("dict reordered", lambda: world.TABLE.__setitem__("k", world.TABLE.pop("k"))), ("dict grows", lambda: world.TABLE.__setitem__("z", 1)),
        ("list in place", lambda: world.ITEMS.insert(0, 8)), ("class method added", lambda: setattr(world.Config, "nope", 1)), ("base attribute", lambda: setattr(world.Base, "dynamic", 99)), ("class attribute over base", lambda: setattr(world.Config, "rate", 3.5)), ("getattr hook", lambda: setattr(world.Config, "__getattr__", lambda self, n: 31)),
        ("getattribute", lambda: setattr(world.Config, "__getattribute__", lambda self, n: 41 if n == "mode" else object.__getattribute__(self, n))), ("call of a class", lambda: setattr(world.Net, "__call__", lambda self, x: x * 6)), ("eq of a class", lambda: setattr(world.Point, "__eq__", lambda a, b: False)), ("partial keywords", lambda: world.partial.keywords.update(bonus=50)),
        ("grad mode", lambda: call.__setitem__("grad", False)), ("x double", lambda: call.__setitem__("x", x.double())), ("x transposed", lambda: call.__setitem__("x", torch.linspace(-2, 1, 6).reshape(2, 3).t())), ("x grad", lambda: call.__setitem__("x", x.clone().requires_grad_())), ("x rows", lambda: call.__setitem__("x", torch.linspace(-3, 2, 10).reshape(5, 2))),
        ("argument", lambda: call.__setitem__("arg", rng.choice([3, 2.0, True, -1, "2"]))), ("keyword dict", lambda: call["opts"].update(o=9)), ("keyword list", lambda: call["opts"]["l"].append(1)), ("keyword order", lambda: call.__setitem__("opts", dict(reversed(call["opts"].items())))), ("keyword missing", lambda: call["opts"].pop("l")),
        ("default dtype", lambda: call.__setitem__("dtype", torch.float64)), ("momentum", lambda: setattr(net.norm, "momentum", 0.9)), ("dropout rate", lambda: setattr(net.drop, "p", 0.9)), ("parameter shared", lambda: setattr(net.blocks[0], "weight", net.lin.weight)), ("enum value", lambda: setattr(config, "color", world.Color.BLUE)),
        ("module forward of class", lambda: setattr(world.Net, "forward", lambda self, x: x + 100)), ("mro", lambda: setattr(world.Config, "__bases__", (type("Other", (world.Base,), {"method": lambda self, k=3: 55}),))), ("attribute on class of a block", lambda: setattr(net.blocks[0], "extra", 1)), ("tag on x", lambda: setattr(call["x"], "tag", 4)), ("tag on a parameter", lambda: setattr(net.scale, "tag", 4)), ("global added", lambda: setattr(world, "LATE", 3)), ("key added", lambda: world.TABLE.__setitem__("zz", 2)), ("keyword added", lambda: call["opts"].update(zz=2)),
        ("late on a class", lambda: setattr(rng.choice([world.Config, world.Net, world.Base, world.Point, world.Named, world.Color]), "late", 6)), ("late on a function", lambda: setattr(rng.choice([world.helper, world.closed, world.partial, world.space]), "late", 6)), ("late on a module", lambda: setattr(rng.choice([net, net.lin]), "late", 6)),
        ("late parameter", lambda: setattr(net, "late", nn.Parameter(torch.ones(2)))), ("late buffer", lambda: net.lin.register_buffer("late", torch.zeros(1))), ("global hook", lambda: call.__setitem__("hook", True)),
        ("bases", lambda: setattr(rng.choice([world.Odd, world.Kind]), "__bases__", (type(world.Kind)("New", (world.Mixin,), {"total": lambda self: 40}),))), ("method between", lambda: setattr(rng.choice([world.Kind, world.Mixin]), "total", lambda self: 60)), ("method gone", lambda: delattr(rng.choice([world.Odd, world.Kind]), "total")),
        ("on a metaclass", lambda: setattr(world.Meta, rng.choice(["late", "side"]), rng.choice([8, property(lambda cls: 9)]))), ("getattr of a metaclass", lambda: setattr(world.Meta, "__getattr__", lambda cls, name: 61)), ("getattribute of a metaclass", lambda: setattr(world.Meta, "__getattribute__", lambda cls, name: 62 if name == "side" else type.__getattribute__(cls, name))),
        ("descriptor", lambda: setattr(rng.choice([world.Mixin, world.Odd]), "side", world.Got())), ("descriptor turns into data", lambda: setattr(world.Got, "__set__", lambda self, obj, value: None)), ("instance over class", lambda: setattr(world.odd, "side", 5)), ("length", lambda: setattr(world.Odd, "__len__", lambda self: 0)), ("index", lambda: setattr(rng.choice([world.first, world.second]), "v", rng.choice([0, 2]))), ("order of a class", lambda: setattr(world.Asked, "__lt__", lambda a, b: a.v > b.v)), ("iteration", lambda: setattr(world.Asked, "__iter__", lambda a: iter([9]))), ("key", lambda: setattr(world, "key", world.Key(2))), ("text of a class", lambda: setattr(world.Asked, "__repr__", lambda a: "other")),
        ("truth", lambda: setattr(world.Odd, "__bool__", lambda self: False)), ("equality", lambda: setattr(world.Kind, "__eq__", lambda a, b: True)),
        ("order", lambda: world.ORDERED.move_to_end("a", last=rng.random() < 0.7)), ("iterators shared", lambda: setattr(world, "flow_other", world.flow)), ("iterator advanced", lambda: next(world.flow)), ("iterator replaced", lambda: setattr(world, "flow", iter([4, 5]))), ("name of a class", lambda: setattr(world.Odd, "__name__", "Even")), ("name of a function", lambda: setattr(world.helper, "__name__", "other")),
        ("keyword defaults", lambda: setattr(world.helper, "__kwdefaults__", {"extra": 9})), ("hooks reordered", lambda: net.act._forward_hooks.move_to_end(next(iter(net.act._forward_hooks)))), ("contains", lambda: setattr(world.Odd, "__contains__", lambda self, v: True)), ("patched torch", lambda: call.__setitem__("relu", lambda x, inplace=False: x * 9)),
    ])  # fmt: skip


_SINGLE = (bool, int, float, str, type(None), type)  # that two places share one of these, no program sees


class Case(NamedTuple):
    """Outcome of one case: the program, what changed, what differed."""

    text: str
    changes: tuple[str, ...]
    difference: str | None


def _call(fn: Any, call: dict[str, Any], world: Any) -> Any:
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, o: o * 1.5) if call["hook"] else None
    dtype = torch.get_default_dtype()
    relu, nn.functional.relu = nn.functional.relu, call["relu"] or nn.functional.relu
    torch.set_default_dtype(call["dtype"])
    try:
        with torch.set_grad_enabled(call["grad"]):
            return observe(fn, (call["x"], call["arg"], call["opts"])).without_frames()
    finally:
        torch.set_default_dtype(dtype)
        nn.functional.relu = relu
        if handle is not None:
            handle.remove()


def run_case(seed: int, changes: int = 4) -> Case:
    """A program, called, changed and called again `changes` times, eager and compiled on worlds of their own that change alike."""
    rng = random.Random(seed)
    reads = rng.sample(READS, rng.randint(2, 8))
    wrapped = [f"read(lambda: {r})" if rng.random() < 0.3 else r for r in reads]
    writes = ["", *(f"    try: {w}\n    except Exception as e: print(e)\n" for w in rng.sample(WRITES, rng.randint(0, 3)))]
    text = WORLD + "def read(f):\n    try: return f()\n    except Exception as e: return type(e).__name__, str(e)\ndef program(x, arg, opts):\n" + "".join(f"    r{i} = {r}\n" for i, r in enumerate(wrapped)) + f"    return {', '.join(f'r{i}' for i in range(len(reads)))},\n"
    sides, notes = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        world = module_of(text)
        call = {"x": torch.linspace(-1, 1, 6).reshape(3, 2), "arg": 2, "opts": {"o": 1, "l": [1, 2]}, "grad": True, "dtype": torch.float32, "hook": False, "relu": None}
        fn = compile_callable(world.program, Options(lambda gm, example_inputs: gm.forward, recompile_limit=64)) if compiled else world.program
        sides.append((world, call, fn, random.Random(seed + 1)))
    try:
        for step in range(changes + 1):
            seen = []
            for world, call, fn, side_rng in sides:
                if step:
                    notes.append(_change(side_rng, world, call))
                try:
                    seen += [_call(fn, call, world), _call(fn, call, world)]
                except Exception as e:
                    return Case(text, tuple(notes), f"crash: {type(e).__name__}: {e}")
            if seen[:2] != seen[2:]:
                i = 0 if seen[0] != seen[2] else 1
                return Case(text, tuple(notes[::2]), f"step {step}: {seen[i].difference(seen[i + 2])}")
    finally:
        reset()
        for world, *_ in sides:
            forget(world)
    return Case(text, tuple(notes[::2]), None)


def _change(rng: random.Random, world: Any, call: dict[str, Any]) -> str:
    """Change one thing; says what."""
    for _ in range(20):
        try:
            if rng.random() < 0.5:
                what, change = _special(rng, world, call)
                change()
                return what
            found = list(slots_of({k: v for k, v in vars(world).items() if not isinstance(v, types.ModuleType) and k not in ("program", "read", "make")}, "G"))
            slot = rng.choice(found)
            alike = [s for s in found if type(s.value) is type(slot.value) and s.value is not slot.value and not isinstance(s.value, _SINGLE)]
            new = rng.choice(alike).value if alike and rng.random() < 0.6 else other_value(rng, slot.value)
            if slot.where.count("[") == 1 and slot.where.startswith("G["):
                setattr(world, slot.where[3:-2], new)
            else:
                slot.store(new)
            return f"{slot.where} = {str(new)[:40]}"
        except (AttributeError, TypeError, KeyError, IndexError, RuntimeError, ValueError, StopIteration):
            continue
    return "nothing"


def run_many(count: int, seed: int, report: Callable[[Case], None]) -> tuple[int, int]:
    """Make at least `count` changes, cases numbered from `seed` on; -> (how many were made, the next seed)."""
    made = 0
    while made < count:
        case = run_case(seed)
        seed += 1
        made += max(len(case.changes), 1)
        if case.difference is not None:
            report(case)
    return made, seed
