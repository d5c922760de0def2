"""Locks taken and classes written in the frame: effects at its end, as in eager."""

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
