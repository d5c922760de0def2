"""The compiled callable: binding as Python binds, entries, misses, lifetimes, threads, recursion."""

import copy
import functools
import gc
import inspect
import itertools
import pickle
import threading
import traceback
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina_dynamo.eval_frame import bypass
from lamina_dynamo.guards import Guard, GuardKind, TensorSpec
from lamina_dynamo.native import RUN_EAGER, SKIP, CodeCache, CompiledFunction, Entry, compile_guards
from lamina_dynamo.native.program import arg_names_of
from lamina_dynamo.source import CellSource, GlobalSource, LocalSource, SizeSource, module_member

K = GuardKind


def entry_of(fn, replacement, guards=(), constants=(), supplied=()):
    fn = getattr(fn, "__func__", fn)
    program = compile_guards(guards, arg_names_of(fn.__code__), free_names=fn.__code__.co_freevars, supplied=supplied)
    return Entry(program, replacement.__code__, tuple(constants))


def compiled_with(fn, *entries, on_miss=None):
    c = CompiledFunction(fn, on_miss)
    for e in entries:
        c.cache.add(e)
    return c


# ---- binding -----------------------------------------------------------------------------------------------------------
def slots_function(fn):
    """A replacement that returns its slots, for any signature."""
    names = arg_names_of(fn.__code__)
    space = {}
    exec(f"def replacement({', '.join(names)}): return ({''.join(n + ', ' for n in names)})", space)
    return space["replacement"]


def signatures():
    """Every mix of positional-only, plain, defaulted, keyword-only and variadic parameters, small."""
    for posonly, plain, defaults, kwonly, kwdefaults, var, kw in itertools.product(range(3), range(3), range(3), range(3), range(2), (0, 1), (0, 1)):
        if defaults > posonly + plain or kwdefaults > kwonly:
            continue
        names = [f"p{i}" for i in range(posonly)] + [f"a{i}" for i in range(plain)]
        parts = [n + (f"='d{n}'" if i >= len(names) - defaults else "") for i, n in enumerate(names)]
        if posonly:
            parts.insert(posonly, "/")
        if var:
            parts.append("*rest")
        elif kwonly:
            parts.append("*")
        parts += [f"k{i}" + (f"='dk{i}'" if i < kwdefaults else "") for i in range(kwonly)]
        if kw:
            parts.append("**more")
        yield ", ".join(parts)


SIGNATURES = list(signatures())


@functools.cache
def pair(signature):
    space = {}
    exec(f"def fn({signature}): return tuple(locals().values())", space)
    fn = space["fn"]
    return fn, compiled_with(fn, entry_of(fn, slots_function(fn)))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SIGNATURES), st.integers(0, 5), st.lists(st.sampled_from(["p0", "p1", "a0", "a1", "k0", "k1", "z", "rest", "more", "w"]), unique=True, max_size=5))
def test_binds_as_python_does(signature, positional, keywords):
    fn, compiled = pair(signature)
    args, kwargs = tuple(range(positional)), {k: f"v{k}" for k in keywords}
    try:
        want = fn(*args, **kwargs)
    except TypeError as error:
        with pytest.raises(TypeError) as caught:
            compiled(*args, **kwargs)
        assert str(caught.value) == str(error)
        return
    before = compiled.cache.entries[0].hits
    got = compiled(*args, **kwargs)
    assert got == want and [type(g) for g in got] == [type(w) for w in want]
    assert compiled.cache.entries[0].hits == before + 1, "it ran the original"


def test_keyword_names_that_are_equal_but_not_identical():
    fn, compiled = pair("a0, a1='da1'")
    name = "".join(["a", "1"])
    assert compiled(1, **{name: 2}) == (1, 2)

    class Str(str):
        pass

    assert compiled(1, **{Str("a1"): 2}) == (1, 2)


def test_defaults_are_read_at_the_call():
    def fn(x, y=1, *, z=2):
        return x, y, z

    c = compiled_with(fn, entry_of(fn, lambda x, y, z: (x, y, z)))
    assert c(0) == (0, 1, 2)
    fn.__defaults__, fn.__kwdefaults__ = (10,), {"z": 20}
    assert c(0) == (0, 10, 20)
    fn.__defaults__ = None
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        c(0)


def test_many_arguments_spill_to_the_heap():
    names = [f"a{i}" for i in range(60)]
    space = {}
    exec(f"def fn({', '.join(names)}): return 0", space)
    fn = space["fn"]
    c = compiled_with(fn, entry_of(fn, slots_function(fn)))
    assert c(*range(60)) == tuple(range(60))
    assert c(*range(50), **{n: i for i, n in enumerate(names) if i >= 50}) == tuple(range(60))


# ---- what it looks like ------------------------------------------------------------------------------------------------
def test_looks_like_the_function():
    def fn(x: int, y=2):
        """Doc."""
        return x

    fn.tag = "kept"
    c = compiled_with(fn)
    assert (c.__name__, c.__doc__, c.__module__, c.__qualname__, c.tag) == ("fn", "Doc.", __name__, fn.__qualname__, "kept")
    assert c.__wrapped__ is fn and inspect.unwrap(c) is fn and inspect.signature(c) == inspect.signature(fn) and callable(c)
    c.own = 1
    assert c.own == 1 and not hasattr(fn, "own") and "fn" in repr(c)
    with pytest.raises(AttributeError, match="nothing"):
        c.nothing
    assert copy.copy(c) is c and copy.deepcopy(c) is c
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(c)
    with pytest.raises(TypeError, match="Python function"):
        CompiledFunction(len, None)


def test_as_a_method():
    class A:
        def __init__(self, n):
            self.n = n

        def plain(self, x):
            return ("original", self.n, x)

    A.fast = compiled_with(A.plain, entry_of(A.plain, lambda self, x: ("fast", self.n, x)))
    a = A(3)
    assert a.fast(4) == ("fast", 3, 4) and A.fast(a, 4) == ("fast", 3, 4) and a.fast(x=4) == ("fast", 3, 4)
    assert a.fast.__self__ is a
    bound = compiled_with(a.plain, entry_of(A.plain, lambda self, x: ("bound", self.n, x)))
    assert bound(5) == ("bound", 3, 5) and bound(x=5) == ("bound", 3, 5)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        bound()
    A.held = bound
    assert a.held(6) == ("bound", 3, 6), "already bound: not bound again"


# ---- entries and misses ------------------------------------------------------------------------------------------------
def test_entries_by_guard_and_misses():
    def fn(x):
        return "original"

    asked = []

    def on_miss(compiled, slots):
        asked.append(slots)
        assert compiled is c
        v = slots[0]
        if v == "eager":
            return RUN_EAGER
        if v == "skip":
            return SKIP
        entry = entry_of(fn, lambda x, k: (k, x), [Guard(LocalSource("x"), K.TYPE, type(v))], [type(v).__name__])
        c.cache.add(entry)
        return entry

    c = CompiledFunction(fn, on_miss)
    assert c("eager") == "original" and c("eager") == "original" and len(asked) == 2
    assert [c(1), c(1.5), c(2), c(2.5), c(3)] == [("int", 1), ("float", 1.5), ("int", 2), ("float", 2.5), ("int", 3)]
    assert len(asked) == 4 and len(c.cache.entries) == 2
    assert [e.hits for e in c.cache.entries] == [2, 3]
    c.cache.clear()
    assert c(1) == ("int", 1) and len(asked) == 5
    c.cache.frozen = True
    assert c(1.5) == "original" and len(asked) == 5 and c(2) == ("int", 2)
    c.cache.frozen = False
    assert c("skip") == "original" and c(1) == "original" and len(asked) == 6


def test_an_entry_that_does_not_match_its_own_call_runs_eagerly():
    def fn(x):
        return "original"

    c = CompiledFunction(fn, lambda compiled, slots: entry_of(fn, lambda x: "wrong", [Guard(LocalSource("x"), K.TYPE, str)]))
    assert c(1) == "original"


def test_errors_of_on_miss():
    def fn(x):
        return x

    def on_miss(compiled, slots):
        raise LookupError("compile")

    with pytest.raises(LookupError, match="compile"):
        CompiledFunction(fn, on_miss)(1)
    with pytest.raises(TypeError, match="on_miss returned int"):
        CompiledFunction(fn, lambda c, s: 3)(1)


def test_entries_check_their_code():
    program = compile_guards([], ["x"])
    for bad in (lambda: 0, lambda x, y: 0, lambda *x: 0, lambda x, *, k: 0, lambda x, **k: 0):
        with pytest.raises(ValueError, match="replacement code"):
            Entry(program, bad.__code__)
    with pytest.raises(TypeError):
        Entry(None, (lambda x: x).__code__)


def test_supplied_values():
    lin = torch.nn.Linear(3, 4)
    scale = 5

    def fn(self, x):
        return scale

    x = torch.randn(7, 3)
    sources = [module_member(LocalSource("self"), "_parameters", "weight"), GlobalSource("K"), CellSource("scale"), SizeSource(LocalSource("x"), 0)]
    c = compiled_with(fn, entry_of(fn, lambda self, x, w, g, s, n, k: (w, g, s, n, k), supplied=sources, constants=["k"]))
    for rows in (7, 7, 9):
        assert c(lin, torch.randn(rows, 3)) == (lin.weight, K, 5, rows, "k")
    lin.weight = torch.nn.Parameter(torch.zeros(4, 3))
    assert c(lin, x)[0] is lin.weight
    scale = 6
    assert c(lin, x)[2] == 6
    twin = torch.nn.Linear(3, 4)
    for _ in range(3):
        assert c(twin, x)[0] is twin.weight and c(lin, x)[0] is lin.weight


def test_code_of_the_function_replaced():
    def fn(x):
        return "original"

    c = compiled_with(fn, entry_of(fn, lambda x: "fast"))
    assert c(1) == "fast"
    fn.__code__ = (lambda x: "new").__code__
    assert c(1) == "new"


def test_functions_that_share_a_cache_keep_their_closures_and_globals():
    def make(n):
        def fn(x):
            return n

        return fn

    f, g = make(1), make(2)
    n = 0

    def r(x):
        return ("fast", n, x)

    cache = CodeCache(f.__code__)
    cache.add(entry_of(f, r, [Guard(CellSource("n"), K.TYPE, int)]))
    a, b = CompiledFunction(f, None, cache), CompiledFunction(g, None, cache)
    for _ in range(3):
        assert (a(5), b(6)) == (("fast", 1, 5), ("fast", 2, 6))


def test_bypass():
    def fn(x):
        return "original"

    c = compiled_with(fn, entry_of(fn, lambda x: "fast"))
    with bypass(), bypass():
        assert c(1) == "original"
    assert c(1) == "fast"


def test_exceptions_keep_their_frames():
    def fn(x):
        return x

    def replacement(x):
        return 1 / x

    c = compiled_with(fn, entry_of(fn, replacement))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            c(0)
        assert [f.name for f in traceback.extract_tb(caught.value.__traceback__)][1:] == ["replacement"]


def test_recursion():
    def fn(n):
        return n if n == 0 else 1 + c(n - 1)

    def replacement(n, again):
        return n if n == 0 else 2 + again(n - 1)

    c = CompiledFunction(fn, None)
    c.cache.add(entry_of(fn, replacement, [Guard(LocalSource("n"), K.TYPE, int)], [c]))
    assert c(100) == 200
    with pytest.raises(RecursionError):
        c(10**6)
    assert c(3) == 6


def test_the_cache_may_change_during_the_call():
    def fn(x):
        return "original"

    def replacement(x, again):
        again()
        return "done"

    c = CompiledFunction(fn, None)
    c.cache.add(entry_of(fn, replacement, constants=[lambda: c.cache.clear()]))
    assert c(1) == "done"
    assert c(1) == "original"


def test_guards_that_run_user_code_may_change_the_cache():
    class Evil:
        def __eq__(self, other):
            c.cache.clear()
            gc.collect()
            return True

        __hash__ = None

    def fn(x):
        return "original"

    c = CompiledFunction(fn, None)
    evil = Evil()
    c.cache.add(entry_of(fn, lambda x: "fast", [Guard(LocalSource("x"), K.EQUALS, Evil())]))
    assert c(evil) in ("fast", "original")


# ---- lifetimes ---------------------------------------------------------------------------------------------------------
def objects_alive(kind):
    gc.collect()
    return sum(type(o).__name__ == kind for o in gc.get_objects())


def test_everything_dies_with_the_function():
    refs = []

    def make():
        big = torch.randn(3)

        class Model(torch.nn.Module):
            def forward(self, x):
                return x, c, big

        m = Model()
        guards = [Guard(LocalSource("self"), K.ID, m), Guard(LocalSource("self"), K.TYPE, Model), Guard(LocalSource("x"), K.TENSOR, TensorSpec.of(big))]
        c = CompiledFunction(m.forward, lambda *a: RUN_EAGER)
        entry = entry_of(Model.forward, lambda self, x, k: (k[0] is c, big)[0], guards, [[c, m, big]])
        c.cache.add(entry)
        m.compiled = c  # a cycle through the module
        assert c(big) is True and c(big) is True
        refs.extend(weakref.ref(o) for o in (m, c, c.cache, entry, entry.program, big, Model))
        return c

    before = objects_alive("Entry"), objects_alive("CompiledFunction")
    c = make()
    gc.collect()
    assert all(r() is not None for r in refs)
    del c
    gc.collect()
    assert [r() for r in refs] == [None] * len(refs)
    assert (objects_alive("Entry"), objects_alive("CompiledFunction")) == before


def test_guards_do_not_keep_a_model_alive():
    m = torch.nn.Linear(2, 2)

    def fn(self, x):
        return x

    w = module_member(LocalSource("self"), "_parameters", "weight")
    c = compiled_with(fn, entry_of(fn, lambda self, x, w: w, [Guard(w, K.TENSOR, TensorSpec.of(m.weight))], supplied=[w]))
    x = torch.ones(2)
    c(m, x), c(m, x)
    gone = weakref.ref(m), weakref.ref(m.weight)
    del m
    gc.collect()
    assert gone[0]() is None and gone[1]() is None
    fresh = torch.nn.Linear(2, 2)
    assert c(fresh, x) is fresh.weight


def test_no_growth_over_many_calls():
    import tracemalloc

    lin = torch.nn.Linear(2, 2)

    def fn(self, x, *rest, **more):
        return x

    w = module_member(LocalSource("self"), "_parameters", "weight")
    x = torch.ones(3, 2)
    guards = [Guard(w, K.TENSOR, TensorSpec.of(lin.weight)), Guard(LocalSource("x"), K.TENSOR, TensorSpec.of(x, dynamic={0}))]
    c = compiled_with(fn, entry_of(fn, lambda self, x, rest, more, w, n, k: n, guards, ["k"], [w, SizeSource(LocalSource("x"), 0)]))

    def calls(n):
        for i in range(n):
            c(lin, x, i, z=i)
            if i % 100 == 0:
                lin.training = not lin.training  # what was remembered becomes stale
                lin.weight = torch.nn.Parameter(lin.weight.detach())

    calls(5000)
    gc.collect()
    tracemalloc.start()
    try:
        calls(1000)
        first = tracemalloc.get_traced_memory()[0]
        calls(20000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - first < 20_000
    finally:
        tracemalloc.stop()


def test_create_compile_delete_many():
    def make(i):
        space = {}
        exec("def fn(x):\n    return x + 1", space)
        fn = space["fn"]
        c = CompiledFunction(fn, None)
        c.cache.add(entry_of(fn, lambda x, k: k, [Guard(LocalSource("x"), K.TYPE, int), Guard(GlobalSource("fn"), K.ID, fn)], [i]))
        space["c"] = c
        assert c(1) == i and c(2) == i
        return weakref.ref(c), weakref.ref(fn)

    refs = [r for i in range(200) for r in make(i)]
    gc.collect()
    assert all(r() is None for r in refs)


# ---- threads -----------------------------------------------------------------------------------------------------------
def test_threads():
    lin = torch.nn.Linear(2, 2)

    def fn(self, x):
        return None

    w = module_member(LocalSource("self"), "_parameters", "weight")
    c = compiled_with(fn, entry_of(fn, lambda self, x, w: (w, x), [Guard(LocalSource("x"), K.TYPE, int)], supplied=[w]))
    errors = []

    def work(k):
        try:
            mine = torch.nn.Linear(2, 2) if k % 2 else lin
            for i in range(3000):
                assert c(mine, i) == (mine.weight, i)
                if k == 0 and i % 50 == 0:
                    lin.extra = i
                if k == 1 and i % 100 == 0:
                    c.cache.add(c.cache.entries[-1])
                    c.cache.remove(c.cache.entries[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
