"""What happens when the compiler itself fails: a report file and one warning, or the error under `LAMINA_STRICT=1`.

The report holds what a maintainer needs: versions, where it happened, the traceback, the captured graph, the inputs' shapes.
"""

from __future__ import annotations

import platform
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.paths import cache_dir, private_dir, write_atomic

__all__ = ["report_failure", "write_report"]

_ISSUE_HINT = "the program runs eagerly here; set LAMINA_STRICT=1 to raise the error instead"


def report_failure(where: str, error: BaseException, *, graph: Any = None, inputs: Sequence[Any] = ()) -> None:
    """Write a report and warn with its path."""
    counters["fallbacks"][f"internal: {type(error).__name__}"] += 1
    path = write_report(where, error, graph=graph, inputs=inputs)
    summary = str(error).splitlines()[0][:200] if str(error) else ""
    warnings.warn(
        f"lamina failed in {where} ({type(error).__name__}: {summary}); {_ISSUE_HINT}. Report: {path}", RuntimeWarning, stacklevel=3
    )


def write_report(where: str, error: BaseException, *, graph: Any = None, inputs: Sequence[Any] = ()) -> Path | None:
    """Path of the report, in the cache folder or a temporary one; None when nothing can be written."""
    name = f"report-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1_000_000_000:09d}.txt"
    text = _text(where, error, graph, inputs).encode("utf-8", "replace")
    for folder in (cache_dir, private_dir):
        try:
            path = folder("reports") / name
            write_atomic(path, text)
        except OSError:
            continue
        return path
    return None


def _text(where: str, error: BaseException, graph: Any, inputs: Sequence[Any]) -> str:
    import torch

    parts = [
        f"lamina failed in {where}",
        f"python {sys.version.split()[0]}, torch {torch.__version__}, {platform.platform()}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    if inputs:
        parts += ["inputs:", *(f"  {index}: {_describe(value)}" for index, value in enumerate(inputs)), ""]
    if graph is not None:
        parts += ["captured graph:", _graph_text(graph)]
    return "\n".join(parts)


def _describe(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} stride {tuple(value.stride())} requires_grad={value.requires_grad}"
    return f"{type(value).__name__} {value!r}"[:200]


def _graph_text(graph: Any) -> str:
    try:
        from lamina_primops import print_graph

        return print_graph(graph)
    except Exception:  # the graph may be what is broken: whatever text there is helps
        return str(getattr(graph, "code", graph))
