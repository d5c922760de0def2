"""When capture itself fails: a report file and one warning, and the call runs eagerly; under `LAMINA_STRICT=1` the error is raised."""

from __future__ import annotations

import dis
import io
import os
import platform
import sys
import time
import traceback
import types
import warnings
from typing import Any

import torch

from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.paths import cache_dir, private_dir, write_atomic

__all__ = ["is_strict", "report_capture_failure"]


def is_strict() -> bool:
    return os.environ.get("LAMINA_STRICT", "") not in ("", "0")


def report_capture_failure(code: types.CodeType, slots: tuple[Any, ...], error: BaseException) -> None:
    """Count, write a report, warn with its path."""
    counters["fallbacks"][f"internal: {type(error).__name__}"] += 1
    summary = str(error).splitlines()[0][:200] if str(error) else ""
    warnings.warn(
        f"lamina failed while capturing {code.co_qualname} ({type(error).__name__}: {summary}); it runs eagerly; "
        f"set LAMINA_STRICT=1 to raise the error instead. Report: {_write(_text(code, slots, error))}",
        RuntimeWarning,
        stacklevel=4,
    )


def _write(text: str) -> str | None:
    name = f"report-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1_000_000_000:09d}.txt"
    for folder in (cache_dir, private_dir):
        try:
            path = folder("reports") / name
            write_atomic(path, text.encode("utf-8", "replace"))
        except OSError:
            continue
        return str(path)
    return None


def _text(code: types.CodeType, slots: tuple[Any, ...], error: BaseException) -> str:
    listing = io.StringIO()
    dis.dis(code, file=listing, depth=0)
    arguments = [f"  {name}: {_describe(value)}" for name, value in zip(code.co_varnames, slots, strict=False)]
    return "\n".join(
        [
            f"lamina failed while capturing {code.co_qualname} ({code.co_filename}:{code.co_firstlineno})",
            f"python {sys.version.split()[0]}, torch {torch.__version__}, {platform.platform()}",
            "",
            "".join(traceback.format_exception(error)),
            "arguments:",
            *arguments,
            "",
            "bytecode:",
            listing.getvalue(),
        ]
    )


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)} on {value.device} requires_grad={value.requires_grad}"
    return f"{type(value).__name__} {value!r}"[:200] if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__
