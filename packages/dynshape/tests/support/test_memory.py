"""What a compilation leaves in memory: garbage, tables, malloc's free blocks."""

import ctypes
import gc
import os
import threading
import weakref
from pathlib import Path

import pytest

from lamina_dynshape.support import memory
from lamina_dynshape.support.memory import collect_new, compilation


class Node:
    """Part of a cycle: only a collection frees it."""

    def __init__(self):
        self.me = self


def cycle():
    return weakref.ref(Node())


@pytest.fixture
def released(monkeypatch):
    """How often tables were emptied; a release is due after every compilation."""
    calls = []
    monkeypatch.setattr(memory, "RELEASE_AFTER", 0.0)
    monkeypatch.setattr(memory, "_tables", [lambda: calls.append(1)])
    return calls


def test_garbage_goes_at_the_end_and_where_asked():
    with compilation():
        assert not gc.isenabled()
        first, kept = cycle(), Node()
        assert first() is not None
        collect_new()
        assert first() is None
        second = cycle()
        with compilation():  # one inside the other: the outer one owns the collector
            pass
        assert not gc.isenabled() and second() is not None
    assert gc.isenabled() and second() is None and kept.me is kept


def test_a_failed_compilation_turns_collections_on_again():
    with pytest.raises(ZeroDivisionError), compilation():
        1 / 0
    assert gc.isenabled()


def test_who_turned_collections_off_has_none():
    gc.disable()
    try:
        with compilation():
            garbage = cycle()
            collect_new()
        assert not gc.isenabled() and garbage() is not None
    finally:
        gc.enable()


def test_short_compilations_release_now_and_then(monkeypatch, released):
    with compilation():
        pass
    assert len(released) == 1
    monkeypatch.setattr(memory, "RELEASE_AFTER", 1e9)
    for _ in range(3):
        with compilation():
            pass
    assert len(released) == 1


@pytest.mark.skipif(memory._trim is None, reason="no malloc_trim in this C library")
def test_free_heap_goes_back_to_the_system(released):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(64 << 10) for _ in range(1024)]  # below the size that malloc maps by itself
    for block in blocks:
        ctypes.memset(block, 1, 64 << 10)
    top = libc.malloc(64 << 10)  # what lies above keeps free memory from going back by itself
    for block in blocks:
        libc.free(block)
    before = resident()
    with compilation():
        pass
    assert before - resident() > 32 << 20
    libc.free(ctypes.c_void_p(top))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_of_a_process_that_compiles_collects():
    inside, done = threading.Event(), threading.Event()

    def work():
        with compilation():
            inside.set()
            done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if gc.isenabled() else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and gc.isenabled()
