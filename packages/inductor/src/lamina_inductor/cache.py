"""Graph-level cache: the text and metadata of an ATen graph -> the `GraphData` compiled from it, on disk.

A second process skips lowering, scheduling and code generation. Keys hold everything that the result depends on: nodes, arguments, sizes, strides and
dtypes, what is known of symbols, the settings, the sources of this package and of the prims, PyTorch. A file that is torn or unreadable is a miss, and so is one
compiled under conditions on sizes that do not hold now; those that hold become guards, as when the graph was compiled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lamina_dynshape import env_of
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.logs import log
from lamina_dynshape.support.paths import cache_dir, write_atomic

__all__ = ["environment", "graph_key", "load", "store"]

_FOLDER = "graphs"


@cache
def _sources() -> str:
    """Digest of the files that decide what code a graph becomes: names, sizes, times."""
    import lamina_primops
    digest = hashlib.blake2b(torch.__version__.encode(), digest_size=16)
    for root in (Path(__file__).parent, Path(lamina_primops.__file__).parent):
        for folder, _, files in sorted(os.walk(root)):
            for f in sorted(files):
                if f.endswith((".py", ".cpp", ".h")):
                    s = os.stat(os.path.join(folder, f))
                    digest.update(f"{folder}/{f} {s.st_size} {s.st_mtime_ns}".encode())
    return digest.hexdigest()


def graph_key(gm: torch.fx.GraphModule, *extra: Any) -> str:
    """Digest of the graph."""
    parts: list[str] = [_sources(), repr(extra), _knowledge(gm)]
    for n in gm.graph.nodes:
        val = n.meta.get("val")
        target = n.target if isinstance(n.target, str) else str(n.target)
        described = _describe(val) if n.op != "output" else ""
        parts.append(f"{n.op} {n.name} {target} {n.args} {n.kwargs} {described}")
        if n.op == "get_attr":
            parts.append(_constant(gm, str(n.target)))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=20).hexdigest()


def _describe(val: Any) -> str:
    if isinstance(val, torch.Tensor):
        return f"{val.dtype}{tuple(val.shape)}{val.stride()}"
    if isinstance(val, (tuple, list)):
        return "(" + ",".join(map(_describe, val)) + ")"
    if isinstance(val, torch.SymInt):
        from .lowering.symbols import expr_of
        return str(expr_of(val))
    return repr(val)


def environment(gm: torch.fx.GraphModule) -> Any:
    """The shape environment of the graph's symbols, or None."""
    values = [n.meta.get("val") for n in gm.graph.nodes]
    return env_of(*values, *(size for v in values if isinstance(v, torch.Tensor) for size in v.shape))


def _knowledge(gm: torch.fx.GraphModule) -> str:
    """What is known of the graph's symbols: two graphs of one text differ where a condition was decided in one of them."""
    env = environment(gm)
    return env.knowledge() if env is not None else ""


def _constant(gm: torch.fx.GraphModule, target: str) -> str:
    t: Any = gm
    for part in target.split("."):
        t = getattr(t, part)
    if not isinstance(t, torch.Tensor):
        return repr(t)
    data = t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
    return f"{_describe(t)} {hashlib.blake2b(data, digest_size=16).hexdigest()}"


def load(key: str) -> Any:
    """The stored `GraphData`, or None."""
    path = cache_dir(_FOLDER) / key
    try:
        data = path.read_bytes()
    except OSError:
        counters["cache"]["graph_miss"] += 1
        return None
    if len(data) < 20 or hashlib.blake2b(data[20:], digest_size=20).digest() != data[:20]:
        counters["cache"]["graph_torn"] += 1
        return None
    try:
        found = pickle.loads(data[20:])
    except Exception as error:  # noqa: BLE001  (a file of another version: compile again)
        log("cache").info("unreadable graph %s: %s", key, error)
        return None
    counters["cache"]["graph_hit"] += 1
    return found


def store(key: str, data: Any) -> None:
    """Keep `data`; a folder that cannot be written, or data that cannot be pickled, costs the next process a compilation."""
    try:
        body = pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
        write_atomic(cache_dir(_FOLDER) / key, hashlib.blake2b(body, digest_size=20).digest() + body)
    except (OSError, pickle.PicklingError, TypeError, AttributeError) as error:
        log("cache").info("graph not kept: %s", error)
