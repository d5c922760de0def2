"""Locks taken, classes and cells written in the frame: effects at its end, as in eager, on what this call was given."""

from __future__ import annotations

import threading

import lamina_dynamo
import pytest
import torch
from lamina_dynshape.support.counters import counters

LOCK, RLOCK = threading.Lock(), threading.RLock()
STATE: dict[str, int] = {}


class Counter:
    number = 0
    name = "a"


class Sub(Counter):
    pass


def under_locks(x):
    with LOCK:
        STATE["k"] = 1
    with RLOCK, RLOCK:
        STATE["m"] = 2
    return x * 2


def by_hand(x):
    LOCK.acquire()
    try:
        return x * 2
    finally:
        LOCK.release()


def breaks_under_a_lock(x):
    with LOCK:
        y = x * 2
        lamina_dynamo.graph_break()
        assert LOCK.locked()
    return y + 1


def writes_a_class(x):
    Counter.number += 1
    Counter.name = "b"
    return x * Counter.number + Sub.number + Sub().number


def eager_backend(gm, examples):
    return gm.forward


@pytest.mark.parametrize("fn", [under_locks, by_hand])
def test_locks_are_part_of_the_graph(fn):
    STATE.clear()
    compiled = lamina_dynamo.optimize(fn, eager_backend, fullgraph=True)
    torch.testing.assert_close(compiled(torch.ones(2)), fn(torch.ones(2)))
    assert not LOCK.locked()
    assert fn is by_hand or STATE == {"k": 1, "m": 2}


def test_effects_happen_under_the_lock():
    seen = threading.Event()
    compiled = lamina_dynamo.optimize(under_locks, eager_backend)
    compiled(torch.ones(2))
    with LOCK:
        thread = threading.Thread(target=lambda: (compiled(torch.ones(2)), seen.set()))
        thread.start()
        assert not seen.wait(0.2)
    thread.join(10)
    assert seen.is_set()


def test_a_break_under_a_lock_holds_it():
    counters.clear()
    compiled = lamina_dynamo.optimize(breaks_under_a_lock, eager_backend)
    torch.testing.assert_close(compiled(torch.ones(2)), torch.full((2,), 3.0))
    assert not LOCK.locked()
    assert set(counters["graph_breaks"]) == {"lock", "graph-break"}


def test_a_lock_that_is_held_is_a_break():
    counters.clear()
    compiled = lamina_dynamo.optimize(lambda x: (LOCK.acquire(blocking=False), x * 2)[1], eager_backend)
    with LOCK:
        compiled(torch.ones(2))
    assert counters["graph_breaks"]["lock"]


def test_class_attributes_follow_eager():
    compiled = lamina_dynamo.optimize(writes_a_class, eager_backend)
    for call in range(4):
        Counter.number, Counter.name = 3 * call, "a"
        want = writes_a_class(torch.ones(2))
        Counter.number, Counter.name = 3 * call, "a"
        torch.testing.assert_close(compiled(torch.ones(2)), want)
        assert (Counter.number, Counter.name) == (3 * call + 1, "b")


# ---- cells ----------------------------------------------------------------------------------------------------------------
def holder(value):
    def get():
        return value

    return get


def counter(n):
    def increase():
        nonlocal n
        n += 1
        return n

    return increase


@pytest.mark.parametrize("fn", [lambda x, f: x * f.__closure__[0].cell_contents, lambda x, f: x * f()], ids=["contents", "call"])
def test_cells_of_functions_that_are_passed_are_read_at_each_call(fn):
    compiled = lamina_dynamo.optimize(fn, eager_backend)
    for value in (2.0, 3.0, torch.ones(2) * 5, torch.ones(2) * 7):
        torch.testing.assert_close(compiled(torch.ones(2), holder(value)), fn(torch.ones(2), holder(value)))


def test_cells_that_are_passed_are_read_at_each_call():
    compiled = lamina_dynamo.optimize(lambda x, cells: x * cells[0].cell_contents, eager_backend)
    for value in (2.0, 3.0, 2.0):
        torch.testing.assert_close(compiled(torch.ones(2), holder(value).__closure__), torch.full((2,), value))


def test_writes_go_to_the_cells_of_this_call():
    compiled = lamina_dynamo.optimize(lambda x, f: x * f(), eager_backend)
    first, second = counter(1), counter(1)
    assert [float(compiled(torch.ones(()), f)) for f in (first, second)] == [2.0, 2.0]
    assert [f.__closure__[0].cell_contents for f in (first, second)] == [2, 2]


def test_writes_to_cells_that_are_passed_go_to_those_of_this_call():
    def write(x, cells):
        cells[0].cell_contents = "written"
        return x * 2

    compiled = lamina_dynamo.optimize(write, eager_backend)
    for get in (holder("a"), holder("a")):
        compiled(torch.ones(2), get.__closure__)
        assert get() == "written"
