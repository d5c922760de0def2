"""What happens when the compiler itself fails: a report file and one warning, and the program runs eagerly.

Callers raise the error instead under `LAMINA_STRICT=1` (`verifylevel.strict`). A report holds what a maintainer needs: versions,
where it happened, the traceback, and sections of text that the caller adds (the bytecode, the captured graph, the inputs).
"""

from __future__ import annotations

import platform
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .counters import counters
from .paths import cache_dir, private_dir, write_atomic

__all__ = ["describe_inputs", "report_failure", "write_report"]


def report_failure(where: str, error: BaseException, sections: Mapping[str, str], *, stacklevel: int = 3) -> None:
    """Count the failure, write its report, and warn with the path. `where` fits "lamina failed <where>"."""
    counters["fallbacks"][f"internal: {type(error).__name__}"] += 1
    path = write_report(where, error, sections)
    summary = str(error).splitlines()[0][:200] if str(error) else ""
    warnings.warn(
        f"lamina failed {where} ({type(error).__name__}: {summary}); it runs eagerly here; "
        f"set LAMINA_STRICT=1 to raise the error instead. Report: {path}",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def write_report(where: str, error: BaseException, sections: Mapping[str, str]) -> Path | None:
    """Path of the report, in the cache folder or a temporary one; None when nothing can be written."""
    name = f"report-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1_000_000_000:09d}.txt"
    text = _text(where, error, sections).encode("utf-8", "replace")
    for folder in (cache_dir, private_dir):
        try:
            path = folder("reports") / name
            write_atomic(path, text)
        except OSError:
            continue
        return path
    return None


def _text(where: str, error: BaseException, sections: Mapping[str, str]) -> str:
    torch_version = getattr(sys.modules.get("torch"), "__version__", "not imported")
    parts = [
        f"lamina failed {where}",
        f"python {sys.version.split()[0]}, torch {torch_version}, {platform.platform()}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    for title, text in sections.items():
        parts += [f"{title}:", text, ""]
    return "\n".join(parts)


def describe_inputs(values: Sequence[Any], names: Sequence[str] = ()) -> str:
    """One line per value: type and sizes of tensors, never their contents."""
    lines = []
    for index, value in enumerate(values):
        name = names[index] if index < len(names) else str(index)
        if hasattr(value, "dtype") and hasattr(value, "stride"):
            text = f"{value.dtype} {tuple(value.shape)} stride {tuple(value.stride())} requires_grad={value.requires_grad}"
        else:
            text = type(value).__name__ + (f" {value!r}" if isinstance(value, (bool, int, float)) else "")
        lines.append(f"  {name}: {text}")
    return "\n".join(lines)
