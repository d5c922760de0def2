"""Cache entries per code object: which cache a callable uses, how long it lives, what it remembers.

Between: `runtime` (compiles on a miss) -> `CodeCache` of the native half (walked at each call).
Keeps:   a cache lives as long as a compiled callable uses it, or the options it was made under; it never keeps a user's module or
         function alive by itself. Callables with the same code, the same bound object and equal options share one;
         with another bound object they share the entries that match.

A `CodeCache` also carries, as plain attributes: `history` (why it missed, newest last), `options_key` (of the options it is for;
None: of the hook), `frame_state` (what capture wants to remember between compilations of this code: sizes seen), `compiled` (number
of compilations), `in_vain` (captures in a row that made no entry), `warned`.
"""

from __future__ import annotations

import types
import weakref
from typing import Any

from lamina_dynshape.support.counters import counters

from .native import extension

__all__ = ["borrow", "cache_for", "caches_alive", "new_cache", "prune", "reset_caches"]

_shared: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()
_alive: weakref.WeakSet[Any] = weakref.WeakSet()


def new_cache(code: types.CodeType) -> Any:
    """An empty cache of `code`, known to `reset_caches`."""
    cache = extension().CodeCache(code)
    cache.options_key = None
    _initialise(cache)
    _alive.add(cache)
    return cache


def _initialise(cache: Any) -> None:
    cache.history, cache.frame_state, cache.warned = [], {}, False
    cache.compiled = cache.in_vain = 0


def cache_for(code: types.CodeType, options: Any, bound: Any = None) -> Any:
    """The cache shared by every callable of this code, bound object and equal options."""
    key = (id(code), options.cache_key(), id(bound))  # ids stay valid: the cache holds the code, its user the bound object
    cache = _shared.get(key)
    if cache is None or cache.code is not code or (bound is not None and cache.bound_to() is not bound):
        cache = _shared[key] = new_cache(code)
        cache.bound_to, cache.options_key = _reference(bound), key[1]
    return cache


def borrow(cache: Any, *roots: Any) -> Any:
    """An entry that matches this call, made for the same code and equal options with another bound object: of two modules whose
    guards hold alike, the second one runs the graph of the first. Now in `cache`, too. None: there is none.
    """
    for key, other in list(_shared.items()):
        if other is cache or other.code is not cache.code or key[1] != cache.options_key:
            continue
        for entry in other.entries:
            if entry.program.check(*roots):
                counters["cache"]["entries shared"] += 1
                cache.add(entry)
                return entry
    return None


def _reference(bound: Any) -> Any:
    """A weak reference where the object allows one."""
    try:
        return weakref.ref(bound)
    except TypeError:
        return lambda: bound


def prune(cache: Any) -> int:
    """Drop entries that can never match again, since an object they want is gone; how many."""
    dead = [e for e in cache.entries if e.program.is_dead()]
    for entry in dead:
        cache.remove(entry)
    return len(dead)


def caches_alive() -> list[Any]:
    return list(_alive)


def reset_caches() -> None:
    """Forget every entry and everything remembered about frames. Callables stay usable and compile again."""
    for cache in caches_alive():
        cache.clear()
        _initialise(cache)
