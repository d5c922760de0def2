"""Minimal programs for what the fuzzers found; each is called with inputs that the first entry must not serve wrongly."""

import functools
import itertools
import pathlib
import re
import sys
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from dynamo_fuzz import breaks
from dynamo_fuzz.observe import describe, observe
from lamina_dynamo import graph_break, optimize, reset

SEEN = []
X = torch.ones(3)


class Raises(torch.nn.Module):
    def forward(self, x): raise ValueError("no")
Raises.made = Raises()
Raises.made.register_forward_hook(lambda *a: SEEN.append("hook"), always_call=True)


def text_of_a_size(x): return f"{x.shape}", str(x.shape[0]), "%s" % x.shape[0]
def a_number_in_a_pattern(n):
    match n:
        case int(k) if k > 100: return "big"
        case _: return "other"
def text_of_an_outside_exception(n):
    try: raise ValueError(n)
    except ValueError as e: graph_break(); return str(e), repr(e)
def end_of_a_generator_that_returns_nothing(x):
    def gen(): yield x
    def returns(): yield x; return 4
    out = []
    for g in (gen(), returns()):
        next(g)
        try: g.send(None)
        except StopIteration as e: out.append((e.args, e.value))
    return out
def context_of_a_missing_key(n):
    try: return {}[n]
    except KeyError as e: return e.args, e.__context__ is None
def list_iterator_sees_later_items(x):
    l, out = [1, 2], []
    for i in l:
        out.append(i)
        if i == 1: l.append(7); graph_break()
    return out
def iterators_share_a_source(x):
    it = iter([1, 2, 3]); pairs = enumerate(it, 5); next(pairs); graph_break()
    return next(it), next(pairs)
def dict_iterator_goes_on(x):
    d = {"a": 1, "b": 2}; it = iter(d.items()); next(it); d["b"] = 9; graph_break()
    return next(it)
def throw_into_a_delegation(x):
    def inner():
        try: yield 1
        except KeyError as e: yield e.args
    def outer(): yield from inner()
    it = outer(); next(it)
    return it.throw(KeyError, KeyError("k"))
def methods_of_an_outside_generator(x, g): return g.send(None), g.send(4)
def array_argument(x, a): a += 1; return a.sum() + x.sum()
def callback_with_effects(x): list(map(SEEN.append, [1])); list(map(print, [x.shape[0]])); return len(SEEN)
def negative_number(n): return X * n
def exc_info(x):
    try: raise ValueError(1)
    except ValueError: return sys.exc_info()[1].args
def call_errors(x):
    def f(a, /, *, b): return a
    out = []
    for call in (lambda: f(a=1, b=2), lambda: f(1, 2, b=3), lambda: f(**{"b": 1}, **{"b": 2})):
        try: call()
        except TypeError as e: out.append(str(e).rpartition("f() ")[2])
    return out
def class_of_the_frame(x):
    class A: items = []
    A.items.append(1); graph_break()
    return A.items
def locals_after_a_break(x):
    a = 1; graph_break()
    return sorted(locals())
def locals_after_a_break_in_an_expression(x):
    one = [x + 1, graph_break(), sorted(locals())]
    try: raise ValueError(1)
    except ValueError as e: return one, [graph_break(), sorted(locals())], str(e)
class Slotted:
    __slots__ = ("hidden", "__private", "unset")
    def __init__(self, v): self.__private = v
    def private(self): return self.__private
class Hiding(Slotted):
    __slots__ = ()
    @property
    def hidden(self): return "a property where the base has a slot"
def slots_of_an_object_after_a_break(x): o = Hiding(x); graph_break(); return o.private() + 1, o.hidden, hasattr(o, "unset")
def path_after_a_break(x): p = pathlib.PurePosixPath("a/b") / "c.py"; graph_break(); return str(p), p.suffix, p.parent.name
def bound_by_super(x):
    class L(list):
        def append(self, v): SEEN.append("own")
        def add(self, v): m = super().append; graph_break(); m(v); return len(self)
    return L().add(1)
@functools.lru_cache
def noted(n): SEEN.append(n); return n
def cached_effect(n): return noted(5), noted(5), len(SEEN)
def bisected(x): import bisect; return bisect.bisect_left([1, 2, 3], 2, key=noted), len(SEEN)
def grouped(x):
    for k, g in itertools.groupby([1, 2], key=noted): graph_break()
    return k, len(SEEN), list(itertools.accumulate([1, 2], func=lambda a, b: noted(a + b)))
def cause_of_a_generators_error(x):
    def g(): yield 1; raise StopIteration("no")
    try: list(g())
    except RuntimeError as e: return str(e), repr(e.__cause__), repr(e.__context__)
def unbound_cell(x, n):
    f = lambda: y; graph_break()
    if n is None: y = x
    return y
def cell_of_a_comprehension(x):
    fs = [lambda: i for i in range(2) if graph_break() is None]; i = 5; graph_break()
    return [f() for f in fs], [lambda: i][0]()
def cells_in_locals(x): f = lambda: x; graph_break(); return sorted(locals())
def truth_in_a_search(x, items):
    try: return items.count(x), x
    except RuntimeError as e: return str(e), x
def hooks_after_an_exception(x):
    try: Raises.made(x)
    except ValueError: return x + 1, len(SEEN)
class Key:
    def __init__(self, v): self.v = v
    def __eq__(self, o): SEEN.append("eq"); return self.v == o.v
    def __hash__(self): return 1
def keys_of_the_program(x): return len({Key(1), Key(1)}), len(SEEN)
def number_as_a_key(n): d = {}; graph_break(); d[n + 1] = 1; return d, {k: k for k in [n]}
class Delegates:
    def __init__(self, t): self._t = t
    def __getattr__(self, n): return getattr(self._t, n)
def delegates(x): p = Delegates.__new__(Delegates); graph_break(); p._t = x; return p.shape
def warnings_under_own_filters(x):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("ignore"); graph_break(); warnings.simplefilter("always"); warnings.warn("careful", UserWarning)
        return [str(v.message) for v in w]
def mask_of_another_size(x): y = x * 2; return y[torch.tensor([True, False])]
def mask_of_another_size_written(x): y = x * 2; y[torch.tensor([True, False])] = 1.0; return y
def order_of_an_ordered_dict(x):
    d, k = OrderedDict(a=1, b=2, c=3), OrderedDict([(int, 1), (str, 2), (X, 3)]); d.move_to_end("a"); k.move_to_end(int); graph_break()
    return list(d), list(d.items()), list(k.items())
def names_for_what_was_deleted(x):
    x.extra = 1; del x.extra; p = Parent(); out = []
    for call in (lambda: x.extra, lambda: delattr(p, "extra")):
        try: call()
        except AttributeError as e: out.append(str(e))
    return out
def names_of_an_outside_object(x):
    try: del OUTSIDE.extra
    except AttributeError as e: return str(e)
def text_of_an_operators_exception(x):
    try: y = x.reshape(2, 2)
    except RuntimeError as e: return str(e)
    return y + 1
def batch_norm_of_two_dtypes(x):
    try: return torch.nn.functional.batch_norm(x[None], torch.zeros(x.shape[0]).double(), torch.ones(x.shape[0]))
    except RuntimeError as e: return str(e)
def methods_of_an_instance_dict(x, o):
    d = vars(o); keys, update = d.keys, d.update; graph_break(); update(n=4)
    return keys() >= {"n"}, sorted(o.__dict__.items()), list(vars(o).values())
def vars_of_a_number(x):
    try: vars(5)
    except TypeError as e: return str(e)
class Quiet:
    def __enter__(self): return self
    def __exit__(self, kind, e, tb): SEEN.append((str(e), e.__context__ is None, tb is None)); return True
def raises_an_exception_from_outside(x):
    with Quiet():
        e = ValueError("boo"); graph_break(); raise e
    try:
        e = KeyError("k"); graph_break()
        try: 1 // 0
        except ZeroDivisionError as z: raise e from z
    except KeyError as k: return type(k.__cause__), type(k.__context__)


PROGRAMS = [v for v in list(globals().values()) if callable(v) and getattr(v, "__module__", "") == __name__ and not isinstance(v, (type, functools._lru_cache_wrapper))]
ARGUMENTS = {
    "a_number_in_a_pattern": [(2,), (500,), (600,), (3,)], "text_of_an_outside_exception": [(5,), (6,)], "number_as_a_key": [(5,), (6,), (7,)], "context_of_a_missing_key": [(5,), (6,), (7,)], "negative_number": [(3,), (4,), (-2,), (5,)], "methods_of_an_outside_generator": [(X, "generator")] * 2,
    "methods_of_an_instance_dict": [(X, "object")] * 2, "array_argument": [(X, "array")] * 2, "cached_effect": [(5,), (5,)], "unbound_cell": [(X, 1), (X, None)], "truth_in_a_search": [(torch.ones(n), [torch.ones(n), 2]) for n in (3, 4, 5)],
}  # fmt: skip


def make(v):
    if v == "generator" if isinstance(v, str) else False:
        return (lambda: (yield (yield 1)))()
    if isinstance(v, str) and v == "object":
        return Parent()
    return np.arange(3.0) if isinstance(v, str) and v == "array" else v


@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda fn: fn.__name__)
def test_program(fn):
    def calls(f):
        noted.cache_clear()
        SEEN.clear()
        return [observe(f, tuple(map(make, args)), globals(), ("SEEN",)) for args in ARGUMENTS.get(fn.__name__, [(X,), (torch.ones(4),), (torch.ones(5),)])]

    want, got = calls(fn), calls(optimize(fn, lambda gm, example_inputs: gm.forward))
    for w, g in zip(want, got):
        assert g == w, w.difference(g)


def test_a_break_at_an_instruction_that_pushes_many():
    def unpack(x, t):
        (a, *b, c), d = t, 1
        return a, b, c, d, x + 1

    for at in range(breaks.length(unpack.__code__)):
        with breaks.breaking_at(unpack.__code__, {at}):
            assert observe(optimize(unpack, lambda gm, example_inputs: gm.forward), (X, (1, 2, 3, 4))) == observe(unpack, (X, (1, 2, 3, 4)))


class Slotted:
    __slots__ = ("p",)


class Parent:
    def m(self): return 1


OUTSIDE = Parent()


class Other(Parent):
    def m(self): return 5


class Config(Parent):
    def __init__(self): self.mode = "a"
    def m(self): return super().m() + 1


class Point(Parent):
    def __init__(self): self.v = 1
    def __eq__(self, other): return True
    def __getattr__(self, name): return 7


class Net(torch.nn.Module):
    def __init__(self): super().__init__(); self.p = torch.nn.Parameter(torch.ones(3)); self.n = 2
    def forward(self, x): return x * self.p + self.n


CLASS_CHANGES = {
    "comparison": (Point, "__eq__", lambda a, b: False), "truth": (Point, "__bool__", lambda self: False), "call": (Net, "__call__", lambda self, x: x * 5), "behind a hook": (Parent, "late", 3),
    "over an instance": (Point, "v", property(lambda self: 9)), "over a member": (Net, "p", property(lambda self: torch.zeros(3))), "inherited method": (Net, "parameters", lambda self: []),
}  # fmt: skip


@pytest.mark.parametrize("change", CLASS_CHANGES)
def test_change_of_a_class(change):
    cls, name, value = CLASS_CHANGES[change]
    point, net = Point(), Net()

    def f(x):
        return point == 3, 1 if point else 2, point.late, point.v, net(x), len(list(net.parameters()))

    compiled = optimize(f, lambda gm, example_inputs: gm.forward)
    before = cls.__dict__.get(name)
    assert describe(compiled(X)) == describe(f(X))
    try:
        setattr(cls, name, value)
        assert describe(compiled(X)) == describe(f(X))
    finally:
        delattr(cls, name) if before is None else setattr(cls, name, before)


def test_a_number_in_a_class_becomes_symbolic():
    class Counts:
        n = 2

    def f(x, c):
        return x + c.n

    made = []
    compiled = optimize(f, lambda gm, example_inputs: made.append(gm) or gm.forward)
    for Counts.n in range(2, 8):
        assert describe(compiled(X, Counts())) == describe(f(X, Counts()))
    assert len(made) == 2


@pytest.mark.parametrize("change", ["slot", "getattribute", "bases", "shared"])
def test_change(change):
    slotted, config, net = Slotted(), Config(), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))

    def f(x):
        return hasattr(slotted, "p"), config.mode, config.m(), sum(p.numel() for p in net.parameters())

    compiled = optimize(f, lambda gm, example_inputs: gm.forward)
    assert compiled(X) == f(X)
    try:
        if change == "slot":
            slotted.p = 1
        elif change == "getattribute":
            Config.__getattribute__ = lambda self, name: 3 if name == "mode" else object.__getattribute__(self, name)
        elif change == "bases":
            Config.__bases__ = (Other,)
        else:
            net[1].weight = net[0].weight
        assert compiled(X) == f(X)
    finally:
        Config.__bases__ = (Parent,)
        if "__getattribute__" in Config.__dict__:
            del Config.__getattribute__


def test_a_pattern_object_is_guarded():
    place = {"p": re.compile("a")}

    def f(x):
        return [m.start() for m in place["p"].finditer("abab")], list(itertools.islice([1, 2], 1))

    compiled = optimize(f, lambda gm, example_inputs: gm.forward)
    assert compiled(X) == f(X)
    place["p"] = re.compile("b")
    assert compiled(X) == f(X)


class Asked:
    def __getattr__(self, name):
        return 31


def test_an_attribute_added_where_getattr_was_asked():
    box = Asked()
    compiled = optimize(lambda x: x * box.late, lambda gm, ex: gm.forward)
    assert compiled(torch.ones(1)).item() == 31
    box.late = 8
    assert compiled(torch.ones(1)).item() == 8


@pytest.mark.parametrize("already", [False, True])
def test_a_hook_of_all_modules_on_a_module_with_hooks_of_its_own(already):
    model = torch.nn.Linear(2, 2)
    if already:
        model.register_forward_hook(lambda module, args, out: out + 1)
    compiled = optimize(model, lambda gm, ex: gm.forward)
    x = torch.ones(2)
    for factor in (2, 3):
        assert torch.equal(compiled(x), model(x))
        handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, out, factor=factor: out * factor)
        try:
            assert torch.equal(compiled(x), model(x))
        finally:
            handle.remove()
    assert torch.equal(compiled(x), model(x))


def makes_a_generator(x):
    def g():
        y = yield x
        return y * 2

    it = g()
    next(it)
    try:
        it.send(x + 1)
    except StopIteration as e:
        return e.value


def test_a_break_while_a_function_is_made_follows_the_new_cells():
    """Forced between LOAD_CLOSURE and MAKE_FUNCTION: calls share the resume function, not the cells."""
    code = makes_a_generator.__code__
    for at in range(8):
        with breaks.breaking_at(code, {at}):
            compiled = optimize(makes_a_generator, lambda gm, examples: gm.forward)
            for n in (3, 4, 3):
                x = torch.full((n,), float(n))
                torch.testing.assert_close(compiled(x), makes_a_generator(x))
        reset()
