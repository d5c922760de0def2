"""Which matrix product is faster for a class of shapes on this machine: our core or the library. Measured once, kept on disk.

Key:    sizes rounded up to powers of two (bounded, since large products behave alike), the layouts of both operands, one thread.
Keeps:  the answer never depends on the CPU's name; a measurement takes a few milliseconds of processor time, an answer from disk none.
Files:  `tuning/gemm-<digest of library and torch>.json` in the cache folder; a torn or missing file only means measuring again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from functools import cache

import torch
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.logs import log
from lamina_dynshape.support.paths import cache_dir, write_atomic

from .library import library

__all__ = ["ShapeClass", "own_is_faster", "shape_class"]

_BOUNDS = (256, 512, 512)
_REPEATS = 3
_MARGIN = 0.97  # the library must be this much faster: our core also saves the call's overhead and takes epilogues

ShapeClass = tuple[int, int, int, bool, bool]
_lock = threading.Lock()


class _Call(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int64) for n in ("batch", "M", "N", "K")),
        ("A", ctypes.c_void_p), *((n, ctypes.c_int64) for n in ("a_batch", "a_row", "a_col")),
        ("B", ctypes.c_void_p), *((n, ctypes.c_int64) for n in ("b_batch", "b_row", "b_col")),
        ("C", ctypes.c_void_p), ("c_batch", ctypes.c_int64), ("c_row", ctypes.c_int64), ("bias", ctypes.c_void_p), ("row_bias", ctypes.c_void_p),
        ("accumulate", ctypes.c_int64), ("epilogue", ctypes.c_void_p), ("context", ctypes.c_void_p),
    ]


def _round(n: int, bound: int) -> int:
    return min(1 << max(n - 1, 0).bit_length(), bound)


def shape_class(m: int, n: int, k: int, a_rows: bool, b_rows: bool) -> ShapeClass:
    """Class of a product; `a_rows`, `b_rows`: are the rows of A and B contiguous (else the columns)?"""
    return (_round(m, _BOUNDS[0]), _round(n, _BOUNDS[1]), _round(k, _BOUNDS[2]), a_rows, b_rows)


def own_is_faster(kind: ShapeClass) -> bool:
    """From the table on disk, or measured now."""
    table, key = _table(str(cache_dir("tuning"))), repr(kind)
    with _lock:
        found = table.get(key)
        if found is None:
            found = _measure(kind)
            table[key] = found
            _store(table)
    return found


def _file() -> str:
    digest = hashlib.blake2b(f"{library.path().rsplit('/', 1)[-1]} {torch.__version__}".encode(), digest_size=8).hexdigest()
    return os.path.join(cache_dir("tuning"), f"gemm-{digest}.json")


@cache
def _table(folder: str) -> dict[str, bool]:
    try:
        with open(_file(), encoding="utf-8") as f:
            return {str(k): bool(v) for k, v in json.load(f).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _store(table: dict[str, bool]) -> None:
    from pathlib import Path
    try:
        write_atomic(Path(_file()), json.dumps(table).encode())
    except OSError as error:
        log("cache").info("measured kernels are not kept: %s", error)


def _measure(kind: ShapeClass) -> bool:
    m, n, k, a_rows, b_rows = kind
    threads = torch.get_num_threads()
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd(), torch.utils._python_dispatch._disable_current_modes():
        a = torch.ones(m, k) if a_rows else torch.ones(k, m).t()
        b = torch.ones(k, n) if b_rows else torch.ones(n, k).t()
        c = torch.empty(m, n)
        native = ctypes.CDLL(library.path()).lamina_gemm
        call = _Call(1, m, n, k, a.data_ptr(), 0, *a.stride(), b.data_ptr(), 0, *b.stride(), c.data_ptr(), 0, n)
        reference = ctypes.byref(call)
        torch.set_num_threads(1)
        try:
            own, library_time = _seconds(lambda: native(reference)), _seconds(lambda: torch.mm(a, b, out=c))
        finally:
            torch.set_num_threads(threads)
    counters["tuning"]["gemm"] += 1
    log("timing").debug("gemm %s: own %.1f us, library %.1f us", kind, own * 1e6, library_time * 1e6)
    return own * _MARGIN <= library_time


def _seconds(fn: Callable[[], object]) -> float:
    """Best processor time of a few calls, after one that warms up."""
    fn()
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.thread_time()
        fn()
        best = min(best, time.thread_time() - start)
    return best
