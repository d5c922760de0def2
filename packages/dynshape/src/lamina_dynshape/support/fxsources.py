"""The text of generated FX code, which PyTorch keeps for tracebacks and never gives back.

Each `recompile()` of a graph module leaves its text in two tables of the process. A compiler makes many graphs and drops most of
them, so a process that compiles again and again would grow: graphs made during a compilation lose their text at its end, and
those that go on to run lose it when they die.
"""

from __future__ import annotations

import contextlib
import linecache
import weakref
from collections.abc import Iterator

from torch import fx
from torch.fx import graph_module

__all__ = ["discarding_sources", "keep_source"]

_PREFIX = "<eval_with_key>"
_kept: set[str] = set()


@contextlib.contextmanager
def discarding_sources() -> Iterator[None]:
    """Drop the text of the graphs made inside, but for those given to `keep_source`."""
    before = _names()
    try:
        yield
    finally:
        for name in _names() - before - _kept:
            _forget(name)


def keep_source(gm: fx.GraphModule) -> None:
    """Keep the text of `gm`'s present code, for tracebacks through it, until it dies."""
    name = gm.forward.__code__.co_filename
    _kept.add(name)
    weakref.finalize(gm, _forget, name).atexit = False


def _names() -> set[str]:
    return {name for name in linecache.cache.copy() if name.startswith(_PREFIX)}  # a copy: a collection in the middle may drop some


def _forget(name: str) -> None:
    _kept.discard(name)
    linecache.cache.pop(name, None)
    graph_module._loader.eval_cache.pop(name, None)
