"""The frame hook: code swapped in place, larger frames, closures, exceptions, recursion, threads, no leaks."""

import gc
import sys
import threading
import traceback
import weakref

import pytest
import torch

from lamina_dynamo.eval_frame import bypass, call_with_hook, disable, hook_enabled, is_disabled, is_skipped_code, mark_skip
from lamina_dynamo.guards import Guard, GuardKind
from lamina_dynamo.native import SKIP, CodeCache, Entry, compile_guards, extension
from lamina_dynamo.native.program import arg_names_of
from lamina_dynamo.source import GlobalSource, LocalSource


def entry_for(fn, replacement, guards=(), constants=(), supplied=()):
    program = compile_guards(guards, arg_names_of(fn.__code__), free_names=fn.__code__.co_freevars, supplied=supplied)
    return Entry(program, replacement.__code__, tuple(constants))


def hook_for(fn, entry):
    """A callback that answers for `fn` only, and counts how often it was asked for it."""
    cache = CodeCache(fn.__code__)
    cache.add(entry)
    asked = []

    def callback(function, slots, code):
        if code is not fn.__code__:
            return None
        asked.append(slots)
        return cache

    callback.cache = cache
    return callback, asked


def target(a, b=2, *rest, k=3, **more):
    return ("original", a, b, rest, k, sorted(more))


def replaced(a, b, k, rest, more):
    return ("replaced", a, b, rest, k, sorted(more))


def large(a, b, k, rest, more):
    x1 = x2 = x3 = x4 = x5 = x6 = x7 = x8 = x9 = x10 = x11 = x12 = a
    return ("large", (x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12)[-1], b, rest, k, sorted(more))


@pytest.mark.parametrize(("replacement", "tag"), [(replaced, "replaced"), (large, "large")])
def test_frames_run_the_replacement(replacement, tag):
    callback, asked = hook_for(target, entry_for(target, replacement))
    for _ in range(3):
        with hook_enabled(callback):
            got = [target(1), target(1, 5, 6, 7, k=8, z=9), target(b=4, a=1)]
        assert got == [(tag, 1, 2, (), 3, []), (tag, 1, 5, (6, 7), 8, ["z"]), (tag, 1, 4, (), 3, [])]
    assert len(asked) == 1, "the cache answers after the first time"
    assert target(1)[0] == "original"
    assert extension().hook_users() == 0


@pytest.mark.parametrize("replacement", [replaced, large])
def test_no_reference_leaks(replacement):
    callback, _ = hook_for(target, entry_for(target, replacement))
    marker = object()
    with hook_enabled(callback):
        target(marker, 1, marker, k=marker, z=marker)
        before = sys.getrefcount(marker), sys.getrefcount(replacement.__code__), sys.getrefcount(target.__code__), sys.getrefcount(target)
        for _ in range(1000):
            target(marker, 1, marker, k=marker, z=marker)
        after = sys.getrefcount(marker), sys.getrefcount(replacement.__code__), sys.getrefcount(target.__code__), sys.getrefcount(target)
    assert before == after


def test_guards_choose_and_ask_again():
    def f(x):
        return "original"

    entries = {kind: entry_for(f, (lambda x: "int") if kind is int else (lambda x: "str"), [Guard(LocalSource("x"), GuardKind.TYPE, kind)]) for kind in (int, str)}
    cache = CodeCache(f.__code__)
    asked = []

    def callback(fn, slots, code):
        if code is not f.__code__:
            return None
        asked.append(type(slots[0]))
        if type(slots[0]) in entries:
            cache.add(entries[type(slots[0])])
        return cache

    with hook_enabled(callback):
        got = [f(1), f("a"), f(2), f("b"), f(1.5)]
    assert got == ["int", "str", "int", "str", "original"]
    assert asked == [int, str, float]


def test_closures_and_cells():
    def outer(n):
        def f(x):
            def g():
                return x + n

            return g

        return f

    f, h = outer(10), outer(20)
    n = 0

    def r(x):
        def g():
            return x * n

        return g

    callback, _ = hook_for(f, entry_for(f, r))
    with hook_enabled(callback):
        assert (f(3)(), h(3)()) == (30, 60)


def boom(x):
    y = x + 1
    return y


def raising(x):
    raise ValueError("from the replacement")


def raising_large(x):
    a = b = c = d = e = x
    raise ValueError(f"from the replacement {(a, b, c, d, e)}"[:20])


@pytest.mark.parametrize("replacement", [raising, raising_large])
def test_exceptions_propagate(replacement):
    callback, _ = hook_for(boom, entry_for(boom, replacement))
    for _ in range(50):
        with hook_enabled(callback), pytest.raises(ValueError, match="from the replacement") as caught:
            boom(1)
        names = [f.name for f in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-1] == replacement.__name__ and names.count(replacement.__name__) == 1


def test_recursion():
    def down(n):
        return n if n == 0 else 1 + down(n - 1)

    def down2(n, again):
        return n if n == 0 else 2 + again(n - 1)

    callback, _ = hook_for(down, entry_for(down, down2, constants=(lambda n: call_with_hook(callback, down, n),)))
    with hook_enabled(callback):
        assert down(200) == 400
        with pytest.raises(RecursionError):
            down(10**6)
        assert down(100) == 200
        assert boom(1) == 2
    assert down(10) == 10


def test_supplied_globals():
    callback, _ = hook_for(boom, entry_for(boom, lambda x, g, k: (x, g, k), supplied=[GlobalSource("SUPPLIED")], constants=["k"]))
    with hook_enabled(callback):
        assert boom(1) == (1, SUPPLIED, "k")


SUPPLIED = {"some": "object"}


def test_only_this_thread():
    callback, _ = hook_for(boom, entry_for(boom, lambda x: "replaced"))
    seen = []
    with hook_enabled(callback):
        t = threading.Thread(target=lambda: seen.append(boom(1)))
        t.start()
        t.join()
        assert boom(1) == "replaced"
    assert seen == [2]


def test_generators_and_coroutines_run_as_they_are():
    def gen(x):
        yield x

    asked = []
    with hook_enabled(lambda fn, slots, code: asked.append(code)):
        assert list(gen(3)) == [3]
    assert gen.__code__ not in asked


def test_skip_is_remembered_until_unmarked():
    def f(x):
        return x

    asked = []

    def callback(fn, slots, code):
        asked.append(code)
        return SKIP

    with hook_enabled(callback):
        f(1), f(1)
    assert asked.count(f.__code__) == 1
    mark_skip(f.__code__, False)
    with hook_enabled(callback):
        f(1)
    assert asked.count(f.__code__) == 2


def test_an_exception_of_the_callback_reaches_the_caller():
    def f(x):
        return x

    def callback(fn, slots, code):
        if code is f.__code__:
            raise KeyError("callback")

    for _ in range(20):
        with hook_enabled(callback), pytest.raises(KeyError, match="callback"):
            f(object())


def test_bypass_and_call_with_hook():
    callback, _ = hook_for(boom, entry_for(boom, lambda x: "replaced"))
    assert call_with_hook(callback, boom, 1) == "replaced"
    assert call_with_hook(callback, boom, x=1) == "replaced"

    def inside():
        with bypass():
            return boom(1)

    assert call_with_hook(callback, inside) == 2
    with pytest.raises(TypeError):
        call_with_hook(callback, boom)
    assert extension().hook_users() == 0


def test_nested_hooks_restore():
    one, _ = hook_for(boom, entry_for(boom, lambda x: "one"))
    two, _ = hook_for(boom, entry_for(boom, lambda x: "two"))
    with hook_enabled(one):
        assert boom(1) == "one"
        with hook_enabled(two):
            assert boom(1) == "two"
            with hook_enabled(None):
                assert boom(1) == 2
        assert boom(1) == "one"


def test_a_cache_that_dies_is_forgotten():
    def f(x):
        return "original"

    callback, _ = hook_for(f, entry_for(f, lambda x: "replaced"))
    with hook_enabled(callback):
        assert f(1) == "replaced"
    gone = weakref.ref(callback.cache)
    del callback
    gc.collect()
    assert gone() is None
    with hook_enabled(lambda fn, slots, code: None):
        assert f(1) == "original"


def test_skipped_files():
    assert is_skipped_code(torch.nn.Linear.forward.__code__)
    assert is_skipped_code(hook_enabled.__wrapped__.__code__)
    assert is_skipped_code(traceback.extract_tb.__code__)
    assert not is_skipped_code(boom.__code__)


def test_disable():
    @disable
    def f(x):
        return boom(x)

    callback, _ = hook_for(boom, entry_for(boom, lambda x: "replaced"))
    with hook_enabled(callback):
        assert f(1) == 2
        assert boom(1) == "replaced"
    assert is_disabled(f) and not is_disabled(boom) and f.__name__ == "f"

    m = torch.nn.Linear(2, 2)
    assert disable(m) is m and is_disabled(m.forward)
    x = torch.ones(1, 2)
    assert torch.equal(m(x), torch.nn.functional.linear(x, m.weight, m.bias))
    with pytest.raises(TypeError, match="class"):
        disable(torch.nn.Linear)
